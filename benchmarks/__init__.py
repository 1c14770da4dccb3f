"""Measures pywsapp beside other WebSocket servers; README.md says how."""
