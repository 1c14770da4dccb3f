"""The client role: `connect` opens a connection to receive from, `reconnecting` opens one after the other.

`run_client` runs a component on a connection. `connect_topics` uses the topics of a server.
"""

from __future__ import annotations

import inspect
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn

import anyio
from typing_extensions import TypedDict, TypeVar, Unpack

from pywsapp._connecting.arguments import ConnectArguments, FilePath, check_arguments, header_fields
from pywsapp._connecting.backoff import Backoff, ReconnectRules
from pywsapp._connecting.dialing import Dialing
from pywsapp._connecting.inbox import ClientConnection, LoopConnection, MessageT
from pywsapp._connecting.reconnecting import Clock, MakeFields, Reconnecting
from pywsapp._connecting.sync import SyncConnection
from pywsapp._connecting.topics.arguments import DEFAULT_BACKOFF, Token, make_client, subprotocol_for
from pywsapp._connecting.topics.client import TopicsClient
from pywsapp._connecting.topics.subscription import TopicMessage, TopicSubscription
from pywsapp._connecting.typed_inbox import dial_to_receive
from pywsapp._hooks import check_component, make_component
from pywsapp._messages.choosing import Codecs, check_can_read, maker_for
from pywsapp.close_codes import CloseCode
from pywsapp.codecs.base import Codec
from pywsapp.codecs.json_codec import JsonCodec
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection
from pywsapp.exceptions import ConfigurationError, HeaderItems
from pywsapp.http import Request
from pywsapp.options import Options

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from pywsapp.component import ComponentFactory

__all__ = [
    "Backoff",
    "ClientConnection",
    "ConnectKeywords",
    "LoopConnection",
    "Reconnecting",
    "SyncConnection",
    "TopicMessage",
    "TopicSubscription",
    "TopicsClient",
    "connect",
    "connect_sync",
    "connect_topics",
    "reconnecting",
    "run_client",
]


#: The type of the messages of the connection that a function returns, for type checkers.
ReceivedT = TypeVar("ReceivedT", default=str | bytes)


#: Header fields of all attempts, or what makes those of each attempt.
MadeHeaders = HeaderItems | Callable[[], HeaderItems | Awaitable[HeaderItems]]


class ConnectKeywords(TypedDict, total=False):
    """The keyword arguments of `connect`, for type hints; `headers`, `codec` and `message_type` are not among them."""

    options: Options | None
    subprotocols: Sequence[str]
    cookies: Mapping[str, str] | None
    origin: str | None
    tls: ssl.SSLContext | None
    ca_file: FilePath | None
    server_hostname: str | None
    unix_path: FilePath | None
    proxy: str | bool | None
    proxy_tls: ssl.SSLContext | None
    max_redirects: int


# -- a live connection -------------------------------------------------------------------------------------------------


def connect(
    url: str,
    *surplus: NoReturn,  # takes what belongs to run_client, for an error that says so
    headers: HeaderItems = (),
    codec: Codecs | None = None,
    message_type: TypeForm[ReceivedT] = str | bytes,  # type: ignore[assignment] # the default of the type variable
    **arguments: Unpack[ConnectKeywords],
) -> ConnectContext[ReceivedT]:
    """Connect to a WebSocket server: `async with connect(url) as conn:` gives a `ClientConnection`.

    The connection lives as long as the block. Leaving the block closes it with code 1000, or with 1011 if an exception
    leaves it, and waits for the closing handshake, `Options.close_timeout` at most. Cancellation aborts the connection.
    An exception of the block is raised as it is, never in an exception group.

    The block must be entered and left in the same task, as with a task group. Works on asyncio, uvloop and trio.

    Args:
        url: "ws://..." or "wss://...".
        headers: further header fields of the request, for example an Authorization field.
        codec: the codec that encodes the objects that you send, and reads those that you receive; or a list of codecs,
            of which the server chooses one. Their names are offered as subprotocols, unless you write `subprotocols`.
            If the server chooses none of them, the first one is used.
        message_type: the type of the messages that you receive: a class or a union, as for the annotation of
            `on_message`. By default messages come as `str` or `bytes`. Without `codec` it is read from JSON.
        options: limits and timings; `handshake_timeout` also bounds connecting.
        subprotocols: the subprotocols to offer, the preferred one first.
        cookies: names and values for the Cookie field.
        origin: the Origin field.
        tls: the context for wss URLs; by default, certificates are checked against the system's trust store.
        ca_file: a PEM file with the authorities to trust in place of the system's; without `tls` only.
        server_hostname: the name that the certificate must have; by default the host of the URL.
        unix_path: the server's Unix socket; the URL then names only the host and the path.
        proxy: "http://user:password@host:port" or the same with https, socks4, socks4a, socks5 or socks5h; the SOCKS
            ones need the extra `proxy`. True uses the proxy that the environment names (`HTTPS_PROXY`, `NO_PROXY`).
        proxy_tls: the context for TLS with an https proxy, in place of the default one.
        max_redirects: how many redirects to follow. A redirect from wss to ws is never followed, and another origin
            gets neither `headers` nor `cookies`.

    Raises:
        ConfigurationError: the URL or an argument is invalid, or a codec cannot read `message_type`. `connect` itself
            raises this.
        HandshakeError: on entering, the server refused the handshake, answered it wrongly, or not in time.
        OSError: on entering, the server cannot be reached; a TimeoutError if that took too long, or a ProxyError.
    """
    if surplus or not isinstance(url, str):
        raise ConfigurationError(
            "connect() has one positional argument, the URL: `async with connect(url) as conn:`. "
            "To run a component, write `await run_client(component, url)`"
        )
    return ConnectContext(check_arguments(url, headers=headers, codec=codec, message_type=message_type, **arguments))


