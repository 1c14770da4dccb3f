"""Floor 1: WebSocket without I/O. Bytes in, events and bytes out; time is an argument."""
