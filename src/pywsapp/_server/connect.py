"""The client's way out: a link connected to a server, on every event loop."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, cast

import anyio
from anyio.abc import SocketAttribute, TaskGroup

from pywsapp._event_loop import on_asyncio
from pywsapp._transports.base import Transport, TransportProtocol
from pywsapp._transports.socket import SocketTransport
from pywsapp._transports.stream import StreamTransport, secure


async def open_connection(
    make_protocol: Callable[[], TransportProtocol],
    *,
    host: str,
    port: int,
    unix_path: str | None = None,
    tls: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    task_group: TaskGroup,
    timeout: float,  # noqa: ASYNC109 - a client's option, handed through
) -> Transport:
    """Connect a link to a server; `connection_made` has been called when this returns.

    Args:
        make_protocol: called once there is a connection.
        host: the server's name or IP address.
        port: its port.
        unix_path: its Unix socket, instead of host and port.
        tls: the context of a TLS connection, or None for a plain one.
        server_hostname: the name the certificate must have; host when left out.
        task_group: where the tasks of the connection run; asyncio needs none.
        timeout: seconds for all of it.

    Raises:
        OSError: not reachable, not in time (TimeoutError) or no TLS (ssl.SSLError).
    """
    name = (server_hostname or host) if tls is not None else None
    loop = asyncio.get_running_loop() if on_asyncio() else None
    with anyio.fail_after(timeout):
        if loop is not None:
            factory = cast("Any", make_protocol)
            if unix_path is not None:
                pair = await loop.create_unix_connection(factory, unix_path, ssl=tls, server_hostname=name)
            else:
                pair = await loop.create_connection(factory, host, port, ssl=tls, server_hostname=name)
            return cast("Transport", pair[0])
        stream = await (anyio.connect_tcp(host, port) if unix_path is None else anyio.connect_unix(unix_path))
        transport: SocketTransport | StreamTransport
        if tls is None:
            transport = SocketTransport(stream.extra(SocketAttribute.raw_socket), make_protocol(), task_group)
        else:
            transport = StreamTransport(await secure(stream, tls, name), make_protocol())
        await task_group.start(transport.run)
        return transport
