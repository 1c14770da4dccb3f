"""The base class of components, what `on_handshake` can return, and decorators for methods of components."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import anyio.to_thread
from typing_extensions import ParamSpec

from pywsapp._http_text import one_line
from pywsapp._log_fields import log_fields
from pywsapp._protocol.handshake import UPGRADE_HEADERS
from pywsapp.close_codes import CloseCode, cut_reason
from pywsapp.connection import Connection
from pywsapp.exceptions import ConfigurationError, InvalidCredentials, InvalidMessage, Refuse, TopicError
from pywsapp.http import Request, Response
from pywsapp.options import Options
from pywsapp.topics.topic import Topic

if TYPE_CHECKING:
    from pywsapp._messages.conversation import OwnConversation
    from pywsapp._messages.typed import TypedMessages

__all__ = ("Accept", "EchoServer", "MessageComponent", "handler", "in_thread")

P = ParamSpec("P")
T = TypeVar("T")
HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])
#: The attribute of methods that are marked with `handler`.
HANDLER_MARK = "_pywsapp_handler"
logger = logging.getLogger("pywsapp")


class MessageComponent:
    """The base of every application: subclass it and override the hooks that you need.

    A hook is a method that the library calls. Every hook may be a `def`, an `async def`, or a blocking `def` marked
    with `in_thread`. `pywsapp._lifecycle.lifecycle` documents the order in which hooks are called. A component with a
    method that nearly has the name of a hook cannot be routed; see `handler` for methods of your own. The class mirrors
    Ratchet's MessageComponentInterface; `on_handshake` is new.

    Attributes:
        subprotocols: the subprotocols that this component speaks, the preferred one first (Ratchet's
            WsServerInterface::getSubProtocols).
        authenticate: an optional hook, a method `authenticate(self, request)` that returns the user before
            `on_handshake` and `on_request` are called, or an object of `pywsapp.auth`. None refuses the request with
            status 401.
        authorize: an optional hook, a method `authorize(self, conn, action, topic)` that decides which topics a
            connection may use, or an object such as `TopicRules`. The action is "subscribe", "publish", "presence" or
            "history", and `topic` is the name. True allows it, and False refuses it. After None the `authorize` of the
            route decides, and then that of the App. Only False refuses an action of the server; `conn.may`, for
            requests of clients, is true only if an `authorize` returns True. An exception refuses too, and `on_error`
            gets it.
        sends: the types of the messages that it sends, such as `[Joined, Said]`, or `[str]` for text; only for the
            documents of its interface, see `App.asyncapi`.
    """

    subprotocols: Sequence[str] = ()
    sends: Sequence[Any] = ()
    authenticate: Callable[..., Any] | None = None
    authorize: Callable[..., Any] | None = None
    #: The types that its handlers accept, if not text and bytes; `pywsapp._messages.typed` finds it.
    _typed: TypedMessages | OwnConversation | None = None
    #: The hooks of a subclass of this library beyond those of `pywsapp._hooks`, and its optional ones; with arguments.
    _more_hooks: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    _more_optional_hooks: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    #: Whether its clients choose one of its protocols, which has a codec.
    _has_protocol = False
    #: The function that finds the typed handlers of a class, if it is not `pywsapp._messages.typed.prepare`.
    _find_handlers: Callable[[type[MessageComponent]], None] | None = None
    #: Whether the guard of a request is that of a component inside, which this one asks; see `pywsapp._access`.
    _passes_on = False

    def on_handshake(self, request: Request) -> HandshakeAnswer | Awaitable[HandshakeAnswer]:
        """Decide about a WebSocket handshake before it is accepted.

        Returns:
            None to accept, the name of the subprotocol to accept with, or an `Accept`.

        Raises:
            Refuse: the server answers with that status and calls no other hook for this request.
        """
        return None

    def on_open(self, conn: Connection) -> Any:
        """Handle a new connection; called once, after the handshake is accepted."""

    def on_message(self, conn: Connection, message: Any) -> Any:
        """Handle a message: a `str` for a text message, `bytes` for a binary one.

        The annotation of `message` can name types that are read with the codec of the route: msgspec Structs,
        dataclasses, TypedDicts, pydantic models, or a class of Protocol Buffers. `on_invalid` handles other messages.
        """

    def on_close(self, conn: Connection) -> Any:
        """Handle the end of a connection; `conn.close_code`, `close_reason` and `was_clean` are set."""

    def on_subscribe(self, conn: Connection, topic: Topic) -> Any:
        """Decide whether a connection may subscribe to a topic (Ratchet's WampServerInterface::onSubscribe).

        The server calls it after `authorize`, which also decides about requests of clients.

        Raises:
            TopicError: the connection may not subscribe. `Topic.add` raises this, or any other exception of the hook.
        """

    def on_unsubscribe(self, conn: Connection, topic: Topic) -> Any:
        """Handle the end of a subscription: by `Topic.remove`, or after `on_close` by the end of the connection."""

    def on_error(self, conn: Connection, exc: Exception) -> Any:
        """Handle an exception of another hook; by default it is logged, and the connection is closed with code 1011.

        A TopicError means that the client named a topic that it cannot have. By default the connection is then closed
        with code 1008, and the reason tells the client what is wrong. `InvalidCredentials` closes it with code 4401. An
        InvalidMessage of a handler of typed messages is passed to `on_invalid`.
        """
        if isinstance(exc, InvalidMessage) and conn._messages is not None:
            return conn._messages.invalid(self, conn, exc)
        if isinstance(exc, TopicError):
            logger.info(
                "%r asked for a topic that it cannot have: %s",
                conn,
                one_line(str(exc)),
                extra=log_fields("topic.invalid", conn, error=str(exc)),
            )
            conn.close(CloseCode.POLICY_VIOLATION, cut_reason(str(exc)))
            return None
        if isinstance(exc, InvalidCredentials):
            logger.info(
                "%r sent credentials that are not valid: %s",
                conn,
                one_line(str(exc.body)),
                extra=log_fields("auth.refused", conn, reason=str(exc.body)),
            )
            conn.close(CloseCode.UNAUTHENTICATED, cut_reason(str(exc.body)))
            return None
        logger.error(
            "%s failed for %r",
            type(self).__name__,
            conn,
            exc_info=exc,
            extra=log_fields("handler.failed", conn, component=type(self).__name__, error=type(exc).__name__),
        )
        conn.close(CloseCode.INTERNAL_ERROR, "internal error")
        return None

    def on_invalid(self, conn: Connection, error: InvalidMessage) -> Any:
        """Handle a message that cannot be read, or is not of a type that the handlers accept.

        By default the client gets a message that says what is wrong. After `Options.max_invalid_messages` of them, the
        connection is closed with code 1007.
        """
        if conn._messages is not None:
            conn._messages.refuse(conn, error)

    def on_request(self, request: Request) -> Response | Awaitable[Response]:
        """Answer a plain HTTP request; by default with status 426, because a component expects WebSocket clients.

        Raises:
            Refuse: the server answers with that status.
        """
        raise Refuse(426, UPGRADE_HEADERS, "this is a WebSocket; connect with a WebSocket client")

    def _for_connection(self) -> MessageComponent:
        """Return the component whose hooks are called for a connection that this one has accepted."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """How to accept a handshake; `on_handshake` can return one.

    Args:
        component: the component whose hooks are called for this connection; None is the one that returned the Accept.
            A middleware that acts only at the handshake names the component inside it, and costs nothing afterwards.
        subprotocol: accept with this subprotocol.
        subprotocols: choose among these instead of the component's own, in the server's order.
        require_subprotocol: refuse the handshake with status 426 if the client offered none of the subprotocols.
        headers: additional fields of the 101 response, such as a cookie.
        options: limits for this connection instead of the server's. Options that only the server reads, such as
            `handshake_timeout`, must be those of the server; others answer the handshake with status 500.
    """

    component: MessageComponent | None = None
    subprotocol: str | None = None
    subprotocols: Sequence[str] | None = None
    require_subprotocol: bool = False
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # a cookie is a secret
    options: Options | None = None


HandshakeAnswer = Accept | str | None
ComponentFactory = Callable[[], MessageComponent]


def in_thread(hook: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """Mark a `def` hook that blocks: it runs in a thread, still in order and one call at a time for each connection.

    Inside the thread, use a connection through `anyio.from_thread.run_sync(conn.send, message)`.

    Raises:
        ConfigurationError: the hook is an `async def`, which must not block anyway.
    """
    if inspect.iscoroutinefunction(hook):
        raise ConfigurationError(f"in_thread is for def hooks; {hook.__qualname__} is an async def")

    @functools.wraps(hook)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return await anyio.to_thread.run_sync(functools.partial(hook, *args, **kwargs))

    return run


def handler(method: HandlerT) -> HandlerT:
    """Mark a method whose name begins with `on_` and that the component calls itself.

    Without the mark such a method is taken for a misspelt hook when the component is routed.
    """
    setattr(method, HANDLER_MARK, True)
    return method


class EchoServer(MessageComponent):
    """Sends every message back as text or binary, as it came (Ratchet's EchoServer made all of it text)."""

    def on_message(self, conn: Connection, message: Any) -> None:
        """Send the message back; never blocks."""
        conn.send(message)
