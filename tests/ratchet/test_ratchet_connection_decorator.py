"""Ratchet's AbstractConnectionDecorator: properties of a connection behind several decorators.

Here a decorator is a middleware. Every middleware gets the same `Connection`; the application's data is in its `state`.
"""

from __future__ import annotations

from typing import Any

import pytest
from support.ratchet_peer import Recorder, opened, serving

from pywsapp import App, ComponentMiddleware, Connection, IpBlackList, MessageComponent, OriginCheck

pytestmark = pytest.mark.anyio


class Outer(ComponentMiddleware):
    """Sets an attribute that the inner component reads, and reads one that the inner component has set."""

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
    """AbstractConnectionDecorator 1-13: all layers see the attributes that one of them sets or removes."""

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
        await recorder.until_called("on_message")
    [(conn,)] = recorder.arguments_of("on_open")
    assert outer.seen == [("Ana", True, conn)]
    assert recorder.arguments_of("on_message") == [(conn, "hello")]
    assert isinstance(conn.state.layer, Outer)
    assert not hasattr(conn.state, "name")


async def test_decorator_14_and_15_a_missing_or_unknown_attribute() -> None:
    """AbstractConnectionDecorator 14-15: reading a missing attribute gives null and a warning in Ratchet.

    Here it raises AttributeError. So does setting an attribute of the connection itself, to reveal typing errors.
    """
    recorder = Recorder()
    app = App(port=0)
    app.route("/", recorder)
    async with serving(app), opened(app):
        await recorder.until_called("on_open")
        [(conn,)] = recorder.arguments_of("on_open")
        with pytest.raises(AttributeError):
            _ = conn.state.name
        with pytest.raises(AttributeError):
            conn.name = "Ana"
