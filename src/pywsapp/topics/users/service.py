"""The connections of each user in one process, and the events about users from and to the other processes.

Theory

All events about users travel on one reserved topic, which every process subscribes to before it listens if a route has
a guard. A topic for each user would make the broker route the messages, but it would cost a subscription for each
connection, also in Apps that never use `app.users`. And a connection would miss what is sent until its topic is
subscribed: for a disconnect, that is a hole. With one topic, each process looks at each event, and drops those of users
that it does not have.

The index of connections by user exists from the first use of `app.users` or the first event on. It is then built from
the open connections. Before that, a connection costs nothing here.

A disconnect has one race: a handshake whose credentials were checked before the disconnect arrived, and which is
accepted afterwards. So each guard notes when it began (`Access.asked_at`), and the service remembers the disconnects of
the last seconds. A handshake whose guard began before a disconnect of its user is refused. A guard that begins
later decides by itself: so the program must revoke the credentials first, and then disconnect.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from operator import attrgetter
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

import anyio
import anyio.lowlevel

from pywsapp._http_text import one_line
from pywsapp._log_fields import log_fields
from pywsapp._messages.objects import content_of, prepared_content
from pywsapp._outbox.awaitables import ALREADY_DONE, LazyCoroutine
from pywsapp._protocol.prepared import PreparedMessage
from pywsapp._request_state import Access, access_of
from pywsapp.auth.user_keys import UserKeys
from pywsapp.brokers.envelope import Envelope
from pywsapp.connection import Connection
from pywsapp.exceptions import ConfigurationError, InvalidCredentials
from pywsapp.options import Options
from pywsapp.topics.codec import EnvelopeCodec
from pywsapp.topics.delivery import send_direct
from pywsapp.topics.users.events import (
    SEND_START,
    USERS_TOPIC,
    Answer,
    Ask,
    Disconnect,
    Parsed,
    Reauthorize,
    Send,
    event_of,
    parse_event,
)

if TYPE_CHECKING:
    from pywsapp.brokers.relay import Relay
    from pywsapp.http import Request

logger = logging.getLogger("pywsapp")

#: Seconds that a guard can take longer than `Options.handshake_timeout`, since a turn of the loop can take some time.
_SPARE_SECONDS = 5.0
#: Disconnects that are remembered; the oldest ones are dropped.
_MAX_REMEMBERED = 10_000
#: Characters of a key that is remembered as it is; of a longer one a hash is remembered.
_MAX_KEPT = 200
#: Processes whose answers to one question count.
_MAX_PROCESSES = 1000


class _Remembered(NamedTuple):
    at: float
    code: int
    reason: str


class UserService:
    """Keeps the connections of each user, and acts on them. The topic registry creates it.

    Args:
        codec: encodes events.
        check_thread: raises ConfigurationError in another thread than that of the event loop; takes what was called.
        options: its handshake timeout decides how long disconnects are remembered.

    Attributes:
        keys: makes the keys of users.
        without_key: the number of connections whose user has no key.
    """

    def __init__(self, codec: EnvelopeCodec, check_thread: Callable[[str], None], options: Options) -> None:
        self.keys = UserKeys()
        self.without_key = 0
        self._codec = codec
        self._check_thread = check_thread
        self._remember_seconds = options.handshake_timeout + _SPARE_SECONDS
        self._relay: Relay | None = None
        self._is_running = False
        self._expects_users: Callable[[], bool] = bool
        self._open_connections: Callable[[], Iterable[Connection]] = tuple
        self._index: dict[str, dict[Connection, None]] | None = None  # None until users are used
        # The disconnects of the last seconds, the oldest first.
        self._remembered: dict[str | bytes, _Remembered] = {}
        self._on_first: Callable[[str], None] | None = None
        self._on_last: Callable[[str], None] | None = None
        self._answers: dict[int, dict[str, int]] = {}  # to the questions of this process, by the processes that answer
        self._last_question = 0

    # -- running -----------------------------------------------------------------------------------------------------

    def use_app(self, keys: UserKeys, expects_users: Callable[[], bool]) -> None:
        """Use the settings of an App.

        Args:
            keys: makes the keys of users.
            expects_users: returns whether a route has a guard; the service then subscribes to the events before the
                App listens. It is called when the App starts.
        """
        self.keys, self._expects_users = keys, expects_users

    def watch(self, on_first: Callable[[str], None], on_last: Callable[[str], None]) -> None:
        """Call functions with the key of each user that gets a first connection in this process, or loses the last."""
        self._on_first, self._on_last = on_first, on_last

    def use_connections(self, open_connections: Callable[[], Iterable[Connection]]) -> None:
        """Use a function that returns all open connections of this process."""
        self._open_connections = open_connections

    def start(self, relay: Relay | None) -> None:
        """Start with a broker, if there is one."""
        self._relay, self._is_running = relay, True
        if self._on_first is not None:
            self._index = {}
        if self._expects_users():
            self._subscribe()

    def stop(self) -> None:
        """Stop: all connections have ended."""
        self._relay, self._is_running, self._index = None, False, None
        self._remembered.clear()
        self._answers.clear()

    def _subscribe(self) -> LazyCoroutine[None]:
        """Subscribe to the events; return what waits until the broker delivers them."""
        if self._relay is None:
            return ALREADY_DONE
        self._relay.subscribe(USERS_TOPIC)
        return self._relay.subscribed(USERS_TOPIC)

    def _check_running(self, what: str) -> None:
        self._check_thread(what)
        if not self._is_running:
            raise ConfigurationError(f"{what} works while the App runs, in the process of the App")

    # -- the connections of this process -----------------------------------------------------------------------------

    def check(self, request: Request) -> None:
        """Refuse a handshake whose user was disconnected after its guard was asked.

        Raises:
            InvalidCredentials: it was.
        """
        if self._remembered:
            access = access_of(request)
            if access is not None and self._disconnected_since(access, self._key_of(access)) is not None:
                raise InvalidCredentials("the user was disconnected meanwhile")

    def changed(self, conn: Connection) -> None:
        """Handle a connection that opens with a user, or whose user was replaced."""
        access = access_of(conn.request)
        if access is None or access.user is None:
            return
        if self._relay is not None:
            self._relay.subscribe(USERS_TOPIC)  # without effect if a guard was expected
        if self._index is not None:
            self._add(self._index, conn, access)

    def discard(self, conn: Connection) -> None:
        """Remove a connection that has ended."""
        if self._index:
            access = access_of(conn.request)
            if access is not None and access.user_key is not None:
                self._remove(self._index, conn, access)

    def _add(self, index: dict[str, dict[Connection, None]], conn: Connection, access: Access) -> None:
        key = self._key_of(access)
        if key == access.user_key:
            return
        if access.user_key is not None:
            self._remove(index, conn, access)
        if key is None:
            return
        access.user_key = key
        if key not in index:
            index[key] = {}
            if self._on_first is not None:
                self._on_first(key)
        index[key][conn] = None
        found = self._disconnected_since(access, key)
        if found is not None:
            conn.close(found.code, found.reason)

    def _remove(self, index: dict[str, dict[Connection, None]], conn: Connection, access: Access) -> None:
        key, access.user_key = access.user_key or "", None
        connections = index.get(key, {})
        connections.pop(conn, None)
        if not connections and index.pop(key, None) is not None and self._on_last is not None:
            self._on_last(key)

    def _key_of(self, access: Access) -> str | None:
        if access.user is None:
            return None
        try:
            return self.keys.of_access(access)
        except Exception as exc:
            self.without_key += 1
            if self.without_key & (self.without_key - 1) == 0:  # at 1, 2, 4, 8, ...
                logger.error(
                    "app.users does not know a connection, because its user has no key (%d so far): %s",
                    self.without_key,
                    exc,
                    exc_info=None if isinstance(exc, ConfigurationError) else exc,
                    extra=log_fields("user.no_key", count=self.without_key, error=str(exc)),
                )
            return None

    def _disconnected_since(self, access: Access, key: str | None) -> _Remembered | None:
        found = self._remembered.get(_short(key or ""))
        if found is None or found.at < access.asked_at or monotonic() - found.at > self._remember_seconds:
            return None
        return found

    def _find(self, key: str) -> list[Connection]:
        index = self._index
        if index is None:
            index = self._index = {}
            for conn in sorted(self._open_connections(), key=attrgetter("id")):
                access = access_of(conn.request)
                if access is not None and access.user is not None:
                    access.user_key = None  # of an earlier run
                    self._add(index, conn, access)
        return [conn for conn in index.get(key, ()) if conn.is_open]

    # -- what UserConnections calls ----------------------------------------------------------------------------------

    def connections(self, key: str) -> list[Connection]:
        """See `UserConnections.connections`."""
        self._check_thread("app.users")
        return self._find(key)

    def send(self, key: str, message: PreparedMessage, exclude: frozenset[Connection]) -> LazyCoroutine[None]:
        """See `UserConnections.send`."""
        self._check_running("app.users[user].send")
        acknowledgement = self._publish(Send(key, content_of(message)))
        send_direct(self._find(key), message, exclude)
        return acknowledgement

    def disconnect(self, disconnect: Disconnect, exclude: frozenset[Connection]) -> LazyCoroutine[None]:
        """See `UserConnections.disconnect`."""
        self._check_running("app.users[user].disconnect")
        acknowledgement = self._publish(disconnect)
        self._close(disconnect, exclude)
        return acknowledgement

    def reauthorize(self, key: str) -> LazyCoroutine[None]:
        """See `UserConnections.reauthorize`."""
        self._check_running("app.users[user].reauthorize")
        acknowledgement = self._publish(Reauthorize(key))
        self._reauthorize(key)
        return acknowledgement

    def _reauthorize(self, key: str) -> None:
        for conn in self._find(key):
            conn.reauthorize()

    async def count(self, key: str, seconds: float) -> int:
        """See `UserConnections.count`."""
        self._check_running("app.users[user].count")
        if self._relay is None:
            await anyio.lowlevel.checkpoint()
            return len(self._find(key))
        await self._subscribe()
        self._last_question += 1
        number = self._last_question
        answers = self._answers[number] = {}
        try:
            await self._publish(Ask(key, number))
            await anyio.sleep(seconds)
        finally:
            self._answers.pop(number, None)
        return len(self._find(key)) + sum(answers.values())

    def _publish(self, parsed: Parsed) -> LazyCoroutine[None]:
        if self._relay is None:
            return ALREADY_DONE
        return self._relay.publish(USERS_TOPIC, self._codec.encode_event(USERS_TOPIC, event_of(parsed)))

    def _close(self, disconnect: Disconnect, exclude: frozenset[Connection] = frozenset()) -> None:
        key, code, reason = disconnect
        connections, closed = self._find(key), 0
        self._remember(key, code, reason)  # afterwards, since a connection that is found now can be excluded
        for conn in connections:
            if conn not in exclude:
                closed += 1
                try:
                    conn.close(code, reason)
                except Exception:  # of its transport; the others must be closed all the same
                    logger.exception("closing %r failed", conn, extra=log_fields("connection.close_failed", conn))
                    conn.abort()
        if closed:
            logger.info(
                "closed %d connections of the user %.100r with code %d: %s",
                closed,
                key,
                code,
                one_line(reason),
                extra=log_fields("user.disconnected", user=key, close_code=code, close_reason=reason, count=closed),
            )

    def _remember(self, key: str, code: int, reason: str) -> None:
        now, remembered, name = monotonic(), self._remembered, _short(key)
        remembered.pop(name, None)
        remembered[name] = _Remembered(now, code, reason)
        while len(remembered) > _MAX_REMEMBERED or now - next(iter(remembered.values())).at > self._remember_seconds:
            del remembered[next(iter(remembered))]

    # -- other processes ---------------------------------------------------------------------------------------------

    def is_for_others(self, data: bytes) -> bool:
        """Return whether an envelope, which is not decoded yet, has a message for a user without connections here.

        Most processes receive a message of this kind, and decoding it costs ten times as much. An envelope that was
        made to look like one is only dropped.
        """
        at = data.find(SEND_START)
        if at < 0 or self._index is None:
            return False
        at += len(SEND_START)
        key = data[at : data.find(b'"', at)]
        return key != b"" and b"\\" not in key and key.decode("utf-8", "replace") not in self._index

    def receive(self, envelope: Envelope) -> None:
        """Handle an event of another process.

        Raises:
            EnvelopeError: the event is invalid.
        """
        parsed = parse_event(envelope.event or {})
        if isinstance(parsed, Send):
            connections = self._find(parsed.key)
            if connections:
                send_direct(connections, prepared_content(parsed.content))
        elif isinstance(parsed, Disconnect):
            self._close(parsed)
        elif isinstance(parsed, Reauthorize):
            self._reauthorize(parsed.key)
        elif isinstance(parsed, Ask):
            found = len(self._find(parsed.key))
            if found:
                self._publish(Answer(envelope.origin, parsed.number, found))
        elif parsed.process == self._codec.origin:
            answers = self._answers.get(parsed.number)
            if answers is not None and (envelope.origin in answers or len(answers) < _MAX_PROCESSES):
                answers[envelope.origin] = parsed.connections


def _short(key: str) -> str | bytes:
    """Return what is remembered of the key of a user: an event of another process can have a key of any length."""
    return key if len(key) <= _MAX_KEPT else hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
