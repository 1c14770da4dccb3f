"""Users: sending to all connections of one user, counting them and closing them, in all processes."""
