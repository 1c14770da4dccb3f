"""The local bus: the worker processes of one machine exchange messages over Unix sockets."""
