"""What subscribes to topics: the part of a connection that topics know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pywsapp.exceptions import TopicError

if TYPE_CHECKING:
    from pywsapp.topics.topic import Topic


class Subscriber:
    """The base of a connection.

    Args:
        max_topics: how many topics it may have.

    Attributes:
        component: what takes its messages, and decides what it may subscribe to; None before it is open.
    """

    __slots__ = ("_max_topics", "_topics", "component")

    def __init__(self, max_topics: int) -> None:
        self.component: Any = None
        self._max_topics = max_topics
        self._topics: dict[Topic, None] | None = None

    @property
    def topics(self) -> tuple[Topic, ...]:
        """The topics it subscribes to, in the order of subscribing; until after `on_close`."""
        return tuple(self._topics) if self._topics else ()

    def joined(self, topic: Topic) -> None:
        """Take note of a topic. Called by the topic.

        Raises:
            TopicError: it has as many as it may have.
        """
        if self._topics is None:
            self._topics = {}
        elif len(self._topics) >= self._max_topics:
            raise TopicError(f"a connection subscribes to at most {self._max_topics} topics")
        self._topics[topic] = None

    def left(self, topic: Topic) -> None:
        """Forget a topic. Called by the topic."""
        if self._topics is not None:
            self._topics.pop(topic, None)
