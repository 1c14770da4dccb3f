"""Presence: which users are in a topic, in all processes and on all machines."""
