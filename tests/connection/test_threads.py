"""A connection belongs to the thread of its event loop; the error of a call from another thread says what to write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from support.serving import CLOSE, Recorder, close_frame, serving

from pywsapp.component import in_thread
from pywsapp.connection import Connection, broadcast
from pywsapp.exceptions import ConfigurationError

pytestmark = pytest.mark.anyio

CALLS: dict[str, Callable[[Connection], Any]] = {
    "send": lambda conn: conn.send("x"),
    "send bytes": lambda conn: conn.send(bytes(100_000)),
    "close": lambda conn: conn.close(),
    "abort": lambda conn: conn.abort(),
    "ping": lambda conn: conn.ping(),
    "subscribe": lambda conn: conn.subscribe("room:1"),
    "unsubscribe": lambda conn: conn.unsubscribe("room:1"),
    "broadcast": lambda conn: broadcast([conn], "x"),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_from_another_thread_raises(name: str) -> None:
    component = Recorder()
    async with serving(component) as server, server.client() as client:
        await client.send("hello")
        await component.until_called("message")
        conn = component.conns[0]
        with pytest.raises(ConfigurationError, match=r"anyio\.from_thread\.run_sync"):
            await anyio.to_thread.run_sync(CALLS[name], conn)
        assert conn.is_open
        conn.send("still open")
        assert await client.message() == "still open"


async def test_a_handler_in_a_thread_must_call_through_anyio() -> None:
    class Threaded(Recorder):
        @in_thread
        def on_message(self, conn: Connection, message: Any) -> None:
            if message == "right":
                anyio.from_thread.run_sync(conn.send, "sent")
            else:
                conn.send("wrong")

    component = Threaded()
    async with serving(component) as server, server.client() as client:
        await client.send("right", "wrong")
        assert await client.message() == "sent"
        assert await client.receive() == (CLOSE, b"\x03\xf3internal error")
        await client.stream.send(close_frame(1011))
        await client.read_to_end()
    assert ("error", "ConfigurationError") in component.calls
