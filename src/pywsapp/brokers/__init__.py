"""Brokers carry messages between processes and machines."""
