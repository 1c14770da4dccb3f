"""A TLS transport of asyncio accepts calls between the loss of the connection and `connection_lost`."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest
from support.serving import Client
from support.wire import secured

from pywsapp.component import MessageComponent
from pywsapp.connection import Connection

pytestmark = pytest.mark.anyio


class Site(MessageComponent):
    """Tries everything in the turn between a loss and `connection_lost`."""

    def __init__(self) -> None:
        self.opened: list[Connection] = []
        self.closed: list[Connection] = []
        self.failures: list[Exception] = []
        self.tried_before_close: list[bool] = []

    def on_open(self, conn: Connection) -> None:
        self.opened.append(conn)

    def on_close(self, conn: Connection) -> None:
        self.closed.append(conn)

    def lose(self, conn: Connection) -> None:
        """Lose the inner transport, and try everything before `connection_lost`."""
        transport: Any = conn._outbox.transport
        machine: Any = conn._driver.machine  # type: ignore[union-attr]

        def use() -> None:
            self.tried_before_close.append(conn not in self.closed)
            for call, *args in (
                (transport.pause_reading,),
                (transport.resume_reading,),
                (transport.get_write_buffer_size,),
                (transport.set_write_buffer_limits, 1000),
                (transport.write, b"x"),
                (machine.pause_reading, 1),
                (conn.send, "x"),
                (conn.close,),
                (conn.abort,),
            ):
                try:
                    call(*args)
                except Exception as exc:
                    self.failures.append(exc)

        transport.abort()
        asyncio.get_running_loop().call_soon(use)


@pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)
async def test_a_lost_connection_can_be_used_until_its_end() -> None:
    site = Site()
    async with secured(site) as (_, secure):
        await Client(secure).handshake()
        site.lose(site.opened[0])
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await secure.receive()
    assert site.tried_before_close == [True]
    assert site.failures == []
    assert site.closed == site.opened
