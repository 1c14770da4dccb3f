"""A topic: the connections that get its messages, in this process and in all others (Ratchet's Topic)."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from pywsapp._messages.objects import PreparedObject, prepared_object
from pywsapp._outbox.awaitables import ALREADY_DONE, LazyAwaitable, LazyCoroutine
from pywsapp._protocol.prepared import PreparedMessage, Sendable
from pywsapp.brokers.base import Kept, Position
from pywsapp.brokers.message_ids import check_message_id
from pywsapp.codecs.base import Codec
from pywsapp.codecs.kinds import Encodable
from pywsapp.connection import Connection
from pywsapp.exceptions import ConfigurationError, TopicError
from pywsapp.topics.delivery import RECOVERING, DeliveryForm, Groups, Subscribers, deliver_in_forms, form_of
from pywsapp.topics.history.recovery import Recovery, has_more, position_before
from pywsapp.topics.history.rules import HistoryRule
from pywsapp.topics.presence.topic_presence import Present
from pywsapp.topics.replays import GrowingNumbers

if TYPE_CHECKING:
    from pywsapp.topics.registry import TopicRegistry

Connections = Connection | Iterable[Connection]


class _Page(NamedTuple):
    """The sent part of one page of a history: up to which position, and whether that is the whole page."""

    position: Position
    complete: bool
    messages: int
    is_whole: bool


class Topic:
    """A topic of an app, created by `App.topic`; as long as it is referenced, one name has one object.

    Iteration, `len` and `in` are about the subscribers in this process.

    Attributes:
        name: its name, the same in all processes.
        history: how its messages are kept; None if they are not.
        codec: the codec in which it carries objects; None for JSON.
    """

    __slots__ = ("__weakref__", "_groups", "_registry", "_subscribers", "codec", "history", "name")

    def __init__(
        self, name: str, registry: TopicRegistry, history: HistoryRule | None = None, codec: Codec | None = None
    ) -> None:
        self.name = name
        self.history = history
        self.codec = codec
        self._registry = registry
        self._subscribers: Subscribers = {}
        self._groups: Groups | None = None  # by their delivery forms, if one of them has such a form

    def __repr__(self) -> str:
        return f"<Topic {self.name!r} with {len(self)} subscribers here>"

    def __len__(self) -> int:
        return len(self._subscribers)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._subscribers))

    def __contains__(self, conn: object) -> bool:
        return conn in self._subscribers

    def has(self, conn: Connection) -> bool:
        """Return whether a connection subscribes to the topic (Ratchet's Topic::has)."""
        return conn in self

    # -- subscribing -------------------------------------------------------------------------------------------------

    def add(self, conn: Connection) -> LazyCoroutine[None]:
        """Subscribe a connection (Ratchet's Topic::add). Never blocks.

        `authorize` is asked first, and then the `on_subscribe` of its component is called. A closed connection, or one
        that subscribes already, is left as it is. A connection unsubscribes by itself when it ends.

        Returns:
            an awaitable. Awaiting it waits until the broker delivers the topic's messages from other processes; without
            a broker, or while it is unavailable, it does not wait. It need not be awaited, unless `authorize` or
            `on_subscribe` is an async def, which runs when it is awaited.

        Raises:
            NotAuthorized: `authorize` refuses it, on calling or on awaiting.
            TopicError: the connection has `Options.max_topics` topics already.
            ConfigurationError: the caller runs in another thread.
            Exception: an exception of `on_subscribe`, on calling or on awaiting; the connection is not subscribed then.
        """
        conn._outbox.check_thread("topic.add")
        if not conn.is_open or conn in self._subscribers:
            return ALREADY_DONE
        asked = self._ask(conn)
        if isinstance(asked, Awaitable):
            return LazyAwaitable(lambda: self._add_when_allowed(conn, asked))
        return self._add_if_open(conn)

    def remove(self, conn: Connection) -> None:
        """Unsubscribe a connection, if it subscribes (Ratchet's Topic::remove), and call `on_unsubscribe`.

        Raises:
            ConfigurationError: the caller runs in another thread.
        """
        conn._outbox.check_thread("topic.remove")
        if conn not in self._subscribers:
            return
        del self._subscribers[conn]
        self._registry.subscriptions -= 1
        if self._groups is not None:
            self._groups.remove(conn)
            if not self._groups.is_needed:
                self._groups = None
        self._registry.presence.untrack(self.name, conn)
        if not self._subscribers:
            self._registry.stop_receiving(self)
        if conn._driver is not None:
            conn._driver.subscriptions().remove(self)

    def _ask(self, conn: Connection) -> Any:
        return None if conn._driver is None else conn._driver.ask_subscribe(self)

    async def _add_when_allowed(self, conn: Connection, asked: Awaitable[Any]) -> None:
        await asked
        await self._add_if_open(conn)

    def _add_if_open(self, conn: Connection) -> LazyCoroutine[None]:
        if not conn.is_open or conn in self._subscribers:  # by its on_subscribe, or meanwhile
            return ALREADY_DONE
        return self._add(conn)

    def _add(
        self, conn: Connection, sent: Position | None = None, form: DeliveryForm | None = None
    ) -> LazyCoroutine[None]:
        """Subscribe a connection.

        Args:
            conn: the connection.
            sent: the position up to which its recovery has sent it the history; None without a recovery.
            form: how it gets messages; None is the form of the connection.
        """
        if conn._driver is not None:
            conn._driver.subscriptions().add(self)
        is_first = not self._subscribers
        form = form or form_of(conn)
        if self._groups is None and form is not None:
            self._groups = Groups(self._subscribers)
        if self._groups is not None:
            self._groups.add(conn, form)
        self._registry.subscriptions += conn not in self._subscribers
        self._subscribers[conn] = sent
        if is_first:
            self._registry.start_receiving(self, self._subscribers)
        return self._registry.received(self)

    # -- recovering --------------------------------------------------------------------------------------------------

    async def recover(self, conn: Connection, since: str | None, *, last: int | None = None) -> Recovery:
        """Subscribe a connection to a topic with a history, and send it the messages that it has missed.

        `authorize` is asked for "subscribe" and "history", and `on_subscribe` is called. The connection then gets, in
        order and without a gap, the messages after a position and those that are broadcast from now on, each as the
        `wrap` of `App.history` makes it. If the history no longer has some of them, it first gets the notice that
        `wrap` makes. Blocks until the client has read the missed messages, except for the last `Options.high_water`
        bytes.

        Args:
            conn: the connection, which must not subscribe yet.
            since: the position of the last message that the client has; None if it has none, which sends all kept
                messages.
            last: send no more than the last so many messages to a client without a position; 0 for none.

        Returns:
            the position that the client has reached, and whether it got all messages since then.

        Raises:
            ConfigurationError: the topic keeps no history, or the caller runs in another thread.
            NotAuthorized: `authorize` refuses one of the two.
            TopicError: the position is invalid, or the connection cannot subscribe.
            BrokerUnavailable: the history cannot be read; the connection is not subscribed then.
        """
        conn._outbox.check_thread("topic.recover")
        if self.history is None:
            raise ConfigurationError(f"{self.name!r} keeps no history; add App.history for it before the app runs")
        position = None if since is None else Position.parse(since)
        if conn in self._subscribers:
            raise TopicError(f"the connection subscribes to {self.name!r} already")
        asked = None if conn._driver is None else conn._driver.ask_subscribe(self, history=True)
        if isinstance(asked, Awaitable):
            await asked
        if not conn.is_open or conn in self._subscribers:
            raise TopicError("the connection is closed, or subscribed meanwhile")
        try:
            await self._add(conn, RECOVERING)
            return await self._send_missed(conn, position, last)
        except BaseException:
            self.remove(conn)
            raise

    async def _send_missed(self, conn: Connection, position: Position | None, last: int | None = None) -> Recovery:
        """Send what comes after a position as fast as the client reads, until the client has all of it.

        The history is read in pages. Messages that do not fit into the outbox are read again later.
        """
        outbox, seen = conn._outbox, GrowingNumbers()
        complete, count = True, 0
        while True:
            await outbox._wait_drained()
            kept = await self._registry.history.read_missed(self.name, position, outbox.high_water, last)
            if self._subscribers.get(conn) is not RECOVERING or not conn.is_open:
                return Recovery(str(position or position_before(kept)), complete=False, messages=count)
            # Other messages can have filled the outbox meanwhile. The page is then dropped, and read again later.
            if outbox.is_writable and outbox.size <= outbox.high_water:
                page = self._send_page(conn, kept, seen)
                position, complete, count = page.position, complete and page.complete, count + page.messages
                if page.is_whole and not has_more(kept):
                    break
            del kept
        self._subscribers[conn] = position
        return Recovery(str(position), complete, count)

    def _send_page(self, conn: Connection, kept: Kept, seen: GrowingNumbers) -> _Page:
        """Send messages of the history until the outbox has enough."""
        complete, count = True, 0
        form = None if self._groups is None else self._groups.form_of(conn)
        for position, message, is_lost in self._registry.history.prepare_missed(self.name, kept, seen, form):
            complete, count = complete and not is_lost, count + (not is_lost)
            if message is not None and _send(conn, message) is not ALREADY_DONE:
                return _Page(position, complete, count, is_whole=False)
        return _Page(kept.position if not has_more(kept) else position, complete, count, is_whole=True)

    # -- presence ----------------------------------------------------------------------------------------------------

    def track(self, conn: Connection, key: str, meta: Any = None) -> LazyCoroutine[None]:
        """Mark a subscriber as a user, or change the user's meta; for the topics of `App.presence`. Never blocks.

        `authorize` is asked for "presence" first. All processes know it within about a tenth of a second. It ends when
        the connection unsubscribes.

        Args:
            conn: a subscriber.
            key: the user's key, the same for all connections of the user.
            meta: what others see of the user, serialisable as JSON, at most 4 KiB.

        Returns:
            an awaitable. It need not be awaited, unless `authorize` is an async def, which runs when it is awaited.

        Raises:
            NotAuthorized: `authorize` refuses it, on calling or on awaiting.
            ConfigurationError: the topic has no presence, or the caller runs in another thread.
            TopicError: the connection does not subscribe, or the key or the meta is invalid.
        """
        conn._outbox.check_thread("topic.track")
        if not self._registry.presence.covers(self.name):
            raise ConfigurationError(f"{self.name!r} has no presence; add App.presence for it before the app runs")
        authorization = None if conn._driver is None else conn._driver.subscriptions().authorization
        asked = authorization.ask_presence(self) if authorization is not None and conn in self._subscribers else None
        if asked is not None:
            return LazyAwaitable(lambda: self._track_when_allowed(asked, conn, key, meta))
        self._track(conn, key, meta)
        return ALREADY_DONE

    async def _track_when_allowed(self, asked: Awaitable[None], conn: Connection, key: str, meta: Any) -> None:
        await asked
        if conn.is_open:
            self._track(conn, key, meta)

    def _track(self, conn: Connection, key: str, meta: Any) -> None:
        if conn not in self._subscribers:
            raise TopicError(f"only a subscriber of {self.name!r} can be present there")
        self._registry.presence.track(self.name, conn, key, meta)

    def untrack(self, conn: Connection) -> None:
        """Remove a subscriber from the present users, if it is one of them.

        Raises:
            ConfigurationError: the caller runs in another thread.
        """
        conn._outbox.check_thread("topic.untrack")
        self._registry.presence.untrack(self.name, conn)

    def present(self) -> dict[str, Present]:
        """Return the present users of all processes and machines by their keys, as far as this process knows them.

        A process knows them while it has a subscriber of the topic. For the first subscriber, awaiting `add` waits for
        them.
        """
        return self._registry.presence.present(self.name)

    # -- broadcasting ------------------------------------------------------------------------------------------------

    def broadcast(
        self,
        message: Sendable | PreparedMessage | Encodable,
        exclude: Connections = (),
        eligible: Connections | None = None,
        *,
        compress: bool | None = None,
        message_id: str | None = None,
    ) -> LazyCoroutine[None]:
        """Send a message to all subscribers, in this process and in all others (Ratchet's Topic::broadcast).

        It is encoded once for each wire format and process. Never blocks. When this returns, the message is queued for
        the subscribers in this process.

        Args:
            message: text, bytes, or an object: a dict, a list, an object of a class, or any other value except None
                that has a form in the topic's codec. The topic carries an object as JSON, or in the codec of
                `App.topic_codec`; connections with another codec get it in theirs.
            exclude: a connection or several that do not get it, usually the sender.
            eligible: only these get it, if they subscribe. They are connections of this process, so the message stays
                in it. None means all subscribers; empty means none, where Ratchet means all.
            compress: as for `Connection.send`.
            message_id: an id under which subscribers get the message once, however often it is broadcast; 1 to 64
                letters, digits, dots, colons, hyphens and underscores. Each process recognises the last 20,000 ids, and
                each history the last 500.

        Returns:
            an awaitable. Awaiting it waits until the broker has accepted the message. It need not be awaited: failed
            messages are counted and logged.

        Raises:
            BrokerUnavailable: on awaiting, if the broker has not accepted it.
            OutcomeUnknown: on awaiting, if the broker may have accepted it; broadcast it again with the same id.
            TopicError: it is larger than the broker's limit.
            TypeError: the message is neither text, bytes, nor an object with a form in the topic's codec.
            ValueError: a part of the object is out of the range of the topic's codec.
            ConfigurationError: the text has no UTF-8 form; the id is invalid; the caller runs in another thread; or
                `exclude` or `eligible` is given for a topic with a history, which all subscribers see in full.
        """
        self._registry.check_thread("topic.broadcast")
        try:
            prepared = message if isinstance(message, PreparedMessage) else PreparedMessage(message, compress=compress)  # type: ignore[arg-type]
        except TypeError:
            prepared = prepared_object(message, compress, self.codec)
        left_out = frozenset((exclude,) if isinstance(exclude, Connection) else exclude)
        if self.history is not None and (eligible is not None or left_out):
            raise ConfigurationError(
                f"{self.name!r} keeps a history, so all its subscribers get all its messages; "
                "leave out `exclude` and `eligible`"
            )
        if eligible is None:
            if message_id is not None:
                check_message_id(message_id)
            return self._registry.broadcast(self, prepared, left_out, message_id)
        found = dict.fromkeys((eligible,) if isinstance(eligible, Connection) else eligible)
        self._send_to_some([conn for conn in found if conn in self._subscribers and conn not in left_out], prepared)
        return ALREADY_DONE

    def _send_to_some(self, connections: list[Connection], message: PreparedMessage) -> None:
        """Send a message of a topic without a history to some of its subscribers, each in its form."""
        groups = None
        if self._groups is not None:
            groups = Groups(())
            for conn in connections:
                groups.add(conn, self._groups.form_of(conn))
        if groups is not None and groups.is_needed:
            deliver_in_forms(self.name, groups, message)
            return
        for conn in connections:
            _send(conn, message)


def _send(conn: Connection, message: PreparedMessage) -> LazyCoroutine[None]:
    """Send a message to one connection; an object in the codec of the connection."""
    if type(message) is PreparedObject and conn._messages is None:
        message = message.form_for(None)
    return conn.send(message)
