"""The context of one connection does not reach the handlers of another one."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from support.outages import until
from support.serving import serving
from support.spans import Spans, current_trace_id

from pywsapp import App, Connection, MessageComponent, Options

pytestmark = [pytest.mark.anyio, pytest.mark.once]

NONE = "0" * 32


class Def(MessageComponent):
    """Notes the trace in which it is called."""

    def __init__(self, found: list[str]) -> None:
        self.found = found

    def on_message(self, conn: Connection, message: Any) -> Any:
        self.found.append(current_trace_id())


class Async(Def):
    async def on_message(self, conn: Connection, message: Any) -> None:
        await anyio.lowlevel.checkpoint()
        self.found.append(current_trace_id())


@pytest.mark.parametrize("kind", [Def, Async])
async def test_a_slow_client_does_not_keep_the_context_of_a_sender(kind: type[Def]) -> None:
    spans, found, slow = Spans(), list[str](), list[Connection]()

    class Receiver(kind):  # type: ignore[valid-type,misc]
        def on_open(self, conn: Connection) -> None:
            slow.append(conn)

    class Sender(MessageComponent):
        def on_message(self, conn: Connection, message: Any) -> None:
            with spans.tracer.start_as_current_span("send"):
                for _ in range(64):
                    slow[0].send(b"x" * 65536)

    app = App(port=0, options=Options(max_outbox=64 * 1024 * 1024))
    app.route("/", Receiver(found))
    app.route("/sender", Sender())
    async with serving(app) as server, server.client() as receiver, server.client("/sender") as sender:
        await sender.send("go")
        await until(lambda: app.stats().slow_connections)
        for _ in range(64):
            await receiver.message()
        await until(lambda: not app.stats().slow_connections)
        await receiver.send("a", "b")
        await until(lambda: len(found) == 2)
    assert found == [NONE, NONE]
