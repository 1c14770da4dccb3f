"""Components around components."""
