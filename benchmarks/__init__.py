"""Benchmarks of pywsapp beside other WebSocket servers; README.md explains them."""
