"""The views of a subscription: messages with certain values, or only the newest ones for a slow client.

Both are delivery forms around that of the protocol. Subscriptions with the same filter are one group: a message is
looked at once for all of them.

A client of `Newest` that reads as fast as messages come gets all of them. When more than `Options.high_water` bytes
wait for it, further messages wait in its `Backlog`, where a newer one takes the place of an older one with the same
key. They are sent when the client has read what was sent before. The kernel would take megabytes for a slow client, so
the backlog limits that too.
"""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pywsapp._lifecycle.cancellation import raise_if_cancelled
from pywsapp._messages.objects import default_topic_codec, is_object_content, object_in
from pywsapp.exceptions import InvalidMessage
from pywsapp.protocols.errors import RequestError
from pywsapp.topics.delivery import DeliveryForm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pywsapp._protocol.prepared import PreparedMessage
    from pywsapp._transports.base import Transport
    from pywsapp.brokers.base import Position
    from pywsapp.connection import Connection
    from pywsapp.topics.codec import Content
    from pywsapp.topics.presence.topic_presence import PresenceDiff

#: Fields of a filter, and values of each.
MAX_FIELDS, MAX_VALUES = 8, 100
#: Characters of the name of a field, and of a text that is a value.
MAX_NAME, MAX_TEXT = 100, 200
#: Messages that wait for one slow client.
MAX_WAITING = 1000
#: The option of a socket with the unsent bytes from which on it takes no more; Linux and macOS have it.
_UNSENT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)
_SCALARS = (str, int, float, bool, type(None))
#: The content that was read last, with its value: the same message is looked at for several groups.
_last_read: tuple[Content, dict[str, Any] | None] | None = None


def object_of(content: Content) -> dict[str, Any] | None:
    """Return the object that a message is; None if it is something else."""
    global _last_read
    if not is_object_content(content):
        return None
    if _last_read is None or _last_read[0] is not content:
        try:
            value = object_in(content)
        except InvalidMessage:  # another program can have published anything
            value = None
        _last_read = content, value if isinstance(value, dict) else None
    return _last_read[1]


def _comparable(value: Any) -> Any:
    """Return what is equal for equal values of JSON only: True is not 1, although Python says so.

    Dates and bytes of other codecs are compared as JSON has them. None stands for all values without a form in JSON.
    """
    if isinstance(value, _SCALARS):
        return type(value) is bool, value
    try:
        plain = json.loads(default_topic_codec().encode(value))
        return (False, plain) if isinstance(plain, str) else json.dumps(plain, sort_keys=True)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None


class Filter:
    """Which messages a subscription gets: objects that have one of the values in each of the fields.

    Args:
        fields: the values of each field, from the client.
        allowed: the fields by which clients can filter.

    Raises:
        RequestError: another field is named.
    """

    def __init__(self, fields: dict[str, list[Any]], allowed: Sequence[str]) -> None:
        for name in fields:
            if name not in allowed:
                raise RequestError("filter_not_allowed", f"messages cannot be filtered by {name[:MAX_NAME]!r}")
        self.fields = {name: frozenset(map(_comparable, values)) for name, values in fields.items()}
        self._key = frozenset(self.fields.items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filter) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def matches(self, content: Content) -> bool:
        """Return whether the subscription gets a message."""
        found = object_of(content)
        return found is not None and all(
            name in found and _comparable(found[name]) in values for name, values in self.fields.items()
        )


class View(DeliveryForm):
    """A form around another one.

    Args:
        inner: the other one.
        key: what makes two views of the same class and the same inner form equal.
    """

    def __init__(self, inner: DeliveryForm, key: Any) -> None:
        self.inner = inner
        self._key = type(self), inner, key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, View) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def prepare(self, name: str, position: Position | None, content: Content | None) -> PreparedMessage | None:
        """Return what the clients get of a message."""
        return self.inner.prepare_once(name, position, content)

    def prepare_once(self, name: str, position: Position | None, content: Content | None) -> PreparedMessage | None:
        """Return what `prepare` returns; None if it fails.

        A view is asked once for each message, so it keeps none: clients can make many views.
        """
        return self._prepared(name, position, content)

    def prepare_direct(self, content: Content) -> PreparedMessage:
        """Return what a client gets of a message that is none of a topic."""
        return self.inner.prepare_direct(content)

    def prepare_presence(self, name: str, diff: PresenceDiff) -> PreparedMessage:
        """Return what the clients get of changes of presence."""
        return self.inner.prepare_presence(name, diff)


