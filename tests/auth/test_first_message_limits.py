"""Clients that send no token, or much before it was accepted: what the server holds for them is bounded."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest
from support.serving import CLOSE, GUARD, PING, PONG, Recorder, frame, message_frame, serving

from pywsapp import App, Connection, Options
from pywsapp.auth.first_message import FirstMessage

pytestmark = pytest.mark.anyio


async def test_the_oldest_connection_without_a_token_makes_room(caplog: pytest.LogCaptureFixture) -> None:
    """A client that opens connections and sends nothing does not keep those with a token out."""
    component = Recorder()
    app = App(port=0, max_connections=8)
    limit = FirstMessage(component, lambda token: token, max_waiting=3, seconds=60)
    app.route("/", limit)
    async with serving(app) as server, server.client() as known, anyio.create_task_group() as tasks:
        await known.send("ana")
        await component.until_called("open")
        ended: list[int] = []

        async def hold(number: int, opened: anyio.Event) -> None:
            async with server.client() as silent:
                opened.set()
                await silent.read_to_end()
                ended.append(number)

        for number in range(20):
            opened = anyio.Event()
            tasks.start_soon(hold, number, opened)
            await opened.wait()
        with anyio.fail_after(GUARD):
            while len(ended) < 17:
                await anyio.lowlevel.checkpoint()
        assert sorted(ended) == list(range(17))
        async with server.client() as late:
            await late.send("ben")
            await component.until_called("open", 2)
        await known.send("still here")
        await component.until_called("message")
        assert app.stats().limits["max_waiting"] == 18
        assert len(limit._waiting) == 2, "those with a token do not wait"
        tasks.cancel_scope.cancel()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith(
        "dropped a connection without a token, because too many connections wait for one: <Connection"
    )


@pytest.mark.parametrize("ends", ["wrong", "lost"])
async def test_a_connection_that_ends_does_not_wait(ends: str) -> None:
    app = App(port=0, options=Options(close_timeout=0.1))
    limit = FirstMessage(Recorder(), lambda token: None, max_waiting=3)
    app.route("/", limit)
    async with serving(app) as server:
        for _ in range(5):
            async with server.client() as client:
                if ends == "wrong":
                    await client.send("ana")
                    assert await client.receive_close() == 4401
        with anyio.fail_after(GUARD):
            while limit._waiting:
                await anyio.lowlevel.checkpoint()
        assert app.stats().limits["max_waiting"] == 0


async def test_a_flood_behind_the_token_is_held_by_tcp() -> None:
    """The server queues `max_size` bytes, and stops to read until the token is accepted."""
    accepted = anyio.Event()
    component = Recorder()

    async def verify(token: str) -> str:
        await accepted.wait()
        return token

    app = App(port=0)
    app.route("/", FirstMessage(component, verify))
    async with serving(app) as server, server.client() as client:
        message = message_frame(b"x" * 8000)
        sent = 0
        with anyio.move_on_after(0.3) as scope:
            await client.send("ana")
            while True:
                await client.stream.send(message * 10)
                sent += 10
        assert scope.cancelled_caught
        [connection] = app._runner._server.runtime.connections  # type: ignore[union-attr]
        if hasattr(connection, "_queue"):  # the pure Python build
            assert len(connection._queue) <= 16
        assert component.calls == []
        accepted.set()
        await component.until_called("message", sent)
        await client.reset()


async def test_the_queue_has_its_usual_bounds_afterwards() -> None:
    verifying, accepted, go_on = anyio.Event(), anyio.Event(), anyio.Event()

    class Slow(Recorder):
        async def on_message(self, conn: Connection, message: Any) -> None:
            self.record("message", message)
            await go_on.wait()

    async def verify(token: str) -> str:
        verifying.set()
        await accepted.wait()
        return token

    component = Slow()
    app = App(port=0)
    app.route("/", FirstMessage(component, verify))
    async with serving(app) as server, server.client() as client:
        await client.send("ana")
        await verifying.wait()
        await client.send("queued")  # so the queue is made with the bounds of a client without a token
        accepted.set()
        await component.until_called("message")
        for number in range(5):
            await client.send(b"x" * 10_000)
            await client.stream.send(frame(PING, b"%d" % number))
            assert await client.receive() == (PONG, b"%d" % number), "the server still reads"
        go_on.set()
        await component.until_called("message", 6)
        await client.stream.send(frame(CLOSE, b"\x03\xe8"))
        assert await client.receive_close() == 1000
