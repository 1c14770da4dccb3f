"""A client that exceeds a limit of messages, over real sockets; another client of the server notices nothing."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from time import monotonic
from typing import Any

import anyio
import pytest
from support.serving import GUARD, PING, PONG, Recorder, close_frame, message_frame, serving

from pywsapp._limits.message_counts import RateLimitStats
from pywsapp.app import App
from pywsapp.auth.identity import Authenticated
from pywsapp.component import EchoServer, MessageComponent
from pywsapp.connection import Connection
from pywsapp.middleware.base import ComponentMiddleware
from pywsapp.middleware.rate_limit import Exceeded, RateLimit
from pywsapp.options import Options

pytestmark = pytest.mark.anyio


def app_with(limit: MessageComponent, options: Options | None = None) -> App:
    app = App(port=0, options=options)
    app.route("/", limit)
    app.route("/free", EchoServer())
    return app


def stats_of(app: App) -> RateLimitStats:
    [stats] = app.stats().rate_limits.values()
    return stats


class AsyncEcho(MessageComponent):
    async def on_message(self, conn: Connection, message: Any) -> None:
        await anyio.lowlevel.checkpoint()
        await conn.send(message)


# -- delay -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("echo", [EchoServer, AsyncEcho])
async def test_a_flood_is_handled_in_order_at_the_rate(echo: type[MessageComponent]) -> None:
    app = app_with(RateLimit(echo(), messages_per_second=100, messages_burst=10))
    messages = [str(number) for number in range(30)]
    async with serving(app) as server, server.client() as client, server.client("/free") as other:
        began = monotonic()
        await client.send(*messages)
        await other.send("free")
        assert await other.message() == "free"
        assert [await client.message() for _ in messages] == messages
        assert monotonic() - began >= 0.19  # 20 of them wait for 10 ms each
        stats = stats_of(app)
        assert stats.dropped == stats.closed == 0
        assert 1 <= stats.delayed <= 20


async def test_bytes_are_counted_as_utf_8() -> None:
    limit = RateLimit(EchoServer(), bytes_per_second=1000, bytes_burst=100)
    async with serving(app_with(limit)) as server, server.client() as client:
        began = monotonic()
        await client.send("\u20ac" * 33, b"1", b"x" * 100)  # 99 bytes, 1 byte, and 100 bytes that wait for 0.1 s
        assert [len(await client.message()) for _ in range(3)] == [33, 1, 100]
        assert monotonic() - began >= 0.09


async def test_a_message_above_the_burst_waits_until_the_rate_has_earned_it() -> None:
    app = app_with(RateLimit(EchoServer(), bytes_per_second=10_000, bytes_burst=100))
    async with serving(app) as server, server.client() as client:
        began = monotonic()
        await client.send(b"x" * 1100)
        assert len(await client.message()) == 1100
        assert monotonic() - began >= 0.09
        assert stats_of(app).delayed == 1


async def test_a_client_that_floods_is_not_read() -> None:
    """TCP slows it down: the server holds the queue of the connection, and no more."""
    component = Recorder()
    app = app_with(RateLimit(component, messages_per_second=1, messages_burst=1), Options(max_queue=4, close_timeout=1))
    async with serving(app) as server, server.client() as client:
        flood = message_frame(b"x" * 60_000) * 100
        with anyio.move_on_after(0.5) as scope:
            for _ in range(20):
                await client.stream.send(flood)
        assert scope.cancelled_caught
        assert component.names().count("message") <= 2


async def test_pings_are_answered_while_a_message_waits() -> None:
    component = Recorder()
    app = app_with(RateLimit(component, messages_per_second=0.01, messages_burst=1))
    async with serving(app) as server, server.client() as client:
        await client.send("1", "2")
        await client.send_frame(PING, b"here?")
        assert await client.receive() == (PONG, b"here?")
        assert component.names() == ["open", "message"]


async def test_a_lost_connection_does_not_wait() -> None:
    component = Recorder()
    app = app_with(RateLimit(component, messages_per_second=0.01, messages_burst=2))
    async with serving(app) as server:
        async with server.client() as client:
            await client.send("1", "2", "3", "4")
            await component.until_called("message", 2)
            await client.reset()
        await component.until_called("close")
        assert component.names() == ["open", "message", "message", "close"]
        assert stats_of(app).dropped == 2


async def test_messages_before_the_close_frame_of_the_peer_are_handled_at_the_rate() -> None:
    component = Recorder()
    app = app_with(RateLimit(component, messages_per_second=50, messages_burst=1))
    async with serving(app) as server, server.client() as client:
        await client.stream.send(b"".join(message_frame(text) for text in "1234") + close_frame(1000))
        assert await client.receive_close() == 1000
        await component.until_called("close")
        assert component.calls == [
            ("open",),
            *(("message", text) for text in "1234"),
            ("close", 1000, "", True),
        ]


async def test_a_message_that_waits_is_dropped_when_this_side_closes() -> None:
    component = Recorder()
    app = app_with(RateLimit(component, messages_per_second=0.01, messages_burst=1))
    async with serving(app) as server, server.client() as client:
        await client.send("1", "2")
        await component.until_called("message")
        component.conns[0].close(4000)
        assert await client.close() == 4000
        await component.until_called("close")
        assert component.names() == ["open", "message", "close"]


def limited_twice(component: MessageComponent) -> MessageComponent:
    inside = RateLimit(component, messages_per_second=4, messages_burst=1)
    return RateLimit(inside, messages_per_second=1000, messages_burst=1, name="outside")


@pytest.mark.parametrize(
    "limited", [lambda component: RateLimit(component, messages_per_second=4, messages_burst=1), limited_twice]
)
async def test_the_wait_is_no_time_of_the_handler(limited: Callable[[MessageComponent], MessageComponent]) -> None:
    class Slow(Recorder):
        async def on_message(self, conn: Connection, message: Any) -> None:
            self.record("message", message)
            if message == "hang":
                await anyio.sleep(GUARD)

    component = Slow()
    options = Options(handler_timeout=0.1)
    async with serving(app_with(limited(component), options)) as server, server.client() as client:
        await client.send("1", "2", "hang")
        await component.until_called("error")
        assert component.calls[1:4] == [("message", "1"), ("message", "2"), ("message", "hang")]
        assert component.calls[4:] == [("error", "TimeoutError")]


async def test_an_async_middleware_around_it_awaits_the_wait_and_the_handler() -> None:
    done: list[str] = []

    class Around(ComponentMiddleware):
        async def on_message(self, conn: Connection, message: Any) -> None:
            result = self.inner.on_message(conn, message)
            if inspect.isawaitable(result):
                await result
            done.append(message)

    for echo in (EchoServer(), AsyncEcho()):
        app = app_with(Around(RateLimit(echo, messages_per_second=50, messages_burst=1)))
        async with serving(app) as server, server.client() as client:
            await client.send("1", "2", "3")
            assert [await client.message() for _ in range(3)] == ["1", "2", "3"]
    await anyio.lowlevel.checkpoint()
    assert done[:5] == ["1", "2", "3", "1", "2"]


# -- drop and close ----------------------------------------------------------------------------------------------------


async def test_dropped_messages_do_not_reach_the_component(caplog: pytest.LogCaptureFixture) -> None:
    component = Recorder()
    limit = RateLimit(component, messages_per_second=0.01, messages_burst=5, when_exceeded=Exceeded.DROP)
    app = app_with(limit)
    async with serving(app) as server, server.client() as client, server.client("/free") as other:
        await client.send(*map(str, range(500)))
        await client.send_frame(PING)
        await client.receive()
        await other.send("free")
        assert await other.message() == "free"
        assert component.calls[1:] == [("message", str(number)) for number in range(5)]
        assert stats_of(app) == (0, 495, 0, 0)
    lines = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == 1
    assert lines[0].getMessage().startswith("RateLimit 'Recorder per connection' dropped a message: <Connection ")


async def test_a_message_above_the_burst_is_always_dropped() -> None:
    app = app_with(RateLimit(EchoServer(), bytes_per_second=1e6, bytes_burst=10, when_exceeded=Exceeded.DROP))
    async with serving(app) as server, server.client() as client:
        await client.send("x" * 11, "ok")
        assert await client.message() == "ok"
        assert stats_of(app).dropped == 1


@pytest.mark.parametrize(("choice", "code"), [(Exceeded.CLOSE, 1008), (Exceeded.CLOSE_TRY_LATER, 1013)])
async def test_nothing_is_handled_after_a_close(choice: Exceeded, code: int, caplog: pytest.LogCaptureFixture) -> None:
    component = Recorder()
    app = app_with(RateLimit(component, messages_per_second=0.01, messages_burst=3, when_exceeded=choice))
    async with serving(app) as server, server.client("/free") as other:
        for _ in range(2):
            async with server.client() as client:
                await client.send(*map(str, range(100)))
                assert await client.close() == code
        await component.until_called("close", 2)
        await other.send("free")
        assert await other.message() == "free"
        expected = ["open", *["message"] * 3, "close"]
        assert component.names() == expected * 2
        assert component.calls[4] == ("close", code, "too many messages", True)
        assert stats_of(app) == (0, 0, 2, 0)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith("RateLimit 'Recorder per connection' closed a connection: <Connection ")


# -- shared by several connections -------------------------------------------------------------------------------------


async def test_the_connections_of_an_address_share_a_limit() -> None:
    component = Recorder()
    limit = RateLimit(component, messages_per_second=0.01, messages_burst=4, per="address", when_exceeded=Exceeded.DROP)
    app = app_with(limit)
    async with serving(app) as server:
        for _ in range(3):  # a client that comes back has the same budget
            async with server.client() as first, server.client() as second:
                for client in (first, second):
                    await client.send("1", "2")
                    await client.send_frame(PING)
                    await client.receive()
        assert component.names().count("message") == 4
        assert stats_of(app).dropped == 8
        assert list(app.stats().rate_limits) == ["Recorder per address"]


async def test_a_function_names_the_client() -> None:
    component = Recorder()

    def account(conn: Connection) -> str:
        return conn.request.query_params["account"]

    limit = RateLimit(
        component, messages_per_second=0.01, messages_burst=1, per=account, when_exceeded=Exceeded.DROP, name="accounts"
    )
    app = app_with(limit)
    async with serving(app) as server:
        for name in ("a", "b", "a"):
            async with server.client(f"/?account={name}") as client:
                await client.send(name)
                await client.send_frame(PING)
                await client.receive()
        assert [call for call in component.calls if call[0] == "message"] == [("message", "a"), ("message", "b")]
        assert app.stats().rate_limits == {"accounts": (0, 1, 0, 0)}


@pytest.mark.parametrize(
    "as_user", [lambda name: {"id": name}, lambda name: Authenticated(object(), subject=name)], ids=["id", "subject"]
)
async def test_the_connections_of_a_user_share_a_limit(as_user: Callable[[str], Any]) -> None:
    component = Recorder()
    limit = RateLimit(component, messages_per_second=0.01, messages_burst=2, per="user", when_exceeded=Exceeded.DROP)
    app = App(port=0, authenticate=lambda request: as_user(request.query_params["name"]))
    app.route("/", limit)
    async with serving(app) as server:
        for name in ("ana", "bob", "ana", "ana"):
            async with server.client(f"/?name={name}") as client:
                await client.send(name)
                await client.send_frame(PING)
                await client.receive()
        assert [call[1] for call in component.calls if call[0] == "message"] == ["ana", "bob", "ana"]
        assert app.stats().rate_limits == {"Recorder per user": (0, 1, 0, 0)}


async def test_limits_can_be_nested_and_each_counts() -> None:
    component = Recorder()
    inner = RateLimit(component, messages_per_second=0.01, messages_burst=5, when_exceeded=Exceeded.DROP)
    outer = RateLimit(inner, messages_per_second=0.01, messages_burst=8, per="address", when_exceeded=Exceeded.DROP)
    app = app_with(outer)
    async with serving(app) as server, server.client() as client:
        await client.send(*map(str, range(10)))
        await client.send_frame(PING)
        await client.receive()
        assert component.names().count("message") == 5
        assert app.stats().rate_limits == {
            "Recorder per connection": (0, 3, 0, 0),
            "Recorder per address": (0, 2, 0, 0),
        }
