"""Accept connections on listening sockets and create their transports.

uvloop accepts plain connections itself; when file descriptors run out, it closes the connections that it cannot accept.
On the other event loops this module accepts them, and connections with TLS or PROXY headers on every loop, because it
counts them from then on. At the first EMFILE anyio's `serve` ends, and asyncio's server logs one traceback for each
connection in its backlog; the loop here logs the error once, waits a moment and continues.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, cast

import anyio
from anyio.abc import TaskGroup

from pywsapp._log_fields import log_fields
from pywsapp._protocol.proxy_protocol import ProxyHeader
from pywsapp._server.bind import BACKLOG
from pywsapp._server.pending import PendingConnection, PendingConnections
from pywsapp._server.tls_alerts import sending_alerts
from pywsapp._server.tls_reload import ServerTls, context_of
from pywsapp._transports.base import TransportProtocol
from pywsapp._transports.socket import SocketTransport
from pywsapp._transports.tls import secure
from pywsapp._transports.tls_buffer import share_read_buffer
from pywsapp._transports.tls_lost import survive_loss

ACCEPT_PAUSE_SECONDS = 0.2

_ACCEPTS_A_TURN = 128
_AF_UNIX = getattr(socket, "AF_UNIX", None)

#: Reads a PROXY header from a new connection before its transport is created.
Greet = Callable[[socket.socket], Awaitable[ProxyHeader]]

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
    tls: ServerTls | None,
    make_protocol: Callable[..., TransportProtocol],
    task_group: TaskGroup,
    *,
    pending: PendingConnections,
    handshake_timeout: float,
    on_accept_error: Callable[[OSError], None],
    backlog: int = BACKLOG,
    greet: Greet | None = None,
) -> Serving:
    """Accept connections until `Serving.stop_accepting` is called; the caller must call it.

    Args:
        sockets: listening and non-blocking, as `bind` returns them.
        tls: the context of TLS connections, or what reloads it; None for plain ones.
        make_protocol: returns the protocol of a new connection. Its argument is the pending connection, or missing
            where uvloop accepts. On asyncio and uvloop it is called before the TLS handshake, and on trio after it.
        task_group: runs the tasks that accept, and those of connections.
        pending: counts the connections from accept on, and is told of those that fail before they have a transport.
        handshake_timeout: seconds for `greet` and the TLS handshake together.
        on_accept_error: called with an error such as EMFILE, after which accepting pauses; uvloop never calls it.
        backlog: the backlog of the sockets, because uvloop sets it again.
        greet: awaited for every connection before TLS and `make_protocol`.
    """
    loop = _asyncio_loop()
    if greet is not None or tls is not None or loop is None or isinstance(loop, asyncio.SelectorEventLoop):
        acceptor = _Acceptor(loop, tls, make_protocol, task_group, pending, handshake_timeout, on_accept_error, greet)
        for sock in sockets:
            task_group.start_soon(acceptor.accept, sock)
        return Serving(sockets)
    options: dict[str, Any] = {}
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
        tls: ServerTls | None,
        make_protocol: Callable[..., TransportProtocol],
        task_group: TaskGroup,
        pending: PendingConnections,
        handshake_timeout: float,
        on_accept_error: Callable[[OSError], None],
        greet: Greet | None,
    ) -> None:
        self._loop = loop
        self._tls = tls
        self._make_protocol = make_protocol
        self._tasks = task_group
        self._pending = pending
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
        if self._greet is not None or self._tls is not None:
            deadline = anyio.current_time() + self._handshake_timeout
            scope = anyio.CancelScope(deadline=deadline)
            self._tasks.start_soon(self._prepare, sock, scope, self._pending.add(_Preparation(scope), deadline))
            return
        # Counted here and not in the task, because trio starts tasks in any order.
        entry = self._pending.add(_NO_OWNER)
        if self._loop is not None:
            self._tasks.start_soon(self._serve_asyncio, sock, self._loop, entry)
        else:
            self._tasks.start_soon(SocketTransport(sock, self._make_protocol(entry), self._tasks).run)

    async def _prepare(self, sock: socket.socket, scope: anyio.CancelScope, entry: PendingConnection) -> None:
        """Read the PROXY header and do the TLS handshake of a connection, within one time limit, and serve it."""
        is_connected = False
        transport: SocketTransport | None = None
        try:
            with scope:
                if self._greet is not None:
                    entry.header = await self._greet(sock)
                if self._loop is not None:
                    await self._connect(self._loop, sock, self._make_protocol(entry))
                else:
                    transport = await self._make_transport(sock, entry)
                is_connected = True
            if not is_connected:
                _log_not_connected(TimeoutError())
        except Exception as exc:
            _log_not_connected(exc)
        finally:
            if not is_connected:
                self._pending.remove(entry)
                sock.close()
        if transport is not None:
            await transport.run()

    async def _make_transport(self, sock: socket.socket, entry: PendingConnection) -> SocketTransport:
        if self._tls is None:
            return SocketTransport(sock, self._make_protocol(entry), self._tasks)
        tls, received = await secure(sock, context_of(self._tls))
        tls.set_protocol(self._make_protocol(entry))
        return SocketTransport(sock, tls, self._tasks, received)

    async def _connect(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: Any) -> None:
        context = context_of(self._tls) if self._tls is not None else None
        timeout = self._handshake_timeout if context is not None else None
        with sending_alerts(sock, context):
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, sock, ssl=context, ssl_handshake_timeout=timeout
            )
        share_read_buffer(transport)
        survive_loss(transport)

    async def _serve_asyncio(
        self, sock: socket.socket, loop: asyncio.AbstractEventLoop, entry: PendingConnection
    ) -> None:
        try:
            await self._connect(loop, sock, self._make_protocol(entry))
        except Exception as exc:
            self._pending.remove(entry)
            _log_not_connected(exc)


def _log_not_connected(exc: Exception) -> None:
    if _logger.isEnabledFor(logging.DEBUG):  # every open port gets data that is not TLS
        _logger.debug(
            "a connection failed before its transport was created: %r",
            exc,
            extra=log_fields("connection.not_accepted", error=type(exc).__name__),
        )


class _Preparation:
    """The owner of a pending connection until its transport exists.

    Args:
        scope: the cancel scope of reading its PROXY header and of its TLS handshake.
    """

    received = 0

    def __init__(self, scope: anyio.CancelScope) -> None:
        self._scope = scope

    def expire(self) -> None:
        self._scope.cancel()

    def evict(self) -> None:
        self._scope.cancel()


class _NoOwner:
    """The owner of a plain connection until its transport exists, which takes one turn of the event loop."""

    received = 0

    def expire(self) -> None: ...
    def evict(self) -> None: ...


_NO_OWNER = _NoOwner()


def _asyncio_loop() -> asyncio.AbstractEventLoop | None:
    """Return the running asyncio loop, or None on another event loop, also if that is a guest of an asyncio loop."""
    try:
        return asyncio.get_running_loop() if asyncio.current_task() is not None else None
    except RuntimeError:
        return None
