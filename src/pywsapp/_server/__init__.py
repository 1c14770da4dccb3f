"""Listening, transports, and HTTP before the upgrade."""
