"""Several processes that share a port, each with a uvicorn: for ASGI applications."""

from __future__ import annotations

import os
import socket
from typing import Any

import uvicorn
from _common import BACKLOG, HOST


def share(port: int, processes: int) -> socket.socket:
    """Become so many processes, and give each a socket that listens on the port.

    To be called before an application exists: it may have made up a name for its process. uvicorn's own workers share
    one socket, and connections that come at once would mostly go to one of them; so the kernel spreads them over
    several sockets here (SO_REUSEPORT), as over the workers of pywsapp.
    """
    listening = [_listen(port) for _ in range(processes)]
    # All but the last are children; whoever ends this ends the whole process group.
    mine = next((sock for sock in listening[:-1] if os.fork() == 0), listening[-1])
    for sock in listening:
        if sock is not mine:
            sock.close()
    return mine


def serve(app: Any, listening: socket.socket) -> None:
    """Run uvicorn on a socket."""
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        lifespan="off",
        access_log=False,
        log_level="warning",
    )
    uvicorn.Server(config).run(sockets=[listening])


def _listen(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((HOST, port))
    sock.listen(BACKLOG)
    return sock
