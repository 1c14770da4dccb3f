"""A client that sends too many pings and pongs for a `RateLimit`, over real sockets."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from support.serving import CLOSE, PING, PONG, Client, Recorder, close_code, frame, serving

from pywsapp import App, Connection, EchoServer, Exceeded, MessageComponent, Options, RateLimit

pytestmark = pytest.mark.anyio


def app_with(limit: MessageComponent, **arguments: Any) -> App:
    app = App(port=0, options=Options(close_timeout=0.1), **arguments)
    app.route("/", limit)
    return app


async def pongs_for(client: Client, *frames: bytes) -> int:
    """Send frames and a message to an echo server; return how many pongs came before the echo."""
    await client.stream.send(b"".join(frames))
    await client.send("end")
    count = 0
    while (received := await client.receive()) != (1, b"end"):
        assert received[0] == PONG
        count += 1
    return count


async def test_pings_above_the_limit_are_not_answered(caplog: pytest.LogCaptureFixture) -> None:
    app = app_with(RateLimit(EchoServer(), control_frames_per_second=0.01, control_frames_burst=3))
    async with serving(app) as server, server.client() as client, server.client() as other:
        assert await pongs_for(client, *[frame(PING, b"x")] * 10) == 3
        assert await pongs_for(other, *[frame(PONG)] * 2, *[frame(PING)] * 2) == 1, "pongs count too"
        assert app.stats().rate_limits == {"EchoServer per connection": (0, 0, 0, 8)}
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith("RateLimit 'EchoServer per connection' did not answer a ping: <Connection ")


async def test_a_ping_that_arrives_in_parts_is_counted() -> None:
    app = app_with(RateLimit(EchoServer(), control_frames_per_second=0.01, control_frames_burst=1))
    async with serving(app) as server, server.client() as client:
        for expected in (1, 0):
            ping = frame(PING, b"in parts")
            await client.stream.send(ping[:5])
            assert app.stats().limits["control_frames_per_second"] == 0
            await client.stream.send(ping[5:])
            assert await pongs_for(client) == expected


@pytest.mark.parametrize(("choice", "code"), [(Exceeded.CLOSE, 1008), (Exceeded.CLOSE_TRY_LATER, 1013)])
async def test_the_connection_is_closed_after_what_came_before(choice: Exceeded, code: int) -> None:
    component = Recorder()
    app = app_with(RateLimit(component, control_frames_per_second=0.01, control_frames_burst=2, when_exceeded=choice))
    async with serving(app) as server, server.client() as client:
        await client.send("before")
        await client.stream.send(frame(PING) * 3)
        received = [await client.receive() for _ in range(3)]
        assert [opcode for opcode, _ in received] == [PONG, PONG, CLOSE]
        assert close_code(received[-1][1]) == code
        await component.until_called("close")
        assert component.calls[1:] == [("message", "before"), ("close", code, "too many pings or pongs", False)]
        assert app.stats().rate_limits == {"Recorder per connection": (0, 0, 1, 0)}


async def test_the_connections_of_an_address_share_the_limit_and_messages_do_not_count() -> None:
    limit = RateLimit(
        EchoServer(),
        control_frames_per_second=0.01,
        control_frames_burst=5,
        messages_per_second=1000,
        per="address",
        name="all",
    )
    async with serving(app_with(limit)) as server:
        found = []
        for _ in range(3):
            async with server.client() as client:
                found.append(await pongs_for(client, *[frame(PING)] * 3))
        assert found == [3, 2, 0]


async def test_nested_limits_count_both() -> None:
    inner = RateLimit(EchoServer(), control_frames_per_second=0.01, control_frames_burst=4)
    outer = RateLimit(inner, control_frames_per_second=0.01, control_frames_burst=6, per="address")
    app = app_with(outer)
    async with serving(app) as server, server.client() as first, server.client() as second:
        assert await pongs_for(first, *[frame(PING)] * 5) == 4
        assert await pongs_for(second, *[frame(PING)] * 5) == 1
        assert app.stats().rate_limits["EchoServer per connection"].dropped_control_frames == 1
        assert app.stats().rate_limits["EchoServer per address"].dropped_control_frames == 4


async def test_the_budget_of_a_new_user_is_used() -> None:
    class Named(EchoServer):
        def on_message(self, conn: Connection, message: Any) -> None:
            if message != "end":
                conn.refresh_user(message)
            super().on_message(conn, message)

    limit = RateLimit(Named(), control_frames_per_second=0.01, control_frames_burst=2, per="user")
    app = App(port=0)
    app.route("/", limit, authenticate=lambda request: "ana")
    async with serving(app) as server, server.client() as client:
        assert await pongs_for(client, *[frame(PING)] * 3) == 2
        await client.send("ben")
        assert await client.message() == "ben"
        assert await pongs_for(client, *[frame(PING)] * 3) == 2


async def test_pongs_that_answer_the_server_do_not_count() -> None:
    component = Recorder()
    limit = RateLimit(component, control_frames_per_second=0.01, control_frames_burst=1, when_exceeded=Exceeded.CLOSE)
    async with serving(app_with(limit)) as server, server.client() as client:
        await component.until_called("open")
        for number in range(3):
            component.conns[0].ping(b"%d" % number)
            opcode, payload = await client.receive()
            assert opcode == PING
            await client.send_frame(PONG, payload)
        await client.send("still here")
        await component.until_called("message")


async def test_a_connection_without_the_limit_has_nothing_of_it() -> None:
    component = Recorder()
    async with serving(app_with(RateLimit(component, messages_per_second=10))) as server, server.client():
        await component.until_called("open")
        driver: Any = component.conns[0]._driver
        assert driver.machine is not None
        machine: Any = driver.machine
        if hasattr(machine, "_ws"):  # the pure Python build
            assert machine._ws.control_limit is None
