"""Components that speak protocols for topics: their clients need no code of the application on the server."""

from pywsapp.protocols.topic_component import TopicComponent

__all__ = ["TopicComponent"]
