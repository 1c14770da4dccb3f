"""The client of `pywsapp.topics.v1`; docs/reference/topics-protocol.md specifies the protocol.

`client` and `subscription` are what users hold, and `driver` drives both over the connections of a `Reconnecting`.
"""
