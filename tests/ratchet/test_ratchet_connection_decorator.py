"""Ratchet's AbstractConnectionDecorator: properties of a connection behind layers of decorators.

Here every layer sees one and the same `Connection`, and data of the program is in its `state`.
"""

from __future__ import annotations

from typing import Any

import pytest
from support.ratchet_peer import Recorder, opened, serving

from pywsapp import App, ComponentMiddleware, Connection, IpBlackList, MessageComponent, OriginCheck

pytestmark = pytest.mark.anyio


class Outer(ComponentMiddleware):
    """Writes before the component inside reads, and reads what that wrote."""

    def __init__(self, component: MessageComponent) -> None:
        super().__init__(component)
        self.seen: list[Any] = []

    def on_open(self, conn: Connection) -> Any:
        conn.state.name = "Ana"
        conn.state.layer = self
        self.inner.on_open(conn)
        self.seen.append(conn.state.room)

    def on_message(self, conn: Connection, message: Any) -> Any:
        del conn.state.name
        return self.inner.on_message(conn, message)


async def test_decorator_1_to_13_one_connection_and_its_state() -> None:
    """AbstractConnectionDecorator 1-13: what one layer sets, reads, finds or removes, all layers do."""

    class Inner(Recorder):
        def on_open(self, conn: Connection) -> None:
            conn.state.room = (conn.state.name, hasattr(conn.state, "name"), conn)
            super().on_open(conn)

    recorder = Inner()
    outer = Outer(recorder)
    app = App(port=0)
    app.route("/", IpBlackList(OriginCheck(outer)))
    async with serving(app), opened(app) as peer:
        await peer.send("hello")
        await recorder.until("on_message")
    [(conn,)] = recorder.of("on_open")
    assert outer.seen == [("Ana", True, conn)]
    assert recorder.of("on_message") == [(conn, "hello")]
    assert isinstance(conn.state.layer, Outer)
    assert not hasattr(conn.state, "name")


async def test_decorator_14_and_15_a_missing_or_a_free_attribute() -> None:
    """AbstractConnectionDecorator 14-15: reading what is not there gives null and a warning; ours an AttributeError.

    So does setting an attribute on the connection itself, so that no typing error passes unseen.
    """
    recorder = Recorder()
    app = App(port=0)
    app.route("/", recorder)
    async with serving(app), opened(app):
        await recorder.until("on_open")
        [(conn,)] = recorder.of("on_open")
        with pytest.raises(AttributeError):
            _ = conn.state.name
        with pytest.raises(AttributeError):
            conn.name = "Ana"
