"""Accept connections on listening sockets and create their transports.

uvloop accepts connections itself; when file descriptors run out, it closes the connections that it cannot accept. On
the other event loops this module accepts them. At the first EMFILE anyio's `serve` ends, and asyncio's server logs one
traceback for each connection in its backlog; the loop here logs the error once, waits a moment and continues.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, cast

import anyio
from anyio.abc import SocketStream, TaskGroup

from pywsapp._server.bind import BACKLOG
from pywsapp._transports.base import TransportProtocol
from pywsapp._transports.socket import SocketTransport
from pywsapp._transports.stream import StreamTransport, secure
from pywsapp._transports.tls_buffer import share_read_buffer

ACCEPT_PAUSE_SECONDS = 0.2

_ACCEPTS_A_TURN = 128
# Logged at debug level, because every open port gets data that is not TLS.
_NOT_CONNECTED = "a connection failed before its transport was created: %r"
_AF_UNIX = getattr(socket, "AF_UNIX", None)

#: Reads from a new connection before its transport is created; the result becomes the argument of `make_protocol`.
Greet = Callable[[socket.socket], Awaitable[Any]]

_logger = logging.getLogger("pywsapp")


class Serving:
    """The listening sockets on which connections are accepted."""

    def __init__(self, sockets: Sequence[socket.socket], servers: Sequence[asyncio.AbstractServer] = ()) -> None:
        self._sockets = sockets
        self._servers = servers

    def stop_accepting(self) -> None:
        """Close the listening sockets, but not the connections; further calls do nothing."""
        for server in self._servers:
            server.close()
        for sock in self._sockets:
            if sock.fileno() >= 0:
                anyio.notify_closing(sock)
            sock.close()  # uvloop has closed the descriptor already, but a Unix socket must also remove its file


async def serve_sockets(
    sockets: Sequence[socket.socket],
    tls: ssl.SSLContext | None,
    make_protocol: Callable[..., TransportProtocol],
    task_group: TaskGroup,
    *,
    handshake_timeout: float,
    on_accept_error: Callable[[OSError], None],
    backlog: int = BACKLOG,
    greet: Greet | None = None,
) -> Serving:
    """Accept connections until `Serving.stop_accepting` is called; the caller must call it.

    Args:
        sockets: listening and non-blocking, as `bind` returns them.
        tls: the context of TLS connections, or None for plain ones.
        make_protocol: returns the protocol of a new connection. It is called before the TLS handshake on asyncio and
            uvloop, and after it on trio.
        task_group: runs the tasks that accept, and those of connections.
        handshake_timeout: seconds for the TLS handshake, and for `greet`.
        on_accept_error: called with an error such as EMFILE, after which accepting pauses; uvloop never calls it.
        backlog: the backlog of the sockets, because uvloop sets it again.
        greet: awaited for every connection before TLS and `make_protocol`, which gets its result.
    """
    loop = _asyncio_loop()
    if greet is not None or loop is None or isinstance(loop, asyncio.SelectorEventLoop):
        acceptor = _Acceptor(loop, tls, make_protocol, task_group, handshake_timeout, on_accept_error, greet)
        for sock in sockets:
            task_group.start_soon(acceptor.accept, sock)
        return Serving(sockets)
    options: dict[str, Any] = {"ssl": tls, "ssl_handshake_timeout": handshake_timeout if tls else None}
    servers: list[asyncio.AbstractServer] = []
    for sock in sockets:
        factory = cast("Any", make_protocol)
        if sock.family != _AF_UNIX:
            servers.append(await loop.create_server(factory, sock=sock, backlog=backlog, **options))
            continue
        # The socket removes its file itself (see bind._UnixSocket). Older versions of uvloop lack the argument.
        if "cleanup_socket" in (loop.create_unix_server.__doc__ or ""):
            options["cleanup_socket"] = False
        servers.append(await loop.create_unix_server(factory, sock=sock, backlog=backlog, **options))
    return Serving(sockets, servers)


class _Acceptor:
    """Accept connections and create their transports: asyncio's on asyncio, ours on trio."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None,
        tls: ssl.SSLContext | None,
        make_protocol: Callable[..., TransportProtocol],
        task_group: TaskGroup,
        handshake_timeout: float,
        on_accept_error: Callable[[OSError], None],
        greet: Greet | None,
    ) -> None:
        self._loop = loop
        self._tls = tls
        self._make_protocol = make_protocol
        self._tasks = task_group
        self._handshake_timeout = handshake_timeout
        self._on_accept_error = on_accept_error
        self._greet = greet

    async def accept(self, sock: socket.socket) -> None:
        while sock.fileno() >= 0:
            try:
                await anyio.wait_readable(sock)
                for _ in range(_ACCEPTS_A_TURN):
                    self._start(sock.accept()[0])
            except anyio.ClosedResourceError:
                return
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                continue
            except OSError as exc:
                self._on_accept_error(exc)
                await anyio.sleep(ACCEPT_PAUSE_SECONDS)

    def _start(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family != _AF_UNIX:
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._greet is not None:
            self._tasks.start_soon(self._serve_greeted, sock, self._greet)
        else:
            self._serve(sock, self._make_protocol)

    def _serve(self, sock: socket.socket, make_protocol: Callable[[], TransportProtocol]) -> None:
        if self._loop is not None:
            self._tasks.start_soon(self._serve_asyncio, sock, self._loop, make_protocol())
        elif self._tls is not None:
            self._tasks.start_soon(self._serve_tls, sock, self._tls, make_protocol)
        else:
            self._tasks.start_soon(SocketTransport(sock, make_protocol(), self._tasks).run)

    async def _serve_greeted(self, sock: socket.socket, greet: Greet) -> None:
        try:
            with anyio.fail_after(self._handshake_timeout):
                greeting = await greet(sock)
        except BaseException as exc:
            sock.close()
            if not isinstance(exc, Exception):
                raise
            _logger.debug(_NOT_CONNECTED, exc)
        else:
            self._serve(sock, functools.partial(self._make_protocol, greeting))

    async def _serve_asyncio(self, sock: socket.socket, loop: asyncio.AbstractEventLoop, protocol: Any) -> None:
        timeout = self._handshake_timeout if self._tls else None
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, sock, ssl=self._tls, ssl_handshake_timeout=timeout
            )
            share_read_buffer(transport)
        except Exception as exc:
            _logger.debug(_NOT_CONNECTED, exc)

    async def _serve_tls(
        self, sock: socket.socket, tls: ssl.SSLContext, make_protocol: Callable[[], TransportProtocol]
    ) -> None:
        try:
            with anyio.fail_after(self._handshake_timeout):
                stream = await secure(await SocketStream.from_socket(sock), tls)
        except Exception as exc:
            _logger.debug(_NOT_CONNECTED, exc)
            sock.close()
        else:
            await StreamTransport(stream, make_protocol()).run()


def _asyncio_loop() -> asyncio.AbstractEventLoop | None:
    """Return the running asyncio loop, or None on another event loop, also if that is a guest of an asyncio loop."""
    try:
        return asyncio.get_running_loop() if asyncio.current_task() is not None else None
    except RuntimeError:
        return None