class ConnectContext(Generic[MessageT]):
    """An asynchronous context manager that opens one connection and closes it; `connect` creates it."""

    def __init__(self, arguments: ConnectArguments) -> None:
        self._arguments = arguments
        self._context: AbstractAsyncContextManager[ClientConnection[MessageT]] | None = None

    async def __aenter__(self) -> ClientConnection[MessageT]:
        if self._context is not None:
            raise ConfigurationError("this connect() was used before; call connect() again for another connection")
        self._context = _opened(self._arguments)
        return await self._context.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._context is not None
        return await self._context.__aexit__(kind, exc, traceback)

    if not TYPE_CHECKING:  # type checkers report these mistakes by themselves

        def __await__(self) -> NoReturn:
            raise ConfigurationError("connect() cannot be awaited; write `async with connect(url) as conn:`")

        def __enter__(self) -> NoReturn:
            raise ConfigurationError("connect() is asynchronous; write `async with connect(url) as conn:`")

        __exit__ = __enter__

        def __aiter__(self) -> NoReturn:
            raise ConfigurationError(
                "connect() opens one connection and does not reconnect: write `async with connect(url) as conn:`, "
                "and inside it `async for message in conn:`; or write `async for conn in reconnecting(url):`"
            )

        def __getattr__(self, name: str) -> NoReturn:
            hint = ""
            if hasattr(ClientConnection, name):
                hint = f": write `async with connect(url) as conn:`, and inside it conn.{name}"
            raise AttributeError(f"connect() returns an object without {name!r}{hint}", name=name, obj=self)


@asynccontextmanager
async def _opened(arguments: ConnectArguments) -> AsyncIterator[ClientConnection[Any]]:
    """Open a connection, and close it at the end.

    The connection runs in a background task. The task group never sees an exception of the body, because it would raise
    it in an exception group; only a cancellation passes through it.
    """
    inbox, http = dial_to_receive(arguments, ClientConnection)
    failure: BaseException | None = None

    async def run() -> None:
        nonlocal failure
        try:
            await http.run()
        except Exception as exc:
            if http.conn is not None:
                raise  # a defect of the library; it cancels the body
            failure = exc
        finally:
            http.decided.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await http.decided.wait()
        conn = http.conn
        if isinstance(conn, ClientConnection):
            code = CloseCode.NORMAL
            try:
                yield conn
            except Exception as exc:
                failure, code = exc, CloseCode.INTERNAL_ERROR
            except BaseException as exc:
                conn.abort()
                if not isinstance(exc, (KeyboardInterrupt, SystemExit)):
                    raise
                failure = exc
            finally:
                inbox.discard()
            await conn.close(code)
    if failure is not None:
        try:
            raise failure
        finally:
            failure = None  # its traceback refers to this frame


# -- one connection after the other ------------------------------------------------------------------------------------


