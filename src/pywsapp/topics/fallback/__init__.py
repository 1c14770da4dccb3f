"""Batches of messages of fallback connections, and their way to the process that has the connection."""
