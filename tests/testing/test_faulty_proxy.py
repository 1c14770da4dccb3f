"""`FaultyProxy`: a network with faults between a client and an App on a real port."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from support.serving import GUARD

from pywsapp import App, ClientConnection, Connection, ConnectionClosed, EchoServer, Options, connect
from pywsapp.exceptions import ConfigurationError
from pywsapp.testing import AppServer, FaultyProxy

pytestmark = pytest.mark.anyio


class Recorder(EchoServer):
    def __init__(self) -> None:
        self.closed: list[int | None] = []
        self.changed = anyio.Event()

    def on_close(self, conn: Connection) -> None:
        self.closed.append(conn.close_code)
        self.changed.set()

    async def until_closed(self) -> list[int | None]:
        with anyio.fail_after(GUARD):
            await self.changed.wait()
        return self.closed


@asynccontextmanager
async def connected(**options: Any) -> AsyncIterator[tuple[Recorder, FaultyProxy, ClientConnection]]:
    app = App(options=Options(**options))
    recorder = app.route("/", Recorder())
    async with (
        AppServer(app) as server,
        FaultyProxy(server.port) as proxy,
        connect(proxy.ws_url + "/", options=Options(close_timeout=1)) as conn,
    ):
        yield recorder, proxy, conn


async def test_bytes_arrive_one_by_one_and_late() -> None:
    async with connected() as (_, proxy, conn):
        proxy.piece, proxy.delay = 1, 0.001
        conn.send("hello")
        assert await conn.receive() == "hello"
        assert (proxy.connections, proxy.open_connections) == (1, 1)


async def test_a_client_that_reads_slowly() -> None:
    async with connected() as (_, proxy, conn):
        proxy.bytes_per_second = 20_000
        began = time.monotonic()
        conn.send(b"x" * 4000)
        assert await conn.receive() == b"x" * 4000
        assert time.monotonic() - began > 0.15


async def test_a_reset() -> None:
    async with connected() as (recorder, proxy, conn):
        proxy.reset()
        with pytest.raises(ConnectionClosed):
            await conn.receive()
        assert await recorder.until_closed() == [1006]


async def test_a_corrupted_byte() -> None:
    async with connected() as (_, proxy, conn):
        proxy.corrupt()
        conn.send("\0")
        assert await conn.receive() == "\1"


async def test_a_cut_is_noticed_by_pings() -> None:
    async with connected(ping_interval=0.1, ping_timeout=0.1) as (recorder, proxy, conn):
        proxy.is_cut = True
        assert await recorder.until_closed() == [1006]
        proxy.is_cut = False
        with pytest.raises(ConnectionClosed):
            await conn.receive()


async def test_a_cut_can_end() -> None:
    async with connected() as (_, proxy, conn):
        proxy.is_cut = True
        assert proxy.is_cut
        conn.send("hello")
        with anyio.move_on_after(0.05) as scope:
            await conn.receive()
        assert scope.cancelled_caught
        proxy.is_cut = False
        assert await conn.receive() == "hello"


async def test_a_server_that_does_not_run() -> None:
    proxy = FaultyProxy(1)
    with pytest.raises(ConfigurationError, match="write `async with FaultyProxy"):
        _ = proxy.ws_url
    async with proxy:
        with pytest.raises(Exception, match="closed the connection"):
            async with connect(proxy.ws_url):
                pass
