"""The order of the calls on a component, up to the first on_close."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.components import crash, every_kind, raise_cancelled
from support.serving import PING, PONG, Recorder, message_frame, serving

from pywsapp.connection import Connection
from pywsapp.exceptions import Refuse
from pywsapp.http import Request

pytestmark = pytest.mark.anyio


@every_kind
async def test_calls_are_made_in_order(recorder: type[Recorder]) -> None:
    component = recorder()
    sent = [f"message {n}" if n % 3 else bytes((n,)) for n in range(100)]
    async with serving(component) as server, server.client(trailing=message_frame("trailing")) as client:
        await client.send(*sent[:60])
        for message in sent[60:]:
            await client.send(message)
        assert await client.close() == 1000
        await component.until_called("close")
    assert component.calls == [
        ("open",),
        ("message", "trailing"),
        *(("message", message) for message in sent),
        ("close", 1000, "", True),
    ]


async def test_handlers_of_one_connection_never_overlap() -> None:
    running: list[str] = []
    overlaps: list[list[str]] = []

    class Slow(Recorder):
        async def step(self, name: str) -> None:
            running.append(name)
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
                if len(running) > 1:
                    overlaps.append(list(running))
            running.remove(name)

        async def on_open(self, conn: Connection) -> None:
            await self.step("open")

        async def on_message(self, conn: Connection, message: Any) -> None:
            await self.step(message)
            self.record(message)

        async def on_close(self, conn: Connection) -> None:
            await self.step("close")
            self.record("close")

    component = Slow()
    sent = [str(n) for n in range(40)]
    async with serving(component) as server, server.client(trailing=message_frame("0")) as client:
        for message in sent[1:]:
            await client.send(message)
        await client.close()
        await component.until_called("close")
    assert component.names() == [*sent, "close"]
    assert overlaps == []


async def test_connections_do_not_wait_for_each_other() -> None:
    class Waiting(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.opened = anyio.Event()

        async def on_message(self, conn: Connection, message: Any) -> None:
            if message == "wait":
                await self.opened.wait()
            await conn.send(message)

    component = Waiting()
    async with serving(component) as server, server.client() as waiting, server.client() as other:
        await waiting.send("wait")
        await other.send("go")
        assert await other.message() == "go"
        component.opened.set()
        assert await waiting.message() == "wait"


async def test_no_message_is_handled_before_on_open_returns() -> None:
    gate = anyio.Event()

    class Opening(Recorder):
        async def on_open(self, conn: Connection) -> None:
            self.record("opening")
            await gate.wait()
            self.record("opened")

    component = Opening()
    async with serving(component) as server, server.client(trailing=message_frame("1")) as client:
        await client.send("2")
        await client.send_frame(PING, b"?")
        assert await client.receive() == (PONG, b"?")  # now "2" has arrived too
        assert component.calls == [("opening",)]
        gate.set()
        await component.until_called("message", 2)
    assert component.calls[:4] == [("opening",), ("opened",), ("message", "1"), ("message", "2")]


@pytest.mark.parametrize("kind", ["def", "async"])
async def test_a_refused_handshake_calls_nothing_else(kind: str) -> None:
    class Refusing(Recorder):
        def on_handshake(self, request: Request) -> Any:
            self.record("handshake")
            if kind == "async":
                return self.later()
            raise Refuse(403)

        async def later(self) -> None:
            await anyio.lowlevel.checkpoint()
            raise Refuse(403)

    component = Refusing()
    async with serving(component) as server, server.client(trailing=message_frame("1"), expected=403):
        pass
    assert component.calls == [("handshake",)]


@pytest.mark.parametrize("kind", ["def", "async"])
@pytest.mark.parametrize("failure", [crash, raise_cancelled])
async def test_a_failing_on_handshake_is_answered_with_500(
    kind: str, failure: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Recorder):
        def on_handshake(self, request: Request) -> Any:
            if request.path == "/good":
                return None
            return self.later() if kind == "async" else failure()

        async def later(self) -> None:
            await anyio.lowlevel.checkpoint()
            failure()

    component = Failing()
    async with serving(component) as server:
        async with server.client(expected=500):
            pass
        assert component.calls == []
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        async with server.client("/good") as client:
            await client.close()
