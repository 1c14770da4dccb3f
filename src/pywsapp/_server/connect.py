"""Connect a client to a server, on every event loop."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any, cast

import anyio
from anyio.abc import SocketAttribute, TaskGroup

from pywsapp._event_loop import on_asyncio
from pywsapp._transports.base import Transport, TransportProtocol
from pywsapp._transports.socket import SocketTransport
from pywsapp._transports.tls import secure
from pywsapp._transports.tls_buffer import share_read_buffer
from pywsapp._transports.tls_lost import survive_loss

#: Seconds between two attempts to connect to a Unix socket whose backlog is full.
_FULL_BACKLOG_PAUSE = 0.02


async def open_connection(
    make_protocol: Callable[[], TransportProtocol],
    *,
    host: str,
    port: int,
    unix_path: str | None = None,
    sock: socket.socket | None = None,
    tls: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    task_group: TaskGroup,
    timeout: float,  # noqa: ASYNC109 - a client's option, passed through
) -> Transport:
    """Connect to a server; when this returns, `connection_made` of the protocol has been called.

    Args:
        make_protocol: returns the protocol; called when the connection is established.
        host: the server's name or IP address.
        port: the server's port.
        unix_path: the path of the server's Unix socket, instead of host and port.
        sock: a non-blocking TCP socket that is connected to the server already.
        tls: the context of a TLS connection, or None for a plain one.
        server_hostname: the name that the certificate must have; by default the host.
        task_group: runs the tasks of the connection; asyncio needs none.
        timeout: seconds for the whole connection attempt, TLS included.

    Raises:
        OSError: the server is not reachable, or not in time (TimeoutError), or TLS failed (ssl.SSLError).
    """
    name = (server_hostname or host) if tls is not None else None
    loop = asyncio.get_running_loop() if on_asyncio() else None
    with anyio.fail_after(timeout):
        if loop is not None:
            factory = cast("Any", make_protocol)
            if unix_path is not None:
                unix = await _connect_unix(unix_path)
                pair = await loop.create_unix_connection(factory, sock=unix, ssl=tls, server_hostname=name)
            elif sock is not None:
                pair = await loop.create_connection(factory, sock=sock, ssl=tls, server_hostname=name)
            else:
                pair = await loop.create_connection(factory, host, port, ssl=tls, server_hostname=name)
            transport: Any = pair[0]
            share_read_buffer(transport)
            survive_loss(transport)
            return cast("Transport", transport)
        if unix_path is not None:
            sock = await _connect_unix(unix_path)
        elif sock is None:
            sock = (await anyio.connect_tcp(host, port)).extra(SocketAttribute.raw_socket)
        return await _open_own_transport(make_protocol, sock, tls, name, task_group)


async def _open_own_transport(
    make_protocol: Callable[[], TransportProtocol],
    sock: socket.socket,
    tls: ssl.SSLContext | None,
    name: str | None,
    task_group: TaskGroup,
) -> Transport:
    """Create the transport of a connected socket on an event loop that has no transports."""
    if tls is None:
        plain = SocketTransport(sock, make_protocol(), task_group)
        await task_group.start(plain.run)
        return plain
    try:
        transport, received = await secure(sock, tls, name)
    except BaseException:
        sock.close()
        raise
    transport.set_protocol(make_protocol())
    await task_group.start(SocketTransport(sock, transport, task_group, received).run)
    return transport


async def _connect_unix(path: str) -> socket.socket:
    """Connect to a Unix socket; while the server's backlog is full, try again.

    Linux answers EAGAIN then, and the socket stays unconnected. asyncio and trio take it for a connection in progress,
    and uvloop raises it.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        while True:
            try:
                sock.connect(path)
            except BlockingIOError:
                await anyio.sleep(_FULL_BACKLOG_PAUSE)
            else:
                return sock
    except BaseException:
        sock.close()
        raise
