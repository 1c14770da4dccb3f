"""Limits of what clients can do: token buckets, tables of them, and reports of what exceeded a limit."""
