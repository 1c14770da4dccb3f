"""A chat with rooms to try the library with: `python -m pywsapp demo`."""
