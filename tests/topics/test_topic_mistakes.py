"""Mistakes of the developer raise ConfigurationError: a traceback is logged, and the client gets 1011 only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.serving import CLOSE, serving

from pywsapp import App, ConfigurationError, Connection, MessageComponent, Topic

pytestmark = pytest.mark.anyio

MISTAKES: dict[str, tuple[Callable[[Topic, Connection], Any], str]] = {
    "plain": (lambda topic, conn: topic.recover(conn, None), "'plain' keeps no history; add App.history"),
    "lonely": (lambda topic, conn: topic.track(conn, "ana"), "'lonely' has no presence; add App.presence"),
    "kept:1": (lambda topic, conn: topic.broadcast("x", exclude=conn), "leave out `exclude` and `eligible`"),
    "kept:2": (lambda topic, conn: topic.broadcast("x", eligible=conn), "leave out `exclude` and `eligible`"),
}


@pytest.mark.parametrize("name", MISTAKES)
async def test_a_mistake_is_logged_with_a_traceback_and_the_client_gets_1011(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    mistake, message = MISTAKES[name]

    class Mistaken(MessageComponent):
        async def on_open(self, conn: Connection) -> None:
            topic = app.topic(name)
            if name != "plain":
                await topic.add(conn)
            result = mistake(topic, conn)
            if name == "plain":
                await result

    app = App(port=0)
    app.history("kept:*")
    app.route("/", Mistaken())
    async with serving(app) as server, server.client() as client:
        assert await client.receive() == (CLOSE, b"\x03\xf3internal error")
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ConfigurationError)
    assert message in str(record.exc_info[1])
