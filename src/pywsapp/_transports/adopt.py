"""Adopting a connected socket where there is no task group.

asyncio and uvloop have transports that need no task group. On trio a `SocketTransport` is a task, and every task
belongs to a nursery in which another task waits. A connection that is opened in one call and closed in another cannot
keep a nursery open in between. For such a connection trio has system tasks, which it cancels when the main task of the
program has ended. anyio has no name for system tasks, so they come from the module of trio, which is loaded when trio
runs.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import anyio

from pywsapp._event_loop import on_asyncio
from pywsapp._transports.base import TransportProtocol
from pywsapp._transports.socket import SocketTransport

#: asyncio keeps only weak references to its tasks.
_tasks: set[asyncio.Task[None]] = set()


def adopt_socket(sock: socket.socket, protocol: TransportProtocol) -> None:
    """Create a transport for a connected stream socket. Call it in a task; it does not block.

    `protocol.connection_made` follows after this call has returned, or `protocol.connection_lost` if the event loop
    cannot use the socket.

    Args:
        sock: a connected socket; the transport owns it from now on.
        protocol: the receiver of the events.
    """
    sock.setblocking(False)
    if on_asyncio():
        task = asyncio.get_running_loop().create_task(_adopt(sock, protocol))
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
    else:
        sys.modules["trio"].lowlevel.spawn_system_task(_run, sock, protocol)


async def _adopt(sock: socket.socket, protocol: Any) -> None:
    try:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, sock)
    except BaseException as exc:
        sock.close()
        protocol.connection_lost(exc if isinstance(exc, Exception) else None)
        if not isinstance(exc, Exception):
            raise


async def _run(sock: socket.socket, protocol: TransportProtocol) -> None:
    async with anyio.create_task_group() as tasks:
        await SocketTransport(sock, protocol, tasks).run()
