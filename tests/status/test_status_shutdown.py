"""The status page and the end of its process: nothing is logged, and nothing is answered afterwards."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from support.user_rooms import by_query

from pywsapp import App, MessageComponent
from pywsapp.brokers.memory import MemoryBroker
from pywsapp.client import connect

pytestmark = [pytest.mark.anyio, pytest.mark.once]


class Rooms(MessageComponent):
    def on_open(self, conn: Any) -> None:
        conn.subscribe("room:1")


@pytest.mark.parametrize("feature", ["status", "occupancy"])
async def test_a_process_that_is_cancelled_logs_no_lost_events(feature: str, caplog: pytest.LogCaptureFixture) -> None:
    app = App(port=0, broker=MemoryBroker(), authenticate=by_query)
    app.route("/rooms", Rooms())
    if feature == "status":
        app.status(guard=by_query)
    else:
        app.on_user_offline(lambda user: None)
        app.on_vacated("room:*")(lambda topic: None)
    async with anyio.create_task_group() as tasks:
        await tasks.start(app.serve)
        async with connect(f"ws://localhost:{app.port}/rooms?ana"):
            tasks.cancel_scope.cancel()  # as a second SIGINT does
    assert [one.getMessage() for one in caplog.records if one.levelname == "WARNING"] == []
