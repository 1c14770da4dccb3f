"""The topics that one connection subscribes to, and what is left to await of unsubscribing."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from pywsapp.exceptions import TopicError

if TYPE_CHECKING:
    from pywsapp.topics.topic import Topic


class Subscriptions:
    """The topics of one connection.

    Args:
        max_topics: how many there may be.

    Attributes:
        topics: the topics, in the order of subscribing.
        hooks: what async `on_unsubscribe` calls returned, in their order; the handler task awaits it.
    """

    __slots__ = ("_max_topics", "hooks", "topics")

    def __init__(self, max_topics: int) -> None:
        self.topics: dict[Topic, None] = {}
        self.hooks: deque[Awaitable[Any]] = deque()
        self._max_topics = max_topics

    def add(self, topic: Topic) -> None:
        """Add a topic.

        Raises:
            TopicError: there are as many as there may be.
        """
        if len(self.topics) >= self._max_topics:
            raise TopicError(f"a connection subscribes to at most {self._max_topics} topics")
        self.topics[topic] = None
