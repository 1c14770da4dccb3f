"""The driver of a connection, as the connection and its topics see it: protocols for type checkers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from pywsapp._outbox.awaitables import LazyCoroutine
from pywsapp._topic_actions import TopicAction

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from pywsapp.topics.topic import Topic


class Authorization(Protocol):
    """The topics that `authorize` allows a connection."""

    def may(self, action: TopicAction, topic: str) -> LazyCoroutine[bool]:
        """See `Connection.may`."""

    def reauthorize(self) -> LazyCoroutine[None]:
        """See `Connection.reauthorize`."""

    def ask_presence(self, topic: Topic) -> Any:
        """Check whether the connection may be present in a topic; return what must be awaited, or None.

        Raises:
            NotAuthorized: it may not.
        """


class Subscriptions(Protocol):
    """The topics of a connection."""

    @property
    def authorization(self) -> Authorization | None:
        """The topics that `authorize` allows the connection; None if it has no `authorize`."""

    @property
    def is_full(self) -> bool:
        """Whether the connection subscribes to `Options.max_topics` topics already."""

    @property
    def start_soon(self) -> Callable[[Callable[[], Coroutine[Any, Any, None]]], None]:
        """A function that starts a task for the connection, which must end when the connection has ended."""

    def add(self, topic: Topic) -> None:
        """Note that the connection subscribes to a topic.

        Raises:
            TopicError: it subscribes to `Options.max_topics` topics already.
        """

    def remove(self, topic: Topic) -> None:
        """Note that the connection no longer subscribes to a topic, and call `on_unsubscribe` of the component."""


class Replies(Protocol):
    """Handles some messages before others that wait: the calls of a connection, which get their replies."""

    def take(self, message: str | bytes) -> bool:
        """Return whether a message does not wait; it is then handled."""

    def wake_one(self) -> None:
        """Have a task that waits for such a message read on."""

    def end(self) -> None:
        """Note that no message will come any more."""


class Driver(Protocol):
    """The driver of a connection: its lifecycle, until the connection has ended."""

    @property
    def topics(self) -> tuple[Topic, ...]:
        """The topics that the connection subscribes to, in the order of subscribing."""

    def close(self, code: int, reason: str) -> LazyCoroutine[None]:
        """See `Connection.close`."""

    def abort(self) -> None:
        """See `Connection.abort`."""

    def ping(self, payload: bytes | None) -> LazyCoroutine[float]:
        """See `Connection.ping`."""

    def ask_subscribe(self, topic: Topic, *, history: bool = False) -> Any:
        """Call `authorize` and `on_subscribe` of the component; return what must be awaited before subscribing.

        Args:
            topic: the topic.
            history: ask also whether the connection may read the topic's history.

        Raises:
            NotAuthorized: it may not.
            TopicError: it subscribes to `Options.max_topics` topics already. Awaiting the result raises it too.
            Exception: what `on_subscribe` raised.
        """

    def subscriptions(self) -> Subscriptions:
        """Return the topics of the connection, and what it may do with them."""

    def user_changed(self) -> None:
        """Note that the user of the request, or its expiry, was replaced."""

    def exceeded(self, limit: str) -> None:
        """Count that the connection has exceeded a limit, and log it if that is due.

        Args:
            limit: the name of the limit in `App.stats().limits`.
        """

    def wait_for_replies(self, calls: Replies, *, more: bool) -> None:
        """Pass replies to calls that wait; while they do, let `more` messages wait for the handler."""

    def read_replies(self) -> None:
        """Read on for replies, while a handler is busy."""

    def limit_messages(self, size: int | None) -> None:
        """Receive and queue no more than `size` bytes; None is the limit of the options again."""
