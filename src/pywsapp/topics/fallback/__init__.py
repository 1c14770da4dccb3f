"""Batches of messages of fallback connections: reading them, and passing them to the process that has the connection."""
