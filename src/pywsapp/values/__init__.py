"""Floor 0: the plain values that every other floor speaks in. Nothing here knows of I/O."""
