"""Where connections come from: what to listen on, the sockets for it, and the serving of them.

uvloop accepts by itself; when file descriptors run out it closes what it cannot take. Elsewhere accepting is done here,
because at the first EMFILE anyio's own `serve` ends, and asyncio's server logs as many tracebacks as its backlog is
long. This loop reports it, waits a moment and goes on.
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

from pywsapp._transports.base import TransportProtocol
from pywsapp._transports.socket import SocketTransport
from pywsapp._transports.stream import StreamTransport, secure

BACKLOG = 4096
ACCEPT_PAUSE_SECONDS = 0.2

_ACCEPTS_A_TURN = 128
_PORT_RETRIES = 10
_PROBE_SECONDS = 1.0
# At debug level: whatever a stranger sends instead of TLS is everyday traffic of an open port.
_NOT_CONNECTED = "a connection failed before it began: %r"
_AF_UNIX = getattr(socket, "AF_UNIX", None)

#: Talks with a fresh connection before its transport is made; gives what the link is to know of that.
Greet = Callable[[socket.socket], Awaitable[Any]]

_logger = logging.getLogger("pywsapp")


class Serving:
    """Listening sockets that are being served."""

    def __init__(self, sockets: Sequence[socket.socket], servers: Sequence[asyncio.AbstractServer] = ()) -> None:
        self._sockets = sockets
        self._servers = servers

    def stop_accepting(self) -> None:
        """Close the listening sockets and leave the connections alone; may be called again."""
        for server in self._servers:
            server.close()
        for sock in self._sockets:
            if sock.fileno() >= 0:
                anyio.notify_closing(sock)
            # Also when uvloop has taken the descriptor out: a Unix socket still has its file to remove.
            sock.close()


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
    """Accept connections on what `bind` gave, each with a link of its own, until `stop_accepting`, which is a must.

    Args:
        sockets: listening and non-blocking.
        tls: the context of TLS connections, or None for plain ones.
        make_protocol: called for every connection; on asyncio and uvloop before the TLS handshake, on trio after it.
        task_group: where the tasks of accepting and of connections run.
        handshake_timeout: seconds for the TLS handshake, and for `greet`.
        on_accept_error: told of an error such as EMFILE, after which accepting pauses; never called by uvloop.
        backlog: the listener's backlog once more, because uvloop sets it anew.
        greet: awaited for every connection before all else; `make_protocol` gets what it gives.
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
        # The file is removed by whoever made it (see _UnixSocket); older ones of uvloop do not know the argument.
        if "cleanup_socket" in (loop.create_unix_server.__doc__ or ""):
            options["cleanup_socket"] = False
        servers.append(await loop.create_unix_server(factory, sock=sock, backlog=backlog, **options))
    return Serving(sockets, servers)


class _Acceptor:
    """Accepts connections, and hands them to asyncio's transports or, without asyncio, to ours."""

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
        self._make_link = make_protocol
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
            self._serve(sock, self._make_link)

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
                said = await greet(sock)
        except BaseException as exc:
            sock.close()
            if not isinstance(exc, Exception):
                raise
            _logger.debug(_NOT_CONNECTED, exc)
        else:
            self._serve(sock, functools.partial(self._make_link, said))

    async def _serve_asyncio(self, sock: socket.socket, loop: asyncio.AbstractEventLoop, link: Any) -> None:
        timeout = self._handshake_timeout if self._tls else None
        try:
            await loop.connect_accepted_socket(lambda: link, sock, ssl=self._tls, ssl_handshake_timeout=timeout)
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
    """Give the running asyncio loop, or None under another event loop (also one that is a guest of asyncio)."""
    try:
        return asyncio.get_running_loop() if asyncio.current_task() is not None else None
    except RuntimeError:
        return None