class Filtered(View):
    """A form that leaves messages out.

    Args:
        inner: the form of the others.
        filter: which messages these are.
    """

    def __init__(self, inner: DeliveryForm, filter: Filter) -> None:
        super().__init__(inner, filter)
        self._filter = filter

    def prepare(self, name: str, position: Position | None, content: Content | None) -> PreparedMessage | None:
        """Return what the clients get of a message; None if it is left out."""
        if content is not None and not self._filter.matches(content):
            return None
        return super().prepare(name, position, content)


class Newest(View):
    """A form of which slow clients get only the newest messages.

    Args:
        inner: the form of the messages.
        field: of the messages with each value of this field, the newest one; None for the newest one of the topic.
    """

    def __init__(self, inner: DeliveryForm, field: str | None) -> None:
        super().__init__(inner, field)
        self._field = field

    def send_to_all(
        self,
        connections: list[Connection],
        message: PreparedMessage,
        name: str,
        content: Content | None,
        exclude: frozenset[Connection] = frozenset(),
    ) -> None:
        """Send a message to the connections of a group, or have it wait."""
        key = name, self._key_of(content)
        for conn in connections:
            if conn not in exclude:
                backlog_of(conn).send(key, message)

    def _key_of(self, content: Content | None) -> Any:
        if content is None:
            return ()  # messages are lost, which no later message says
        found = None if self._field is None else object_of(content)
        if found is None or self._field not in found:
            return None
        return _comparable(found[self._field])


class Backlog:
    """The messages that wait for one slow client, the newest one for each key; made when the first one comes.

    Args:
        conn: the connection.
        max_bytes: bytes of the messages.
    """

    __slots__ = ("_conn", "_is_sending", "_max_bytes", "_messages", "_size")

    def __init__(self, conn: Connection, max_bytes: int) -> None:
        self._conn = conn
        self._max_bytes = max_bytes
        self._messages: dict[tuple[str, Any], PreparedMessage] = {}
        self._size = 0
        self._is_sending = False
        limit_unsent(conn._outbox.transport, conn._outbox.high_water)

    def send(self, key: tuple[str, Any], message: PreparedMessage) -> None:
        """Send a message if nothing waits for the client; otherwise have it wait in the place of an older one."""
        outbox = self._conn._outbox
        if not self._messages and outbox.is_writable and outbox.size <= outbox.high_water:
            outbox.send_prepared(message)
            return
        self._take(key)
        self._messages[key] = message
        self._size += len(message.payload)
        if len(self._messages) > MAX_WAITING or self._size > self._max_bytes:
            self._send_all()  # `Options.slow_consumer` decides
        elif not self._is_sending and self._conn._driver is not None:
            self._is_sending = True
            self._conn._driver.subscriptions().start_soon(self._run)

    def forget(self, name: str) -> None:
        """Drop the messages of a topic, from which the client has unsubscribed."""
        for key in [key for key in self._messages if key[0] == name]:
            self._take(key)

    def _take(self, key: tuple[str, Any]) -> PreparedMessage | None:
        message = self._messages.pop(key, None)
        if message is not None:
            self._size -= len(message.payload)
        return message

    def _send_all(self) -> None:
        while self._messages:
            message = self._take(next(iter(self._messages)))
            assert message is not None
            self._conn._outbox.send_prepared(message)

    async def _run(self) -> None:
        """Send what waits as the client reads."""
        outbox = self._conn._outbox
        try:
            while self._messages and self._conn.is_open:
                await outbox._wait_drained()
                while self._messages and outbox.is_writable and outbox.size <= outbox.high_water:
                    message = self._take(next(iter(self._messages)))
                    assert message is not None
                    outbox.send_prepared(message)
        except BaseException as exc:
            raise_if_cancelled(exc)
            self._conn.abort()
        finally:
            self._is_sending = False


def limit_unsent(transport: Transport, size: int) -> None:
    """Have the kernel take few bytes of a transport before it has sent those it has, where it can do that.

    Otherwise it takes megabytes for a slow client, and messages wait there, where a newer one cannot replace them.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or _UNSENT is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with suppress(OSError):  # the peer is gone already
        sock.setsockopt(socket.IPPROTO_TCP, _UNSENT, size)


def backlog_of(conn: Connection) -> Backlog:
    """Return the messages that wait for a connection of a protocol."""
    backlog: Backlog = conn._messages.backlog_of(conn)  # type: ignore[union-attr] # a ProtocolConversation
    return backlog
