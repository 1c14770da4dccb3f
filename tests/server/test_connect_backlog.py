"""A client that connects to a Unix socket waits while the backlog of the server is full."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import anyio
import pytest

from pywsapp._server.connect import open_connection

GUARD = 20

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets")]


class Greeter:
    """Sends a greeting, and records its end."""

    def __init__(self) -> None:
        self.lost = anyio.Event()

    def connection_made(self, transport: Any) -> None:
        transport.write(b"hello")

    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


def fill_backlog(path: str) -> list[socket.socket]:
    """Connect until the server's backlog is full; return the sockets."""
    connected: list[socket.socket] = []
    while True:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        try:
            sock.connect(path)
        except BlockingIOError:
            sock.close()
            return connected
        connected.append(sock)


async def test_a_full_backlog_is_waited_for(tmp_path: Path) -> None:
    path, greeter = str(tmp_path / "socket"), Greeter()
    with socket.socket(socket.AF_UNIX) as server, anyio.fail_after(GUARD):
        server.bind(path)
        server.listen(0)
        waiting = fill_backlog(path)
        assert waiting

        async def connect() -> None:
            transport = await open_connection(
                lambda: greeter, host="", port=0, unix_path=path, task_group=tasks, timeout=GUARD
            )
            connected.append(transport)

        connected: list[Any] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connect)
            with anyio.move_on_after(0.1):
                await greeter.lost.wait()
            assert not connected
            for _ in waiting:
                server.accept()[0].close()
            server.setblocking(False)
            await anyio.wait_readable(server)
            accepted, _ = server.accept()
            accepted.setblocking(False)
            await anyio.wait_readable(accepted)
            assert accepted.recv(100) == b"hello"
            accepted.close()
            await greeter.lost.wait()
        for sock in waiting:
            sock.close()


async def test_a_full_backlog_is_given_up_after_the_timeout(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(0)
        waiting = fill_backlog(path)
        async with anyio.create_task_group() as tasks:
            with pytest.raises(TimeoutError):
                await open_connection(Greeter, host="", port=0, unix_path=path, task_group=tasks, timeout=0.1)
        for sock in waiting:
            sock.close()
