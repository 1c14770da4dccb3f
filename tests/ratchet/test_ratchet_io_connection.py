"""Ratchet's IoConnection: sending and closing."""

from __future__ import annotations

from typing import Any

import pytest
from support.ratchet_peer import Closed, Recorder, opened, serving

from pywsapp import App, Connection

pytestmark = pytest.mark.anyio


async def test_io_connection_1_close_sends_what_is_queued_first() -> None:
    """IoConnection 1: close() sends all queued messages first; here a close frame follows them."""

    class Closing(Recorder):
        def on_open(self, conn: Connection) -> None:
            conn.send("a" * 500_000)
            conn.send("bye")
            conn.close()

    app = App(port=0)
    app.route("/", Closing())
    async with serving(app), opened(app) as peer:
        assert await peer.receive() == "a" * 500_000
        assert await peer.receive() == "bye"
        assert await peer.receive() == Closed(1000, "")
        await peer.close()
        assert await peer.read_to_end() == b""


async def test_io_connection_2_send_reaches_the_peer() -> None:
    """IoConnection 2: the peer receives the message of send(message)."""
    recorder = Recorder()
    app = App(port=0)
    app.route("/", recorder)
    async with serving(app), opened(app) as peer:
        await recorder.until_called("on_open")
        [(conn,)] = recorder.arguments_of("on_open")
        conn.send("hello")
        assert await peer.receive() == "hello"


async def test_io_connection_3_send_can_be_awaited() -> None:
    """IoConnection 3: in Ratchet send() returns the connection; here it returns an awaitable."""

    class Greeting(Recorder):
        async def on_open(self, conn: Connection) -> None:  # type: ignore[override]
            returned: Any = conn.send("one")
            assert returned is not conn
            await returned
            await conn.send("two")
            conn.send("three")

    app = App(port=0)
    app.route("/", Greeting())
    async with serving(app), opened(app) as peer:
        assert [await peer.receive() for _ in range(3)] == ["one", "two", "three"]
