"""Transports, which move bytes: over sockets and streams where the event loop has none, and in memory for tests."""
