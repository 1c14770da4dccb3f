"""Attacks on a server, with other clients that measure whether it still serves them."""
