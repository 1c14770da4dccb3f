"""Ratchet's IoConnection: sending and closing."""

from __future__ import annotations

from typing import Any

import pytest
from support.ratchet_peer import Closed, Recorder, opened, serving

from pywsapp import App, Connection

pytestmark = pytest.mark.anyio


async def test_io_connection_1_close_sends_what_is_queued_first() -> None:
    """IoConnection 1: close() flushes, then ends; ours sends a close frame between the two."""

    class Leaving(Recorder):
        def on_open(self, conn: Connection) -> None:
            conn.send("a" * 500_000)
            conn.send("bye")
            conn.close()

    app = App(port=0)
    app.route("/", Leaving())
    async with serving(app), opened(app) as peer:
        assert await peer.hear() == "a" * 500_000
        assert await peer.hear() == "bye"
        assert await peer.hear() == Closed(1000, "")
        await peer.close()
        assert await peer.end() == b""


async def test_io_connection_2_send_writes() -> None:
    """IoConnection 2: send(message) reaches the peer as that message."""
    recorder = Recorder()
    app = App(port=0)
    app.route("/", recorder)
    async with serving(app), opened(app) as peer:
        await recorder.until("on_open")
        [(conn,)] = recorder.of("on_open")
        conn.send("hello")
        assert await peer.hear() == "hello"


async def test_io_connection_3_send_may_be_awaited() -> None:
    """IoConnection 3: send() returns the connection there, for chaining; ours something to await, or not."""

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
        assert [await peer.hear() for _ in range(3)] == ["one", "two", "three"]
