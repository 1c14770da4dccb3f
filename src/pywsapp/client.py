"""The client role: `connect` opens a connection to receive from, `run_client` runs a component on one."""

from __future__ import annotations

import dataclasses
import os
import ssl
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
import anyio.lowlevel

from pywsapp._alarm import alarm_type
from pywsapp._hooks import check_component, make_component
from pywsapp._messages.choosing import checked_codecs, maker_for
from pywsapp._server.client_http_connection import ClientHttpConnection, ConnectArguments, check_arguments
from pywsapp.close_codes import CloseCode
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection
from pywsapp.exceptions import ConfigurationError, ConnectionClosed, HeaderItems
from pywsapp.options import Options

if TYPE_CHECKING:
    from pywsapp._alarm import Alarm
    from pywsapp.codecs.base import Codec
    from pywsapp.component import ComponentFactory

#: Iteration ends without an exception at these close codes.
_NORMAL_ENDS = (CloseCode.NORMAL, CloseCode.GOING_AWAY)


# -- a live connection -------------------------------------------------------------------------------------------------


def connect(
    url: str,
    *surplus: NoReturn,  # takes what belongs to run_client, for an error that says so
    options: Options | None = None,
    subprotocols: Sequence[str] = (),
    headers: HeaderItems = (),
    origin: str | None = None,
    tls: ssl.SSLContext | None = None,
    unix_path: str | os.PathLike[str] | None = None,
) -> ConnectContext:
    """Connect to a WebSocket server: `async with connect(url) as conn:` gives a `ClientConnection`.

    The connection lives as long as the block. Leaving the block closes it with code 1000, or with 1011 if an exception
    leaves it, and waits for the closing handshake, `Options.close_timeout` at most. Cancellation aborts the connection.
    An exception of the block is raised as it is, never in an exception group.

    The block must be entered and left in the same task, as with a task group. Works on asyncio, uvloop and trio.

    Args:
        url: "ws://..." or "wss://...".
        options: limits and timings; `handshake_timeout` also bounds connecting.
        subprotocols: the subprotocols to offer, the preferred one first.
        headers: further header fields of the request, for example cookies or an Authorization field.
        origin: the Origin field.
        tls: the context for wss URLs; by default, certificates are checked against the system's trust store.
        unix_path: the server's Unix socket; the URL then names only the host and the path.

    Raises:
        ConfigurationError: the URL or an argument is invalid. `connect` itself raises this.
        HandshakeError: on entering, the server refused the handshake, answered it wrongly, or not in time.
        OSError: on entering, the server cannot be reached; a TimeoutError if that took too long.
    """
    if surplus or not isinstance(url, str):
        raise ConfigurationError(
            "connect() has one positional argument, the URL: `async with connect(url) as conn:`. "
            "To run a component, write `await run_client(component, url)`"
        )
    return ConnectContext(check_arguments(url, options, subprotocols, headers, origin, tls, unix_path))


class ClientConnection(Connection):
    """A connection that this side opened, and receives from; `connect` creates it.

    It has everything that a `Connection` has. Messages wait in a queue until `receive` or `async for` takes them. When
    `Options.max_queue` messages wait, reading from the socket stops, and TCP slows the server down. Pings and pongs are
    not read either then, so a program that is busy for longer than the server's ping timeout must go on receiving.

    One task receives at a time; any number of tasks can send.
    """

    __slots__ = ("_inbox",)

    def __init__(self, inbox: Inbox, *args: Any) -> None:
        super().__init__(*args)
        self._inbox = inbox

    async def receive(self) -> str | bytes:
        """Wait for the next message and return it: a `str` for text, `bytes` for binary.

        Cancelling a waiting `receive` loses no message. Messages that arrived before the end are returned first.

        Raises:
            ConnectionClosed: the connection has ended, and no message is left.
            ConfigurationError: another task is waiting in `receive` or `async for`.
        """
        return await self._inbox.take(self)

    def __aiter__(self) -> AsyncIterator[str | bytes]:
        """Iterate over the messages; the iteration ends when the connection ends with code 1000 or 1001.

        Raises:
            ConnectionClosed: the connection has ended with another code.
        """
        return self

    async def __anext__(self) -> str | bytes:
        try:
            return await self._inbox.take(self)
        except ConnectionClosed as exc:
            if exc.code in _NORMAL_ENDS:
                raise StopAsyncIteration from None
            raise


