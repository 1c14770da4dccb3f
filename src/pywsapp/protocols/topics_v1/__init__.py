"""The protocol `pywsapp.topics.v1`; docs/reference/topics-protocol.md specifies it."""
