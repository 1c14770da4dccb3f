"""A ping while the connection closes fails, and an earlier one can still be answered."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest
from support.serving import CLOSE, PING, PONG, TEXT, frame
from support.wire import peer_of, running

from pywsapp import App, Connection, ConnectionClosed, MessageComponent

pytestmark = pytest.mark.anyio


async def test_a_ping_while_closing() -> None:
    pings: list[Awaitable[float]] = []

    class Pinging(MessageComponent):
        def on_message(self, conn: Connection, message: Any) -> None:
            pings.append(conn.ping(b"first"))
            conn.close()
            pings.append(conn.ping(b"second"))

    app = App("*", 0)
    app.route("/", Pinging())
    async with running(app), peer_of(app) as peer:
        await peer.open(trailing=frame(TEXT))
        assert [await peer.frame() for _ in range(2)] == [(PING, b"first"), (CLOSE, b"\x03\xe8")]
        await peer.send(frame(PONG, b"first") + frame(CLOSE, b"\x03\xe8"))
        assert await peer.read_to_end() == b""
        assert await pings[0] >= 0
        with pytest.raises(ConnectionClosed, match="before the pong came"):
            await pings[1]
