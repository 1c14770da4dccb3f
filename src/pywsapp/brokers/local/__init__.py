"""The local bus: workers of one machine exchange messages over Unix sockets."""
