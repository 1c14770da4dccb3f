"""Who listens to what: topics in this process, and the way of their messages to other processes and machines."""
