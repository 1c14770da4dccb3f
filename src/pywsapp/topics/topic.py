"""A topic: connections that get what is broadcast on it, in this process and in all others (Ratchet's Topic)."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pywsapp.connection import Connection
from pywsapp.protocol.prepared import PreparedMessage, Sendable
from pywsapp.waiting import DONE, Later

if TYPE_CHECKING:
    from pywsapp.topics.hub import Hub

Connections = Connection | Iterable[Connection]


class Topic:
    """A topic of an app, got from `App.topic`; for one name it is the same object for as long as somebody holds it.

    Iterating over it, its length and `in` are about the subscribers in this process.

    Attributes:
        name: its name, the same in all processes.
    """

    __slots__ = ("__weakref__", "_hub", "name", "subscribers")

    def __init__(self, name: str, hub: Hub) -> None:
        self.name = name
        self.subscribers: dict[Connection, None] = {}
        self._hub = hub

    def __repr__(self) -> str:
        return f"<Topic {self.name!r} with {len(self.subscribers)} subscribers here>"

    def __len__(self) -> int:
        return len(self.subscribers)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self.subscribers))

    def __contains__(self, conn: object) -> bool:
        return conn in self.subscribers

    def has(self, conn: Connection) -> bool:
        """Tell whether a connection subscribes to it (Ratchet's Topic::has)."""
        return conn in self.subscribers

    def add(self, conn: Connection) -> Awaitable[None]:
        """Let a connection subscribe (Ratchet's Topic::add). Never blocks.

        Its component's `on_subscribe` is asked first. A connection that is closed, or subscribes already, is left as it
        is. When the connection ends it unsubscribes by itself.

        Returns:
            an awaitable; awaiting it waits until messages from other processes come, which is at once without a broker
            or while it is away. Not awaiting it is fine, unless `on_subscribe` is an async def: that runs on awaiting.

        Raises:
            TopicError: the connection has `Options.max_topics` already.
            Exception: what `on_subscribe` raised, on calling or on awaiting; the connection does not subscribe then.
        """
        if conn.closed or conn in self.subscribers:
            return DONE  # type: ignore[no-any-return]
        asked = conn.component.on_subscribe(conn, self) if conn.component is not None else None
        if isinstance(asked, Awaitable):
            return Later(lambda: self._add_when_allowed(conn, asked))
        return self._add(conn)

    async def _add_when_allowed(self, conn: Connection, asked: Awaitable[Any]) -> None:
        await asked
        if not conn.closed and conn not in self.subscribers:
            await self._add(conn)

    def _add(self, conn: Connection) -> Awaitable[None]:
        conn.joined(self)
        first = not self.subscribers
        self.subscribers[conn] = None
        return self._hub.joined(self, first=first)

    def remove(self, conn: Connection) -> None:
        """Let a connection unsubscribe, if it subscribes (Ratchet's Topic::remove); `on_unsubscribe` is told."""
        if conn not in self.subscribers:
            return
        del self.subscribers[conn]
        conn.left(self)
        if not self.subscribers:
            self._hub.deserted(self)
        if conn.component is not None:
            conn.component.on_unsubscribe(conn, self)

    def broadcast(
        self,
        message: Sendable | PreparedMessage,
        exclude: Connections = (),
        eligible: Connections | None = None,
        *,
        compress: bool | None = None,
    ) -> Awaitable[None]:
        """Send a message to all subscribers, in this process and in all others (Ratchet's Topic::broadcast).

        It is encoded once for each wire format and process. Never blocks; those in this process have it queued when
        this returns.

        Args:
            message: text or bytes.
            exclude: a connection or several that do not get it, usually the sender.
            eligible: only these get it, as far as they subscribe; as they are connections of this process, it then
                stays here. Empty means nobody, where Ratchet means everybody; None means everybody.
            compress: as for `Connection.send`.

        Returns:
            an awaitable; awaiting it waits until the broker has taken the message. Not awaiting it is fine: what a
            broker does not take is counted and logged.

        Raises:
            BrokerUnavailable: on awaiting, if it has not taken it.
            TopicError: it is larger than what the broker carries.
            TypeError: the message is neither text nor bytes.
            ConfigurationError: the text has no UTF-8 form.
        """
        prepared = message if isinstance(message, PreparedMessage) else PreparedMessage(message, compress=compress)
        if eligible is not None:
            chosen = [eligible] if isinstance(eligible, Connection) else eligible
            self.deliver(prepared, exclude, [conn for conn in chosen if conn in self.subscribers])
            return DONE  # type: ignore[no-any-return]
        return self._hub.broadcast(self, prepared, exclude)

    def deliver(
        self, message: PreparedMessage, exclude: Connections = (), to: Iterable[Connection] | None = None
    ) -> None:
        """Send a message to subscribers in this process. Called by the hub."""
        if isinstance(exclude, Connection):
            exclude = (exclude,)
        left_out = set(exclude)
        for conn in list(self.subscribers if to is None else to):
            if conn not in left_out:
                conn.send(message)