def reconnecting(
    url: str,
    *,
    headers: MadeHeaders = (),
    backoff: Backoff | None = None,
    codec: Codecs | None = None,
    message_type: TypeForm[ReceivedT] = str | bytes,  # type: ignore[assignment] # the default of the type variable
    **arguments: Unpack[ConnectKeywords],
) -> Reconnecting[ReceivedT]:
    """Connect again and again: `async for conn in reconnecting(url):` gives an open connection in each pass.

    In the body, `async for message in conn` ends when the connection has ended. When the body ends then, the close code
    decides (`pywsapp.close_codes.come_back`). Usually the loop waits and connects again. It ends without an exception
    after code 1000, and raises ConnectionClosed after other codes that are final. After code 4401 it connects with new
    credentials, which only a function as `headers` can return. If the body ends while the connection is open,
    the connection is closed with 1000, and the loop connects again too; write `break` to end it.

    An attempt that fails is repeated too: a server that cannot be reached, or that answers with status 408, 425, 429 or
    5xx. A Retry-After field is obeyed. Other answers, and a certificate that is not valid, end the loop. Status 401
    ends it if `headers` is no function, or if the next headers are refused too.

    `break` and an exception of the body close the connection with code 1000, which goes on in the background;
    `async with contextlib.aclosing(reconnecting(url)) as connections:` waits for it. Works on asyncio, uvloop and trio.

    Args:
        url: "ws://..." or "wss://...".
        headers: further header fields of the request, or a function that returns those of each attempt. The function
            can be async. An OSError of it counts as a failed attempt; other exceptions of it leave the loop.
        backoff: the pauses between attempts, and when to give up.
        codec: as for `connect`.
        message_type: as for `connect`. InvalidMessage leaves the loop, like other exceptions of the body.
        arguments: the other keyword arguments of `connect`.

    Returns:
        an asynchronous iterator of `LoopConnection`.

    Raises:
        ConfigurationError: the URL or an argument is invalid. `reconnecting` itself raises this.
        HandshakeError: in the loop, the server refused the handshake in a way that a repetition does not change.
        OSError: in the loop, the server cannot be reached, and a limit of `Backoff` is exceeded.
        ConnectionClosed: in the loop, a connection has ended with a code after which no client comes back.
    """
    headers, make_fields = _fields_of(headers, arguments)
    checked = check_arguments(url, headers=headers, codec=codec, message_type=message_type, **arguments)
    clock = Clock()
    rules = ReconnectRules(_checked_backoff(backoff, Backoff()), renews=make_fields is not None, uniform=clock.uniform)
    return Reconnecting(checked, make_fields, rules, clock)


def _checked_backoff(backoff: Backoff | None, default: Backoff) -> Backoff:
    backoff = default if backoff is None else backoff
    if not isinstance(backoff, Backoff):
        raise ConfigurationError(f"backoff must be a Backoff, not {backoff!r}")
    return backoff


def _fields_of(headers: MadeHeaders, arguments: ConnectKeywords) -> tuple[HeaderItems, MakeFields | None]:
    """Return the fields of all attempts, and what makes those of each attempt."""
    if not callable(headers):
        return headers, None
    return (), _fields_maker(headers, arguments.get("cookies"), arguments.get("origin"))


def _fields_maker(
    make_headers: Callable[[], HeaderItems | Awaitable[HeaderItems]],
    cookies: Mapping[str, str] | None,
    origin: str | None,
) -> MakeFields:
    async def make_fields() -> tuple[tuple[str, str], ...]:
        made: Any = make_headers()
        return header_fields(await made if inspect.isawaitable(made) else made, cookies, origin)

    return make_fields


# -- topics ------------------------------------------------------------------------------------------------------------


