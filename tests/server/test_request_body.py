"""Bodies of plain requests: their length, and the work for a large one."""

from __future__ import annotations

import time
from typing import Any

import anyio
import pytest
from support.waiting import until_blocked
from support.wire import Site, serving

from pywsapp import Response
from pywsapp._server.http_connection import HttpConnection
from pywsapp._transports.memory import memory_pipe

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024


class Answer:
    """The client's end of a memory pipe."""

    def __init__(self) -> None:
        self.received = b""

    def connection_made(self, transport: Any) -> None: ...

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...


async def test_the_work_for_a_body_grows_with_its_size_only() -> None:
    """Copying what has arrived for each part of 4 KiB would take 16 GiB of copies for 16 MiB, seconds of work."""
    size, read = 16 * MIB, anyio.Event()

    async def respond(request: Any) -> Response:
        body = await request.read(size)
        read.set()
        return Response(str(len(body)))

    async with serving(Site(respond)) as server:
        connection, answer = HttpConnection(server), Answer()
        ours, _ = memory_pipe(connection, answer, extra={"peername": ("192.0.2.1", 1)})
        connection.data_received(f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode())
        await until_blocked()
        part = bytes(4096)
        began = time.process_time()
        for _ in range(size // len(part)):
            connection.data_received(part)
        used = time.process_time() - began
        await read.wait()
        await until_blocked()
        ours.pump()
    assert answer.received.endswith(b"\r\n\r\n16777216")
    assert used < 1


@pytest.mark.parametrize("digits", ["0" * 19, "9" * 19, "9" * 5000, "0" * 5000 + "1"])
async def test_a_length_of_too_many_digits_is_refused(digits: str, caplog: pytest.LogCaptureFixture) -> None:
    async def respond(request: Any) -> Response:
        return Response(await request.read(10))

    async with serving(Site(respond)) as server:
        connection, answer = HttpConnection(server), Answer()
        ours, _ = memory_pipe(connection, answer, extra={"peername": ("192.0.2.1", 1)})
        connection.data_received(f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {digits}\r\n\r\n".encode())
        ours.pump()
        ours.abort()
        ours.pump()
    assert answer.received.startswith(b"HTTP/1.1 400 ")
    assert caplog.records == []
