"""Transports move bytes: sockets and streams where the event loop has no transports, and memory for tests."""
