"""The application of a `FakeConnection`: topics and users without an App that runs."""

from __future__ import annotations

from typing import Any

from pywsapp._outbox.awaitables import LazyCoroutine
from pywsapp._protocol.opcodes import TEXT
from pywsapp._protocol.prepared import PreparedMessage
from pywsapp.connection import Connection
from pywsapp.topics.registry import TopicRegistry
from pywsapp.topics.topic import Topic
from pywsapp.topics.users.users import Users


class FakeApp:
    """The `conn.app` of a `FakeConnection`. Several connections can share one, and get each other's broadcasts.

    Attributes:
        published: the names and messages of all broadcasts, the first one first.
    """

    def __init__(self) -> None:
        self.published: list[tuple[str, str | bytes]] = []
        self._registry = _RecordingRegistry(self.published)
        self._registry.presence.watchers.add("*", lambda topic, diff: None)  # `Topic.track` needs it

    def topic(self, name: str) -> Topic:
        """Return the topic of a name.

        Raises:
            TopicError: the name is not valid.
        """
        return self._registry.topic(name)

    @property
    def users(self) -> Users:
        """The users; no connection belongs to one here."""
        return Users(self._registry.users)


class _RecordingRegistry(TopicRegistry):
    """The topics, which record their broadcasts.

    Args:
        published: gets each broadcast.
    """

    def __init__(self, published: list[tuple[str, str | bytes]]) -> None:
        super().__init__()
        self._published = published
        self._has_warned = True  # that the App does not run is known here

    def broadcast(
        self,
        topic: Topic,
        message: PreparedMessage,
        exclude: frozenset[Connection] = frozenset(),
        message_id: str | None = None,
    ) -> LazyCoroutine[None]:
        text: Any = message.payload.decode() if message.opcode == TEXT else message.payload
        self._published.append((topic.name, text))
        return super().broadcast(topic, message, exclude, message_id)
