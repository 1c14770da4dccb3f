"""The status page of an App: its numbers, connections and topics, live, and actions on connections."""
