"""Occupancy: which topics have subscribers and which users are connected, reported once by all processes."""
