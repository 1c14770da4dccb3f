"""ASGI applications in several processes that share a port, each with its own uvicorn."""

from __future__ import annotations

import os
import socket
from typing import Any

import uvicorn
from _common import BACKLOG, HOST


def share(port: int, processes: int) -> socket.socket:
    """Fork into some processes; in each one, return its own listening socket on the port.

    Call it before the application is created, because an application can choose a name for its process. The workers of
    uvicorn share one socket, and most of many simultaneous connections would go to one worker. With several sockets
    (SO_REUSEPORT) the kernel distributes the connections, as it does for the workers of pywsapp.
    """
    listening = [_listen(port) for _ in range(processes)]
    # All processes but the last are children; they end with the process group.
    own = next((sock for sock in listening[:-1] if os.fork() == 0), listening[-1])
    for sock in listening:
        if sock is not own:
            sock.close()
    return own


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
