"""An async `on_unsubscribe` is awaited behind the handler that unsubscribes, and before the next message."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.serving import GUARD
from support.topic_bench import until
from support.wire import running

from pywsapp import App, Connection, MessageComponent, Topic, connect

pytestmark = pytest.mark.anyio


class Base(MessageComponent):
    """Unsubscribes at the message "u"; notes what happens in which order."""

    def __init__(self, *, waits: bool) -> None:
        self.waits = waits
        self.calls: list[str] = []
        self.conn: Connection | None = None

    def on_open(self, conn: Connection) -> None:
        self.conn = conn
        conn.subscribe("room:1")

    async def on_unsubscribe(self, conn: Connection, topic: Topic) -> None:
        await self.step("unsubscribe")

    async def step(self, name: str) -> None:
        self.calls.append(f"{name} begins")
        if self.waits:
            await anyio.lowlevel.checkpoint()
            await anyio.sleep(0.001)
        self.calls.append(f"{name} ends")

    def unsubscribe(self, conn: Connection, message: str) -> None:
        if message == "u":
            conn.unsubscribe("room:1")


class Async(Base):
    async def on_message(self, conn: Connection, message: str) -> None:
        self.unsubscribe(conn, message)
        await self.step(message)


class ReturnsCoroutine(Base):
    def on_message(self, conn: Connection, message: str) -> Any:
        self.unsubscribe(conn, message)
        return self.step(message)


class Plain(Base):
    def on_message(self, conn: Connection, message: str) -> None:
        self.unsubscribe(conn, message)
        self.calls += [f"{message} begins", f"{message} ends"]


class Raises(Base):
    def on_message(self, conn: Connection, message: str) -> None:
        self.unsubscribe(conn, message)
        raise ValueError(message)

    async def on_error(self, conn: Connection, exc: Exception) -> None:
        await self.step(str(exc))


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("kind", [Async, ReturnsCoroutine, Plain, Raises])
@pytest.mark.parametrize("before", ["", "1"], ids=["first message", "second message"])
async def test_it_is_awaited_in_order(kind: type[Base], waits: bool, before: str) -> None:
    component, app = kind(waits=waits), App("*", 0)
    app.route("/", component)
    messages = [*before, "u"]
    wanted = [f"{name} {what}" for name in (*messages, "unsubscribe", "2") for what in ("begins", "ends")]
    with anyio.fail_after(GUARD):
        async with running(app), connect(f"ws://127.0.0.1:{app.port}/") as conn:
            for message in messages:
                await conn.send(message)
                await until(partial(component.calls.count, f"{message} ends"))
            await until(lambda: "unsubscribe ends" in component.calls)  # without another message
            await conn.send("2")
            await until(lambda: len(component.calls) == len(wanted))
    assert component.calls == wanted


async def test_it_is_awaited_when_other_code_unsubscribes() -> None:
    component, app = Plain(waits=True), App("*", 0)
    app.route("/", component)
    with anyio.fail_after(GUARD):
        async with running(app), connect(f"ws://127.0.0.1:{app.port}/"):
            await until(lambda: component.conn)
            assert component.conn is not None
            app.topic("room:1").remove(component.conn)
            await until(lambda: "unsubscribe ends" in component.calls)
            assert component.conn.is_open
    assert component.calls == ["unsubscribe begins", "unsubscribe ends"]
