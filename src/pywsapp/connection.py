"""A connection as a component sees it, and sending one message to many connections."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from itertools import count
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Generic, Protocol

import anyio.lowlevel
from typing_extensions import TypeVar

from pywsapp._http_text import one_line
from pywsapp._messages.objects import prepared_here, send_object_to_all
from pywsapp._outbox.awaitables import ALREADY_DONE, REFUSED, LazyAwaitable, LazyCoroutine
from pywsapp._outbox.outbox import Outbox
from pywsapp._protocol.prepared import PreparedMessage, Sendable
from pywsapp._topic_actions import ACTIONS, TopicAction
from pywsapp.auth.identity import refresh
from pywsapp.close_codes import CloseCode, check_close
from pywsapp.codecs.kinds import Encodable
from pywsapp.exceptions import ConfigurationError, ConnectionClosed
from pywsapp.http import Request

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from pywsapp._connection_driver import Driver
    from pywsapp._messages.conversation import Conversation
    from pywsapp.sessions.session import Session
    from pywsapp.topics.topic import Topic
    from pywsapp.topics.users.users import Users

_ids = count(1)
#: The type of `Connection.state`, for type checkers.
StateT = TypeVar("StateT", default=Any)
#: The type of the result of `Connection.call`, for type checkers.
ResultT = TypeVar("ResultT", default=Any)


class Application(Protocol):
    """The application of a component, as `conn.app` offers it; an `App` is one."""

    def topic(self, name: str) -> Topic:
        """Return the topic of a name."""

    @property
    def users(self) -> Users:
        """All connections of each user, in all processes."""


class Connection(Generic[StateT]):
    """A WebSocket connection, while it is open and afterwards (Ratchet's ConnectionInterface).

    The server makes one for each accepted handshake. Use it in the thread of the event loop; from another thread call
    `anyio.from_thread.run_sync(conn.send, message)`. It takes no attributes of its own: keep your data in `state`.

    For type checkers it is generic: `Connection[ChatState]` says that `state` has the attributes of `ChatState`.

    Attributes:
        id: a number that no other connection of this process ever has (Ratchet's resourceId, which is reused).
        request: the request that opened it.
        subprotocol: the agreed subprotocol, or None.
        close_code: why the connection ended: the code of the side that closed first, 1005 if the peer's close frame had
            no code, 1006 if the connection was lost without a close frame; None while it is open.
        close_reason: the text that came with the code.
        was_clean: whether both sides sent their close frames.
    """

    __slots__ = (
        "__weakref__",
        "_driver",
        "_outbox",
        "close_code",
        "close_reason",
        "id",
        "request",
        "subprotocol",
        "was_clean",
    )

    __class_getitem__ = classmethod(GenericAlias)  # type: ignore[var-annotated] # the compiled build has no base class

    def __init__(self, request: Request, subprotocol: str | None, driver: Driver, outbox: Outbox) -> None:
        self.id = next(_ids)
        self.request = request
        self.subprotocol = subprotocol
        self.close_code: int | None = None
        self.close_reason = ""
        self.was_clean = False
        self._driver: Driver | None = driver
        self._outbox = outbox

    def __repr__(self) -> str:
        status = "open" if self.is_open else f"closed {self.close_code}"
        path = one_line(self.request.path)
        return f"<Connection {self.id} {path} from {self.remote_address or 'local'} {status}>"

    @property
    def remote_address(self) -> str:
        """The peer's IP address without port, `""` on a Unix socket (Ratchet's remoteAddress)."""
        return self.request.remote_address

    @property
    def state(self) -> StateT:
        """A namespace for your own data: `conn.state.name = "Ana"`. It is `request.state` of the handshake."""
        state: Any = self.request.state
        return state  # type: ignore[no-any-return]

    @property
    def user(self) -> Any:
        """The user that `authenticate` returned at the handshake, or of the last `refresh_user`; None without one."""
        return self.request.user

    def refresh_user(self, user: Any) -> None:
        """Replace the user and its expiry, for instance when the client has sent a new token. Never blocks.

        If there is an `authorize`, it is then asked again, as by `reauthorize`.

        Args:
            user: what `authenticate` could return: a user, or an `Authenticated` with an expiry.

        Raises:
            InvalidCredentials: the user is None, or has another subject than the one before.
            ConfigurationError: the caller runs in another thread.
        """
        self._outbox.check_thread("conn.refresh_user")
        refresh(self.request, user)
        if self._driver is not None:
            self._driver.user_changed()

    @property
    def session(self) -> Session:
        """The session of the client, as it was at the handshake: `await conn.session.save()` saves changes.

        Raises:
            ConfigurationError: the route has no sessions.
        """
        return self.request.session

    @property
    def app(self) -> Application | None:
        """The application whose route this connection came by; None without an App."""
        return self.request.app  # type: ignore[no-any-return]

    @property
    def topics(self) -> tuple[Topic, ...]:
        """The topics that the connection subscribes to, in the order of subscribing; empty after `on_close`."""
        return self._driver.topics if self._driver is not None else ()

    @property
    def is_open(self) -> bool:
        """Whether neither side has begun to close. A handler that loops ends when this is False.

        A handler that is busy when the peer's close frame comes can still answer the messages before it.
        """
        return self._outbox.is_open and self.close_code is None

    @property
    def buffered(self) -> int:
        """Bytes that wait in this process to be sent."""
        return self._outbox.buffered

    @property
    def _messages(self) -> Conversation | None:
        """Its codec and its typed messages; `TypedConnection` has an attribute instead."""
        return None

    def send(
        self, message: Sendable | PreparedMessage | Encodable, *, compress: bool | None = None
    ) -> LazyCoroutine[None]:
        """Send a message: a `str` as text, bytes as binary, and any other object by the codec. Never blocks.

        After the connection has closed, it does nothing, as in Ratchet.

        Args:
            message: what to send. Objects, such as a dict, a list or a `msgspec.Struct`, need a codec: the component
                has typed messages, or the route has `codec`.
            compress: False never compresses it, True always, None decides as `Deflate` says. It has no effect unless
                permessage-deflate was negotiated.

        Returns:
            an awaitable. Awaiting it waits while more than `Options.high_water` bytes are queued, or until the
            connection is closed. It need not be awaited.

        Raises:
            TypeError: the connection has no codec, its codec has no form for the object, or the message is None.
            ConfigurationError: the text cannot be encoded as UTF-8, or the caller runs in another thread.
        """
        return self._outbox.send(message, compress)  # type: ignore[arg-type] # raises for an object

    def call(
        self,
        method: str,
        params: Any = None,
        *,
        timeout: float | None = 10,
        result_type: TypeForm[ResultT] = Any,
    ) -> Coroutine[Any, Any, ResultT]:
        """Call the peer, and wait for its reply: `if await conn.call("confirm", {"text": "Delete it?"}):`.

        The peer gets `{"id": 1, "method": ..., "params": ...}` in the codec of the connection, and answers with
        `{"id": 1, "result": ...}` or `{"id": 1, "error": {"code": ..., "message": ...}}`. On a server, a handler of the
        same connection can await it. A client calls the procedures of the server, which are marked with `rpc`.
        Messages that arrive meanwhile stay in order. Blocks until the reply comes.

        Args:
            method: the name of what is called.
            params: the parameters, a dict or a list; None for none.
            timeout: seconds; None sets no limit.
            result_type: the type of the result, which is validated; by default any.

        Returns:
            the result.

        Raises:
            CallError: the peer answered with an error, or `Options.max_pending_calls` calls wait already.
            CallTimeout: the peer did not answer in time.
            InvalidMessage: the result has another type.
            ConnectionClosed: the connection ended before the reply came.
            ConfigurationError: the component has no typed messages, the client no codec, or the caller runs in another
                thread.
        """
        self._outbox.check_thread("conn.call")
        if self._messages is None:
            raise ConfigurationError(
                "conn.call needs a component with typed messages, or a client with a codec: "
                "connect(url, codec=JsonCodec())"
            )
        params = {} if params is None else params
        return self._messages.calls().call(self, method, params, timeout, result_type)

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> LazyCoroutine[None]:
        """Close the connection: send what is queued, then a close frame, and wait a while for the peer's. Never blocks.

        Messages that still arrive are dropped. A second call does nothing.

        Args:
            code: 1000 to 1003, 1007 to 1014 or 3000 to 4999 (RFC 6455 section 7.4).
            reason: a text for the peer, at most 123 bytes of UTF-8.

        Returns:
            an awaitable. Awaiting it waits until the connection is gone. It need not be awaited.

        Raises:
            ConfigurationError: the code must not be sent, the reason is too long, or the caller runs in another thread.
        """
        check_close(code, reason)
        self._outbox.check_thread("conn.close")
        return ALREADY_DONE if self._driver is None else self._driver.close(code, reason)

    def abort(self) -> None:
        """Drop the connection at once, without a close frame; its close code is then 1006.

        Raises:
            ConfigurationError: the caller runs in another thread.
        """
        self._outbox.check_thread("conn.abort")
        if self._driver is not None:
            self._driver.abort()

    def ping(self, payload: bytes | None = None) -> LazyCoroutine[float]:
        """Send a ping (RFC 6455 section 5.5.2). Never blocks.

        Awaiting it in a handler of the same connection needs a time limit: while messages queue up behind the handler,
        reading can stop, and the pong is then not read either.

        Args:
            payload: at most 125 bytes, different from those of unanswered pings; None makes one up.

        Returns:
            an awaitable of the latency in seconds. It need not be awaited.

        Raises:
            ConfigurationError: the payload is too long or in use, or the caller runs in another thread.
            ConnectionClosed: on awaiting, if the connection ends before the pong comes.
            TimeoutError: on awaiting, if the peer answered neither this ping nor 99 later ones.
        """
        self._outbox.check_thread("conn.ping")
        return no_pong() if self._driver is None else self._driver.ping(payload)

    def subscribe(self, topic: str) -> LazyCoroutine[None]:
        """Subscribe to a topic of the application: `conn.app.topic(topic).add(conn)`. Never blocks.

        Args:
            topic: the topic's name.

        Returns:
            an awaitable; see `Topic.add`. It need not be awaited, unless `authorize` or `on_subscribe` is an async def.

        Raises:
            NotAuthorized: `authorize` refuses it.
            TopicError: the name is invalid, or the connection has `Options.max_topics` topics already.
            ConfigurationError: the component is not routed on an App, or the caller runs in another thread.
        """
        return self._topic(topic, "conn.subscribe").add(self)

    def unsubscribe(self, topic: str) -> None:
        """Unsubscribe from a topic of the application, if the connection subscribes to it. Never blocks.

        Args:
            topic: the topic's name.

        Raises:
            TopicError: the name is invalid.
            ConfigurationError: the component is not routed on an App, or the caller runs in another thread.
        """
        self._topic(topic, "conn.unsubscribe").remove(self)

    def may(self, action: TopicAction, topic: str) -> LazyCoroutine[bool]:
        """Return whether `authorize` allows a request of a client: `if await conn.may("publish", name):`.

        Call it for each request of a client. An action of the server itself is also possible if
        `authorize` returns None.

        Args:
            action: "subscribe", "publish", "presence" or "history".
            topic: the topic's name, which can come from the client.

        Returns:
            an awaitable of True if `authorize` returns True. It is False for False, for None, without an `authorize`,
            for an invalid name, and after the connection has ended. It must be awaited, which blocks while an async
            `authorize` runs; the answer is then remembered until `reauthorize`.

        Raises:
            ConfigurationError: there is no such action, `topic` is a Topic, or the caller runs in another thread.
        """
        self._outbox.check_thread("conn.may")
        if action not in ACTIONS:
            raise ConfigurationError(f"{action!r} is no action; the actions are {', '.join(map(repr, ACTIONS))}")
        authorization = None if self._driver is None else self._driver.subscriptions().authorization
        return REFUSED if authorization is None else authorization.may(action, topic)

    def reauthorize(self) -> LazyCoroutine[None]:
        """Call `authorize` again, because the permissions of the user have changed. Never blocks.

        All remembered answers are dropped. The connection then unsubscribes from the topics that it may not use any
        more, which calls `on_unsubscribe`: those that `authorize` refuses, and those that it had allowed and does not
        allow again. `app.users[user].reauthorize()` does this for all connections of a user.

        Returns:
            an awaitable. Awaiting it waits until all topics of the connection have been checked. It need not be
            awaited.

        Raises:
            ConfigurationError: the caller runs in another thread.
        """
        self._outbox.check_thread("conn.reauthorize")
        authorization = None if self._driver is None else self._driver.subscriptions().authorization
        return ALREADY_DONE if authorization is None else authorization.reauthorize()

    def _topic(self, name: str, caller: str) -> Topic:
        self._outbox.check_thread(caller)
        app = self.app
        if app is None:
            raise ConfigurationError(f"{caller} needs an App: route the component on one, or use a Topic of your own")
        return app.topic(name)


#: Sends a message to connections, some excluded.
SendToAll = Callable[["list[Connection]", Any, "frozenset[Connection]"], None]
#: The function of `broadcast` when connections can have a delivery form; None if none ever had one.
_send_in_forms: SendToAll | None = None


async def _no_pong() -> float:
    raise ConnectionClosed("the connection ended before the pong came")


def no_pong() -> LazyCoroutine[float]:
    """Return an awaitable for a ping on a connection that has ended; it raises `ConnectionClosed`."""
    return LazyAwaitable(_no_pong)


def broadcast(
    connections: Iterable[Connection],
    message: Sendable | PreparedMessage | Encodable,
    *,
    exclude: Connection | Iterable[Connection] = (),
    compress: bool | None = None,
) -> LazyCoroutine[None]:
    """Send one message to many connections, encoded once for each wire format among them. Never blocks.

    Closed connections are skipped. A slow connection is treated by its own `Options.slow_consumer`.

    Args:
        connections: any iterable; handlers may change it meanwhile.
        message: text, bytes, or an object, such as a dict or a list, which each connection gets in its codec, and as
            JSON without one.
        exclude: a connection or several that do not get it, usually the sender.
        compress: as for `Connection.send`.

    Returns:
        an awaitable. Awaiting it lets other tasks run, and does not wait for slow connections. It need not be awaited.

    Raises:
        TypeError: the message is neither text, bytes, nor an object with a form in JSON.
        ConfigurationError: the text cannot be encoded as UTF-8, or the caller runs in another thread.
    """
    excluded = frozenset((exclude,) if isinstance(exclude, Connection) else exclude)
    try:
        prepared = message if isinstance(message, PreparedMessage) else PreparedMessage(message, compress=compress)  # type: ignore[arg-type]
    except TypeError:
        (_send_in_forms or send_object_to_all)(list(connections), prepared_here(message, compress), excluded)
        return LazyAwaitable(anyio.lowlevel.checkpoint)
    if _send_in_forms is None:
        send_prepared_to_all(list(connections), prepared, excluded)
    else:
        _send_in_forms(list(connections), prepared, excluded)
    return LazyAwaitable(anyio.lowlevel.checkpoint)


def use_forms(send: SendToAll) -> None:
    """Have `broadcast` use a function from now on, because connections of this process can have a delivery form."""
    global _send_in_forms
    _send_in_forms = send


def send_prepared_to_all(
    connections: list[Connection], message: PreparedMessage, exclude: frozenset[Connection]
) -> None:
    """Send a prepared message to connections, some excluded; the innermost loop of every broadcast.

    Raises:
        ConfigurationError: the caller runs in another thread.
    """
    if connections:
        first = connections[0]
        first._outbox.check_thread("broadcast")
    only = next(iter(exclude)) if len(exclude) == 1 else None  # usually the sender; `is` costs less than a hash
    several = len(exclude) > 1
    for connection in connections:
        if connection is not only and not (several and connection in exclude):
            connection._outbox.send_prepared(message)
