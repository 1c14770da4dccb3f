"""A topic: connections that get what is broadcast on it, in this process and in all others (Ratchet's Topic)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pywsapp._outbox.awaitables import ALREADY_DONE, LazyAwaitable
from pywsapp._protocol.prepared import PreparedMessage, Sendable
from pywsapp.brokers.base import Position
from pywsapp.connection import Connection, send_prepared_to_all
from pywsapp.exceptions import TopicError
from pywsapp.topics.history.recovery import Recovery
from pywsapp.topics.history.rules import HistoryRule
from pywsapp.topics.presence import Present

if TYPE_CHECKING:
    from pywsapp.topics.registry import Hub

Connections = Connection | Iterable[Connection]

#: Stands for what a subscriber has seen while that is being found out.
_NOT_YET = Position("not yet", 0)


class Topic:
    """A topic of an app, got from `App.topic`; for one name it is the same object for as long as somebody holds it.

    Iterating over it, its length and `in` are about the subscribers in this process.

    Attributes:
        name: its name, the same in all processes.
        history: what is kept of its messages; None if nothing is.
    """

    __slots__ = ("__weakref__", "_hub", "history", "name", "subscribers")

    def __init__(self, name: str, hub: Hub, history: HistoryRule | None = None) -> None:
        self.name = name
        self.history = history
        self.subscribers: dict[Connection, Position | None] = {}  # with what they were given of the history
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
        if not conn.is_open or conn in self.subscribers:
            return ALREADY_DONE  # type: ignore[no-any-return]
        asked = self._ask(conn)
        if isinstance(asked, Awaitable):
            return LazyAwaitable(lambda: self._add_when_allowed(conn, asked))
        return self._add_if_open(conn)

    def _ask(self, conn: Connection) -> Any:
        return conn._driver.ask_subscribe(self) if conn._driver is not None else None

    async def _add_when_allowed(self, conn: Connection, asked: Awaitable[Any]) -> None:
        await asked
        await self._add_if_open(conn)

    def _add_if_open(self, conn: Connection) -> Awaitable[None]:
        if not conn.is_open or conn in self.subscribers:  # by its on_subscribe, or meanwhile
            return ALREADY_DONE  # type: ignore[no-any-return]
        return self._add(conn)

    def _add(self, conn: Connection, seen: Position | None = None) -> Awaitable[None]:
        if conn._driver is not None:
            conn._driver.add_topic(self)
        first = not self.subscribers
        self.subscribers[conn] = seen
        return self._hub.joined(self, first=first)

    async def recover(self, conn: Connection, since: str | None) -> Recovery:
        """Let a connection subscribe to a topic with a history, and send it what it has missed.

        `on_subscribe` is asked as by `add`. Then come, in order and without a gap, the messages since a position, each
        as the `wrap` of `App.history` makes it, and those that are broadcast from now on. If not all of them are kept,
        what `wrap` makes of that comes first. Blocks until the client has taken what it has missed, but for what its
        `Options.high_water` allows.

        Args:
            conn: which is not subscribed yet.
            since: the position of the last message that the client has seen; None if it has seen none, and is given
                all that is kept.

        Returns:
            where it stands, and whether it has all since then.

        Raises:
            TopicError: the topic keeps no history, the position is none, or the connection cannot subscribe.
            BrokerUnavailable: the history cannot be read; the connection does not subscribe then.
        """
        if self.history is None:
            raise TopicError(f"{self.name!r} keeps no history; App.history says which topics do")
        position = None if since is None else Position.parse(since)
        if conn in self.subscribers:
            raise TopicError(f"the connection subscribes to {self.name!r} already")
        asked = self._ask(conn)
        if isinstance(asked, Awaitable):
            await asked
        if not conn.is_open or conn in self.subscribers:
            raise TopicError("the connection is closed, or subscribed meanwhile")
        try:
            await self._add(conn, _NOT_YET)
            return await self._send_missed(conn, position)
        except BaseException:
            self.remove(conn)
            raise

    async def _send_missed(self, conn: Connection, position: Position | None) -> Recovery:
        """Send what is behind a position, as fast as the client takes it, until there is no more."""
        complete, count, behind = True, 0, True
        while behind:
            kept, publications = await self._hub.missed(self, position)
            position, complete, behind = kept.position, complete and kept.complete, False
            count -= not kept.complete  # then the first one tells that
            for publication in publications:
                if self.subscribers.get(conn) is not _NOT_YET:
                    break  # it has left meanwhile
                count += 1
                sent = conn.send(publication)
                if sent is not ALREADY_DONE:
                    await sent
                    behind = True
        if self.subscribers.get(conn) is _NOT_YET:
            self.subscribers[conn] = position
        return Recovery(str(position), complete, count)

    def track(self, conn: Connection, key: str, meta: Any = None) -> None:
        """Say that a subscriber is a user, or what is said of it now; for topics of `App.on_presence`.

        All processes learn of it within about a tenth of a second. It ends when the connection leaves the topic.

        Args:
            conn: which subscribes.
            key: the user's name, the same for all of its connections.
            meta: what others see of it, something for JSON of at most 4 KiB.

        Raises:
            TopicError: the connection does not subscribe, there is no presence on this topic, or a value cannot be.
        """
        if conn not in self.subscribers:
            raise TopicError(f"only who subscribes to {self.name!r} can be present there")
        if not self._hub.has_presence(self.name):
            raise TopicError(f"there is no presence on {self.name!r}; App.on_presence says where there is")
        self._hub.presence.track(self.name, conn, key, meta, time.time())

    def untrack(self, conn: Connection) -> None:
        """Say that a subscriber is no user any more; nothing if it was none."""
        self._hub.presence.untrack(self.name, conn)

    def present(self) -> dict[str, Present]:
        """Give who is there, in all processes and on all machines, by the users' keys; as far as it is known here.

        That is known in a process that has a subscriber of the topic; of the first one, awaiting `add` waits for it.
        """
        return self._hub.presence.present(self.name)

    def remove(self, conn: Connection) -> None:
        """Let a connection unsubscribe, if it subscribes (Ratchet's Topic::remove); `on_unsubscribe` is told."""
        if conn not in self.subscribers:
            return
        del self.subscribers[conn]
        self._hub.presence.untrack(self.name, conn)
        if not self.subscribers:
            self._hub.deserted(self)
        if conn._driver is not None:
            conn._driver.remove_topic(self)

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
            TopicError: it is larger than what the broker carries, or `exclude` or `eligible` is given for a topic with
                a history, of which all have to see all.
            TypeError: the message is neither text nor bytes.
            ConfigurationError: the text has no UTF-8 form.
        """
        prepared = message if isinstance(message, PreparedMessage) else PreparedMessage(message, compress=compress)
        left_out = frozenset((exclude,) if isinstance(exclude, Connection) else exclude)
        if self.history is not None and (eligible is not None or left_out):
            raise TopicError(f"{self.name!r} keeps a history, so all its subscribers get all its messages")
        if eligible is None:
            return self._hub.broadcast(self, prepared, left_out)
        for conn in dict.fromkeys((eligible,) if isinstance(eligible, Connection) else eligible):
            if conn in self.subscribers and conn not in left_out:
                conn.send(prepared)
        return ALREADY_DONE  # type: ignore[no-any-return]

    def deliver(self, message: PreparedMessage, exclude: frozenset[Connection] = frozenset()) -> None:
        """Send a message to subscribers in this process. Called by the hub."""
        send_prepared_to_all(list(self.subscribers), message, exclude)

    def deliver_kept(self, message: PreparedMessage, position: Position) -> None:
        """Send a message that stands there to subscribers in this process who have not seen it. Called by the hub."""
        for conn, seen in list(self.subscribers.items()):
            if seen is None or (
                seen is not _NOT_YET and (seen.epoch != position.epoch or seen.offset < position.offset)
            ):
                conn._outbox.send_prepared(message)
