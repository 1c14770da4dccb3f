"""`is_open` while a handler is busy and the peer closes: a loop ends, and earlier messages can still be answered."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from support.serving import CLOSE, GUARD, TEXT, frame
from support.wire import peer_of, running

from pywsapp import App, Connection, MessageComponent, connect

pytestmark = pytest.mark.anyio


class Streams(MessageComponent):
    async def on_message(self, conn: Connection, message: Any) -> None:
        while conn.is_open:
            await conn.send("tick")
        assert conn.close_code == 1000


async def test_a_handler_that_loops_ends_when_the_peer_closes() -> None:
    app = App("*", 0)
    app.route("/", Streams())
    with anyio.fail_after(GUARD):
        async with running(app):
            start = anyio.current_time()
            async with connect(f"ws://127.0.0.1:{app.port}/") as conn:
                await conn.send("begin")
                for _ in range(100):
                    assert await conn.receive() == "tick"
            assert (conn.close_code, conn.was_clean) == (1000, True)
            assert anyio.current_time() - start < app.options.close_timeout  # which a loop that goes on uses up


async def test_messages_before_the_close_frame_can_be_answered() -> None:
    seen: list[tuple[str, bool]] = []
    go_on = anyio.Event()

    class Answers(MessageComponent):
        async def on_message(self, conn: Connection, message: Any) -> None:
            if message == "1":
                await go_on.wait()
            seen.append((message, conn.is_open))
            conn.send(f"answer {message}")

    app = App("*", 0)
    app.route("/", Answers())
    async with running(app), peer_of(app) as peer:
        await peer.open(trailing=frame(TEXT, b"1") + frame(TEXT, b"2") + frame(CLOSE, b"\x03\xe8"))
        go_on.set()
        assert [await peer.frame() for _ in range(3)] == [
            (TEXT, b"answer 1"),
            (TEXT, b"answer 2"),
            (CLOSE, b"\x03\xe8"),
        ]
    assert seen == [("1", False), ("2", False)]
