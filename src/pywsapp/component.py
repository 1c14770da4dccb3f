"""What a person writes: a component, and what it may answer to a handshake."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import anyio.to_thread
from typing_extensions import ParamSpec

from pywsapp._protocol.handshake import UPGRADE_HEADERS
from pywsapp.close_codes import CloseCode, cut_reason
from pywsapp.connection import Connection
from pywsapp.exceptions import ConfigurationError, Refuse, TopicError
from pywsapp.http import Request, Response
from pywsapp.options import Options
from pywsapp.topics.topic import Topic

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
logger = logging.getLogger("pywsapp")


class MessageComponent:
    """The base of every application: four methods, of which you override those you need.

    Each may be `def` or `async def`, or a blocking `def` marked with `in_thread`. The order in which they are
    called is promised in `pywsapp._lifecycle.lifecycle`. Mirrors Ratchet's MessageComponentInterface; `on_handshake` is
    new.

    Attributes:
        subprotocols: the subprotocols this component speaks, the preferred one first (Ratchet's
            WsServerInterface::getSubProtocols).
    """

    subprotocols: Sequence[str] = ()

    def on_handshake(self, request: Request) -> HandshakeAnswer | Awaitable[HandshakeAnswer]:
        """Decide about a WebSocket handshake before it is accepted.

        Returns:
            None to accept, the name of the subprotocol to accept with, or an `Accept`.

        Raises:
            Refuse: answers with that status; nothing else of the component is called for this request.
        """
        return None

    def on_open(self, conn: Connection) -> Any:
        """Take a new connection; called once, after acceptance."""

    def on_message(self, conn: Connection, message: Any) -> Any:
        """Take a message: a `str` for a text message, `bytes` for a binary one."""

    def on_close(self, conn: Connection) -> Any:
        """Say goodbye to a connection; `conn.close_code`, `close_reason` and `was_clean` are set."""

    def on_subscribe(self, conn: Connection, topic: Topic) -> Any:
        """Decide whether a connection may subscribe to a topic (Ratchet's WampServerInterface::onSubscribe).

        Raises:
            TopicError: or anything else, if it may not; `Topic.add` raises it then.
        """

    def on_unsubscribe(self, conn: Connection, topic: Topic) -> Any:
        """Learn that a connection has left a topic, by `Topic.remove` or, behind `on_close`, by its end. A def only."""

    def on_error(self, conn: Connection, exc: Exception) -> Any:
        """Take an exception of one of the others; by default it is logged and the connection closed with 1011.

        A TopicError is the peer's doing, who has named a topic that it cannot have: it is told so, with 1008.
        """
        if isinstance(exc, TopicError):
            logger.info("%r may not: %s", conn, exc)
            conn.close(CloseCode.POLICY_VIOLATION, cut_reason(str(exc)))
            return
        logger.error("%s failed for %r", type(self).__name__, conn, exc_info=exc)
        conn.close(CloseCode.INTERNAL_ERROR, "internal error")

    def on_request(self, request: Request) -> Response | Awaitable[Response]:
        """Answer a plain HTTP request; by default with 426, for here is a WebSocket.

        Raises:
            Refuse: answers with that status.
        """
        raise Refuse(426, UPGRADE_HEADERS, "this is a WebSocket; connect with a WebSocket client")


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """How a handshake is accepted; what `on_handshake` may return.

    Args:
        component: takes the connection from here on; None for the one that was asked. A component that only acts
            at the handshake hands over to the one it wraps, and costs nothing afterwards.
        subprotocol: accept with this one.
        subprotocols: choose among these instead of the component's own, by the server's order.
        require_subprotocol: refuse with 426 if none of them was offered.
        headers: further fields of the 101 response, a cookie for instance.
        options: limits for this connection instead of the server's.
    """

    component: MessageComponent | None = None
    subprotocol: str | None = None
    subprotocols: Sequence[str] | None = None
    require_subprotocol: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    options: Options | None = None


HandshakeAnswer = Accept | str | None
ComponentFactory = Callable[[], MessageComponent]


def normalized(answer: HandshakeAnswer, component: MessageComponent) -> Accept:
    """Give the Accept that an `on_handshake` meant, with its component filled in.

    Raises:
        TypeError: it returned something else.
    """
    if answer is None:
        return Accept(component=component)
    if isinstance(answer, str):
        return Accept(component=component, subprotocol=answer)
    if isinstance(answer, Accept):
        if answer.component is not None:
            return answer
        return dataclasses.replace(answer, component=component)
    raise TypeError(
        f"{type(component).__name__}.on_handshake must return None, a subprotocol or an Accept, not {answer!r}"
    )


def is_awaited(result: object) -> bool:
    """Tell whether an answer is still to be awaited; what answers are otherwise is told apart first, and fast."""
    return result is not None and not isinstance(result, (Accept, str, Response)) and inspect.isawaitable(result)


def then(result: T | Awaitable[T], step: Callable[[T], R]) -> R | Awaitable[R]:
    """Apply a step to a result that may have to be awaited first; without a task if it has not."""
    if is_awaited(result):
        return _later(cast("Awaitable[T]", result), step)
    return step(cast("T", result))


async def _later(result: Awaitable[T], step: Callable[[T], R]) -> R:
    return step(await result)


def in_thread(handler: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """Mark a `def` handler that blocks: it runs in a worker thread, still in order and one at a time.

    Inside it, `Connection` is used through `anyio.from_thread.run_sync(conn.send, message)`.

    Raises:
        ConfigurationError: the handler is an `async def`, which must not block anyway.
    """
    if inspect.iscoroutinefunction(handler):
        raise ConfigurationError(f"in_thread is for def handlers; {handler.__qualname__} is an async def")

    @functools.wraps(handler)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return await anyio.to_thread.run_sync(functools.partial(handler, *args, **kwargs))

    return run


_HANDLERS = {
    "on_handshake": ("request",),
    "on_open": ("conn",),
    "on_message": ("conn", "message"),
    "on_close": ("conn",),
    "on_error": ("conn", "exc"),
    "on_subscribe": ("conn", "topic"),
    "on_unsubscribe": ("conn", "topic"),
    "on_request": ("request",),
}


def check_component(component: object) -> MessageComponent | ComponentFactory:
    """Check that something can be routed: a component, or a class or function that makes one.

    Raises:
        ConfigurationError: it cannot, or one of its handlers takes the wrong arguments.
    """
    if isinstance(component, type):
        if not issubclass(component, MessageComponent):
            raise ConfigurationError(f"{component.__name__} must be a subclass of MessageComponent")
        for name, arguments in _HANDLERS.items():
            _check_handler(component, component.__name__, name, ("self", *arguments))
        return component
    if isinstance(component, MessageComponent):
        for name, arguments in _HANDLERS.items():
            _check_handler(component, type(component).__name__, name, arguments)
        return component
    if callable(component):
        return component
    raise ConfigurationError(
        f"a route needs a MessageComponent (or a class or function that makes one), not {component!r}"
    )


def make_component(source: MessageComponent | ComponentFactory) -> MessageComponent:
    """Give the component for a new connection: the shared instance, or a fresh one from the factory.

    Raises:
        TypeError: the factory did not make a component.
    """
    if isinstance(source, MessageComponent):
        return source
    component = source()
    if not isinstance(component, MessageComponent):
        raise TypeError(f"{source!r} must return a MessageComponent, but returned {component!r}")
    return component


def _check_handler(owner: object, label: str, name: str, arguments: tuple[str, ...]) -> None:
    handler = getattr(owner, name)
    if name == "on_unsubscribe" and inspect.iscoroutinefunction(handler):
        raise ConfigurationError(f"{label}.on_unsubscribe must be a def: leaving a topic waits for nothing")
    try:
        inspect.signature(handler).bind(*arguments)
    except TypeError as exc:
        wanted = ", ".join(arguments if arguments[0] == "self" else ("self", *arguments))
        raise ConfigurationError(f"{label}.{name} must take ({wanted}): {exc}") from None
    except ValueError:
        return  # a builtin without a signature


class EchoServer(MessageComponent):
    """Sends every message back as what it was, text or binary (Ratchet's EchoServer, which made all of it text)."""

    def on_message(self, conn: Connection, message: Any) -> None:
        """Send a message back; never blocks."""
        conn.send(message)

    def on_error(self, conn: Connection, exc: Exception) -> None:
        """Close with 1011, without a word in the log: there is no code here that could be mended."""
        conn.close(CloseCode.INTERNAL_ERROR)