class Inbox(MessageComponent):
    """The component of a `ClientConnection`: it queues the messages that `receive` takes.

    While the queue is full, `on_message` waits. The lifecycle then stops reading, as for any handler that is busy, when
    one more message has arrived: so its own queue has a limit of 1.

    Args:
        limit: the number of messages after which `on_message` waits.
    """

    def __init__(self, limit: int) -> None:
        self._messages: deque[str | bytes] = deque()
        self._limit = limit
        self._make_alarm = alarm_type()
        self._arrival: Alarm | None = None  # a task waits for a message
        self._space: anyio.Event | None = None  # on_message waits for space in the queue
        self._receiving = False
        self._discarding = False
        self._ended = False

    def on_message(self, conn: Connection, message: str | bytes) -> Any:
        if self._discarding:
            return None
        self._messages.append(message)
        if self._arrival is not None:
            self._arrival.set()
        return self._wait_for_space() if len(self._messages) >= self._limit else None

    def on_close(self, conn: Connection) -> None:
        self._ended = True
        if self._arrival is not None:
            self._arrival.set()

    async def _wait_for_space(self) -> None:
        while len(self._messages) >= self._limit:
            self._space = anyio.Event()
            await self._space.wait()

    async def take(self, conn: Connection) -> str | bytes:
        """Wait for the oldest message and remove it from the queue.

        Raises:
            ConnectionClosed: the connection has ended, and no message is left.
            ConfigurationError: another task is waiting.
        """
        if self._receiving:
            raise ConfigurationError(
                "two tasks receive from one connection at the same time; let one task receive and pass messages on"
            )
        self._receiving = True
        try:
            while not self._messages:
                if self._ended:
                    await anyio.lowlevel.checkpoint()  # a loop that ignores the exception must not block other tasks
                    raise _closed(conn)
                self._arrival = self._make_alarm()
                await self._arrival.wait()
        finally:
            self._arrival = None
            self._receiving = False
        # Nothing is awaited from here on, or a cancellation would lose the message. Without waiting, a task can take no
        # more than the queue holds: it is filled only when the event loop runs.
        message = self._messages.popleft()
        if len(self._messages) <= self._limit // 2:
            self._resume()
        return message

    def discard(self) -> None:
        """Drop the messages that wait, and all later ones."""
        self._discarding = True
        self._messages.clear()
        self._resume()

    def _resume(self) -> None:
        if self._space is not None:
            self._space.set()
            self._space = None


def _closed(conn: Connection) -> ConnectionClosed:
    code, reason = conn.close_code, conn.close_reason
    return ConnectionClosed(
        f"the connection ended with code {code}" + (f" ({reason})" if reason else ""), code=code, reason=reason
    )


class ConnectContext:
    """An asynchronous context manager that opens one connection and closes it; `connect` creates it."""

    def __init__(self, arguments: ConnectArguments) -> None:
        self._arguments = arguments
        self._context: AbstractAsyncContextManager[ClientConnection] | None = None

    async def __aenter__(self) -> ClientConnection:
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
                "connect() opens one connection and does not reconnect; write `async with connect(url) as conn:`, "
                "and inside it `async for message in conn:`"
            )

        def __getattr__(self, name: str) -> NoReturn:
            hint = ""
            if hasattr(ClientConnection, name):
                hint = f": write `async with connect(url) as conn:`, and inside it conn.{name}"
            raise AttributeError(f"connect() returns an object without {name!r}{hint}", name=name, obj=self)


@asynccontextmanager
async def _opened(arguments: ConnectArguments) -> AsyncIterator[ClientConnection]:
    """Open a connection, and close it at the end.

    The connection runs in a background task. The task group never sees an exception of the body, because it would raise
    it in an exception group; only a cancellation passes through it.
    """
    options = arguments.options
    inbox = Inbox(options.max_queue)
    arguments = arguments._replace(options=dataclasses.replace(options, max_queue=1))
    http = ClientHttpConnection(inbox, arguments, lambda *args: ClientConnection(inbox, *args))
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


# -- a component -------------------------------------------------------------------------------------------------------


async def run_client(
    component: MessageComponent | ComponentFactory,
    url: str,
    *,
    options: Options | None = None,
    subprotocols: Sequence[str] = (),
    headers: HeaderItems = (),
    origin: str | None = None,
    tls: ssl.SSLContext | None = None,
    unix_path: str | os.PathLike[str] | None = None,
    codec: Codec | None = None,
) -> Connection:
    """Connect to a WebSocket server and run a component on the connection until it ends.

    The component gets the same calls, in the same order, as on a server. Cancelling `run_client` aborts the connection;
    `on_close` is then called too. Works on asyncio, uvloop and trio.

    Args:
        component: the component, or a class or function that makes it.
        url: "ws://..." or "wss://...".
        options: limits and timings; `handshake_timeout` also bounds connecting.
        subprotocols: the subprotocols to offer, the preferred one first.
        headers: further header fields of the request, for example cookies or an Authorization field.
        origin: the Origin field.
        tls: the context for wss URLs; by default, certificates are checked against the system's trust store.
        unix_path: the server's Unix socket; the URL then names only the host and the path.
        codec: the codec of the connection, as for `App.route`; JSON by default, if the component has typed messages.

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
    arguments = check_arguments(url, options, subprotocols, headers, origin, tls, unix_path)
    make_connection = maker_for(component, checked_codecs(codec), None, arguments.options)
    http = ClientHttpConnection(component, arguments, make_connection)
    await http.run()
    assert http.conn is not None
    return http.conn
