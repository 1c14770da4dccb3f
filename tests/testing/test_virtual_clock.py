"""`VirtualClock`: what waits for a time in an App runs when the test lets the time pass."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest
from support.serving import GUARD

import pywsapp
from pywsapp import App, Connection, EchoServer, MessageComponent, Options, RateLimit, Request
from pywsapp.auth import Authenticated
from pywsapp.exceptions import ConfigurationError
from pywsapp.testing import TestClient, VirtualClock

pytestmark = pytest.mark.anyio


class Slow(MessageComponent):
    def __init__(self) -> None:
        self.ended: list[tuple[int | None, str]] = []

    async def on_message(self, conn: Connection, message: Any) -> None:
        await anyio.sleep(float(message))
        conn.send(f"slept {message}")

    def on_close(self, conn: Connection) -> None:
        self.ended.append((conn.close_code, conn.close_reason))

    def on_error(self, conn: Connection, exc: Exception) -> None:
        conn.send(type(exc).__name__)


def app_of(component: Any, **options: Any) -> App:
    app = App(options=Options(**options))
    app.route("/", component)
    return app


async def test_a_handler_sleeps_no_real_time() -> None:
    began = time.monotonic()
    async with TestClient(app_of(Slow()), clock=VirtualClock()) as client, client.connect("/") as ws:
        ws.send("600")
        await client.clock.advance(599.9)
        await ws.assert_silent()
        await client.clock.advance(0.1)
        assert await ws.receive() == "slept 600"
        ws.send("5")
        with pytest.raises(AssertionError, match="a message arrived: 'slept 5'"):
            await ws.assert_silent(5)
        assert client.clock.passed == pytest.approx(605)
    assert time.monotonic() - began < 30


async def test_pings_are_sent_and_a_client_that_vanished_is_noticed() -> None:
    slow = Slow()
    app = app_of(slow, ping_interval=20, ping_timeout=20)
    async with TestClient(app, clock=VirtualClock()) as client, client.connect("/") as ws:
        await client.clock.advance(120)
        assert ws.is_open
        assert str(ws.transcript).count("<- ping") > 3
        ws.vanish()
        await client.clock.advance(100)
        assert [code for code, _ in slow.ended] == [1006]
        ws.reset()


async def test_an_idle_connection_is_closed() -> None:
    app = app_of(EchoServer(), idle_timeout=60)
    async with TestClient(app, clock=VirtualClock()) as client, client.connect("/") as ws:
        await client.clock.advance(55)
        ws.send("hello")
        assert await ws.receive() == "hello"
        await client.clock.advance(55)
        await ws.assert_silent()
        await client.clock.advance(10)
        await ws.assert_closed(1000, "idle")


async def test_a_handler_has_a_time_limit() -> None:
    app = app_of(Slow(), handler_timeout=10)
    async with TestClient(app, clock=VirtualClock()) as client, client.connect("/") as ws:
        ws.send("11")
        await client.clock.advance(10.5)
        assert await ws.receive() == "TimeoutError"


async def test_timers_of_an_app_run_at_their_times() -> None:
    app = App()
    times: list[float] = []
    clock = VirtualClock()

    @app.every(10)
    async def work() -> None:
        times.append(round(clock.passed, 3))

    async with TestClient(app, clock=clock):
        await clock.advance(35)
    assert times == [10, 20, 30]


async def test_a_user_expires() -> None:
    clock = VirtualClock()

    def authenticate(request: Request) -> Authenticated:
        return Authenticated("ana", expires_at=clock.time() + 60)

    app = App(authenticate=authenticate)
    app.route("/", EchoServer())
    async with TestClient(app, clock=clock) as client, client.connect("/") as ws:
        await clock.advance(58)
        await ws.assert_silent()
        await clock.advance(4)
        await ws.assert_closed(4401)


async def test_a_rate_limit_lets_messages_through_again() -> None:
    app = App()
    app.route("/", RateLimit(EchoServer(), messages_per_second=1, messages_burst=1))
    async with TestClient(app, clock=VirtualClock()) as client, client.connect("/") as ws:
        for text in "one", "two":
            ws.send(text)
        assert await ws.receive() == "one"
        await ws.assert_silent()
        await client.clock.advance(1.1)
        assert await ws.receive() == "two"


async def test_a_session_expires() -> None:
    app = App(session_store="memory")

    def login(request: Request) -> str:
        request.session["user"] = "ana"
        return "welcome"

    app.http("/login", login)
    app.http("/me", lambda request: str(request.session.get("user")))
    async with TestClient(app, clock=VirtualClock()) as client:
        await client.get("/login")
        assert (await client.get("/me")).text == "ana"
        await client.clock.advance(1)
        assert (await client.get("/me")).text == "ana"
        await client.clock.jump(365 * 24 * 3600)
        assert (await client.get("/me")).text == "None"


async def test_the_time_is_real_again_afterwards() -> None:
    before = anyio.current_time()
    clock = VirtualClock()
    async with TestClient(App(), clock=clock):
        now, day = anyio.current_time(), clock.time()
        await clock.jump(1000)
        assert anyio.current_time() - now == pytest.approx(1000)
        assert clock.time() - day == pytest.approx(1000)
    assert anyio.current_time() - before < 100
    with anyio.fail_after(GUARD):
        await anyio.sleep(0.001)
    with pytest.raises(ConfigurationError, match="the clock is not in use"):
        await clock.advance(1)


async def test_receiving_has_a_real_time_limit() -> None:
    async with TestClient(app_of(EchoServer()), clock=VirtualClock()) as client, client.connect("/") as ws:
        with pytest.raises(AssertionError, match=r"no message came within 0\.05 seconds"):
            await ws.receive(timeout=0.05)


async def test_timers_of_the_test_are_cancelled_and_run_in_their_order() -> None:
    calls: list[str] = []

    async def call(name: str, seconds: float) -> None:
        await anyio.sleep(seconds)
        calls.append(name)

    async with TestClient(App(), clock=VirtualClock()) as client, anyio.create_task_group() as tasks:
        for name, seconds in (("three", 3.0), ("one", 1.0), ("two", 2.0)):
            tasks.start_soon(call, name, seconds)
        with anyio.move_on_after(0.5) as scope:
            await client.clock.advance(0)
        assert not scope.cancelled_caught
        await client.clock.advance(2.5)
        assert calls == ["one", "two"]
        await client.clock.advance(2.5)
    assert calls == ["one", "two", "three"]


async def test_without_a_clock() -> None:
    async with TestClient(App()) as client:
        with pytest.raises(ConfigurationError, match="write TestClient"):
            _ = client.clock


def test_no_default_argument_is_a_clock_of_python() -> None:
    """A virtual clock reaches the functions of `_clocks` and names of modules, not what a default argument keeps."""
    source = Path(pywsapp.__file__).parent
    found = [
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        if re.search(r"= time\.(time|monotonic)\b(?!\()|= monotonic\b(?!\()", path.read_text(encoding="utf-8"))
    ]
    assert found == ["brokers/local/router.py"]  # which runs in the supervisor


async def test_modules_of_the_program_can_be_included(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("a_program.rooms")
    module.__dict__.update(time=time, now=time.time)
    monkeypatch.setitem(sys.modules, "a_program.rooms", module)
    async with TestClient(App(), clock=VirtualClock(modules=["a_program"])) as client:
        before = module.now(), module.time.monotonic()
        await client.clock.advance(5)
        assert module.now() - before[0] == pytest.approx(5)
        assert module.time.monotonic() - before[1] == pytest.approx(5)
        assert module.time.sleep is time.sleep
    assert (module.now, module.time) == (time.time, time)
