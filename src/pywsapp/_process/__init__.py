"""Worker processes, signals and logging of a program."""
