"""The demo, a chat with rooms: `pywsapp demo` runs it."""
