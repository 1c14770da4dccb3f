"""Ratchet's AbstractConnectionDecorator: properties of a connection behind layers of decorators.

Here every layer sees one and the same `Connection`, and data of the program is in its `state`.
"""

from __future__ import annotations

import pytest
from ratchet.ratchet_peer import Recorder, opened, serving

from pywsapp import App, Connection, IpBlackList, OriginCheck

pytestmark = pytest.mark.anyio


async def test_decorator_1_to_13_one_connection_and_its_state() -> None:
    """AbstractConnectionDecorator 1-13: what is set through one layer is read, found and removed through any."""

    class Naming(Recorder):
        def on_open(self, conn: Connection) -> None:
            conn.state.name = "Ana"
            conn.state.me = conn
            super().on_open(conn)

    recorder = Naming()
    app = App(port=0)
    app.route("/", IpBlackList(OriginCheck(recorder)))
    async with serving(app), opened(app) as peer:
        await peer.send("hello")
        await recorder.until("on_message")
        [(conn, _)] = recorder.of("on_message")
        assert conn is recorder.of("on_open")[0][0]
        assert conn.state.name == "Ana"
        assert conn.state.me is conn
        del conn.state.name
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