def connect_topics(
    url: str,
    *,
    token: Token = None,
    headers: MadeHeaders = (),
    backoff: Backoff | None = None,
    codec: Codec | None = None,
    max_queue: int = 1000,
    max_queue_bytes: int = 1024 * 1024,
    **arguments: Unpack[ConnectKeywords],
) -> TopicsClient:
    """Connect to a route with a `TopicComponent`: `async with connect_topics(url) as topics:` gives a `TopicsClient`.

    The client speaks `pywsapp.topics.v1`. It connects again after each loss until the end of the block, or until the
    server refuses it permanently. Then waiting calls and later calls raise an exception. After each reconnect it
    subscribes again and gets the missed messages. Works on asyncio, uvloop and trio.

    Args:
        url: "ws://..." or "wss://...".
        token: the token of the user, or a function that returns it, or None for none. The function is called for each
            attempt to connect, and when the token expires. It can be async. An OSError of it counts as a failed
            attempt; other exceptions of it end the client.
        headers: further header fields of the request, or a function that returns those of each attempt, as for
            `reconnecting`.
        backoff: the pauses between attempts, and when to give up. By default the first pause is 0.5 seconds at most,
            and the longest one 30 seconds.
        codec: `JsonCodec()`, which is the default, or `MessagePackCodec()`.
        max_queue: messages to publish and calls that can wait, for a connection or their replies.
        max_queue_bytes: bytes of these messages and calls.
        arguments: the other keyword arguments of `connect`, without `subprotocols`.

    Raises:
        ConfigurationError: the URL or an argument is invalid. `connect_topics` itself raises this.
        HandshakeError: on entering, the server refused the handshake in a way that a repetition does not change.
        OSError: on entering, the server cannot be reached, and a limit of `backoff` is exceeded.
        ConnectionClosed: on entering, the server refuses this client by a close code.
        CallError: on entering, the server does not accept the token.
    """
    codec = JsonCodec() if codec is None else codec
    if "subprotocols" in arguments:
        raise ConfigurationError("connect_topics has a subprotocol of its own; `codec` chooses it")
    fixed, make_fields = _fields_of(headers, arguments)
    arguments["subprotocols"] = (subprotocol_for(codec),)
    checked = check_arguments(url, headers=fixed, **arguments)
    backoff = _checked_backoff(backoff, DEFAULT_BACKOFF)
    return make_client(checked, codec, token, make_fields, backoff, max_queue, max_queue_bytes)


# -- without an event loop ---------------------------------------------------------------------------------------------


def connect_sync(
    url: str,
    *,
    headers: HeaderItems = (),
    codec: Codecs | None = None,
    message_type: TypeForm[ReceivedT] = str | bytes,  # type: ignore[assignment] # the default of the type variable
    **arguments: Unpack[ConnectKeywords],
) -> SyncConnection[ReceivedT]:
    """Connect to a WebSocket server from a program without an event loop: a script, the REPL, a thread.

    `with connect_sync(url) as conn:` closes the connection at the end of the block, as `connect` does. Without `with`,
    call `conn.close()`. It blocks while it connects, so do not call it in a task of an event loop: `connect` is for
    that. An event loop in a thread of its own serves the connection, and answers pings while your program is busy.

    Args:
        url: "ws://..." or "wss://...".
        headers: further header fields of the request.
        codec: as for `connect`.
        message_type: as for `connect`.
        arguments: the other keyword arguments of `connect`.

    Returns:
        an open connection.

    Raises:
        ConfigurationError: the URL or an argument is invalid.
        HandshakeError: the server refused the handshake, answered it wrongly, or not in time.
        OSError: the server cannot be reached; a TimeoutError if that took too long, or a ProxyError.
    """
    return SyncConnection(check_arguments(url, headers=headers, codec=codec, message_type=message_type, **arguments))


# -- a component -------------------------------------------------------------------------------------------------------


async def run_client(
    component: MessageComponent | ComponentFactory,
    url: str,
    *,
    headers: HeaderItems = (),
    codec: Codecs | None = None,
    **arguments: Unpack[ConnectKeywords],
) -> Connection:
    """Connect to a WebSocket server and run a component on the connection until it ends.

    The component gets the same calls, in the same order, as on a server. Cancelling `run_client` aborts the connection;
    `on_close` is then called too. Works on asyncio, uvloop and trio.

    Args:
        component: the component, or a class or function that makes it.
        url: "ws://..." or "wss://...".
        headers: further header fields of the request.
        codec: the codec of the connection or several, as for `connect`; JSON by default, if the component has typed
            messages.
        arguments: the other keyword arguments of `connect`.

    Returns:
        The connection after its end, with `close_code`, `close_reason` and `was_clean`.

    Raises:
        ConfigurationError: the component, the URL or an argument is invalid.
        HandshakeError: the server refused the handshake, answered it wrongly, or not in time.
        OSError: the server cannot be reached; a TimeoutError if that took too long.
    """
    if isinstance(component, str):
        raise ConfigurationError("run_client() takes the component first: `await run_client(component, url)`")
    component = make_component(check_component(component))
    checked = check_arguments(url, headers=headers, codec=codec, **arguments)
    codecs = () if checked.messages is None else checked.messages.codecs
    check_can_read(component, codecs, checked.subprotocols)

    def make_connection(request: Request, subprotocol: str | None, *rest: Any) -> Connection:
        return maker_for(component, codecs, subprotocol, checked.options)(request, subprotocol, *rest)

    http = Dialing(component, checked, make_connection)
    await http.run()
    assert http.conn is not None
    return http.conn
