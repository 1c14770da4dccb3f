"""Frames that wait to be sent, and what can be awaited of them."""
