"""A connected socket given to a link, where nobody has a task group to run it in.

asyncio and uvloop have transports that need none. On trio a `SocketTransport` is a task, and every task is in a nursery
that somebody waits in; but a connection that is made in one call and closed in another cannot hold a nursery open in
between. What is left there is a system task, which trio ends when the program's main task has. anyio has no name for
it, so it is taken from the module of trio, which is loaded when trio runs.
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

#: asyncio itself holds its tasks only weakly.
_tasks: set[asyncio.Task[None]] = set()


def adopt_socket(sock: socket.socket, link: TransportProtocol) -> None:
    """Let a link have a connected stream socket; to be called in a task, and does not block.

    `connection_made`, or `connection_lost` if it cannot be had, follows, and not from inside this call.

    Args:
        sock: belongs to the link's transport from now on.
        link: what takes the events.
    """
    sock.setblocking(False)
    if on_asyncio():
        task = asyncio.get_running_loop().create_task(_attach(sock, link))
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
    else:
        sys.modules["trio"].lowlevel.spawn_system_task(_run, sock, link)


async def _attach(sock: socket.socket, link: Any) -> None:
    try:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: link, sock)
    except BaseException as exc:
        sock.close()
        link.connection_lost(exc if isinstance(exc, Exception) else None)
        if not isinstance(exc, Exception):
            raise


async def _run(sock: socket.socket, link: TransportProtocol) -> None:
    async with anyio.create_task_group() as tasks:
        await SocketTransport(sock, link, tasks).run()
