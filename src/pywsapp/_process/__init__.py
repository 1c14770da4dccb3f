"""The processes of a program: signals, worker processes and logging."""
