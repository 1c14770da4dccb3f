"""The age and the idle time of a connection; time is an argument of `Lifecycle.tick`."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from support.serving import CLOSE, PING, PONG, TEXT, Pipe, Recorder, close_frame, frame, serving
from support.waiting import until_blocked

from pywsapp.connection import Connection, broadcast
from pywsapp.exceptions import ConfigurationError
from pywsapp.options import Options

pytestmark = pytest.mark.anyio

AGE = (1012, "the connection has reached its greatest age")
IDLE = (1000, "idle")


def tick(pipe: Pipe, now: float) -> None:
    pipe.lifecycle.tick(now)
    pipe.turn()


def end_of(pipe: Pipe) -> tuple[int | None, str]:
    return pipe.conn.close_code, pipe.conn.close_reason


def age_of_end(options: Options) -> int:
    """Return the age at which a connection closes, rounded up to 10 seconds."""
    pipe = Pipe(Recorder(), options)
    now: int
    for now in (0, *range(890, 2000, 10)):
        tick(pipe, now)
        if not pipe.conn.is_open:
            return now
    raise AssertionError("the connection is still open")


# -- age ---------------------------------------------------------------------------------------------------------------


def test_each_connection_has_another_greatest_age() -> None:
    ages = [age_of_end(Options(max_connection_age=1000, ping_interval=None)) for _ in range(100)]
    assert min(ages) >= 900
    assert max(ages) <= 1100
    assert len(set(ages)) >= 5, "the ends are spread over 200 seconds"


def test_an_old_connection_closes_cleanly_behind_what_was_sent() -> None:
    component = Recorder()
    pipe = Pipe(component, Options(max_connection_age=10, ping_interval=None))
    tick(pipe, 0)
    pipe.conn.send("last")
    tick(pipe, 11)
    assert [opcode for opcode, _ in pipe.client.frames] == [TEXT, CLOSE]
    assert end_of(pipe) == AGE
    assert pipe.lifecycle.lifetime is not None
    assert pipe.lifecycle.lifetime.exceeded == "max_connection_age"
    pipe.write(close_frame(1012))
    assert component.calls == [("open",), ("close", *AGE, True)]


async def test_an_old_connection_waits_for_its_handler() -> None:
    gate = anyio.Event()

    class Working(Recorder):
        async def on_message(self, conn: Connection, message: Any) -> None:
            await gate.wait()
            conn.send("done")

    async with anyio.create_task_group() as tasks:
        pipe = Pipe(Working(), Options(max_connection_age=10, ping_interval=None, drain_timeout=30), tasks)
        tick(pipe, 0)
        pipe.send("work")
        await pipe.run_until_blocked()
        tick(pipe, 30)
        assert pipe.conn.is_open
        gate.set()
        await until_blocked()
        tick(pipe, 31)
        assert end_of(pipe) == AGE
        assert (TEXT, b"done") in pipe.client.frames
        tasks.cancel_scope.cancel()


async def test_an_old_connection_waits_for_no_handler_for_ever() -> None:
    class Endless(Recorder):
        async def on_open(self, conn: Connection) -> None:
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        pipe = Pipe(Endless(), Options(max_connection_age=10, ping_interval=None, drain_timeout=30), tasks)
        tick(pipe, 0)
        await pipe.run_until_blocked()
        tick(pipe, 38)
        assert pipe.conn.is_open
        tick(pipe, 41)
        assert end_of(pipe) == AGE
        tasks.cancel_scope.cancel()


def test_an_old_connection_waits_for_a_message_that_has_arrived_in_part() -> None:
    component = Recorder()
    pipe = Pipe(component, Options(max_connection_age=10, ping_interval=None))
    tick(pipe, 0)
    pipe.write(frame(TEXT, b"hel", fin=False))
    tick(pipe, 12)
    assert pipe.conn.is_open
    pipe.write(frame(0, b"lo"))
    tick(pipe, 13)
    assert end_of(pipe) == AGE
    assert ("message", "hello") in component.calls


# -- idle time ---------------------------------------------------------------------------------------------------------


def test_a_connection_without_messages_is_closed() -> None:
    component = Recorder()
    pipe = Pipe(component, Options(idle_timeout=100))
    for now in range(0, 100, 5):
        tick(pipe, now)
        if pipe.client.frames and pipe.client.frames[-1][0] == PING:
            pipe.write(frame(PONG))
            pipe.write(frame(PING, b"from the client"))
    assert pipe.conn.is_open
    tick(pipe, 100)
    assert end_of(pipe) == IDLE
    assert pipe.lifecycle.lifetime is not None
    assert pipe.lifecycle.lifetime.exceeded == "idle_timeout"
    assert component.names() == ["open"]
    pipe.write(close_frame(1000))
    assert component.calls[-1] == ("close", *IDLE, True)


@pytest.mark.parametrize("kind", ["text", "fragments", "send", "broadcast"])
def test_a_message_in_either_direction_counts(kind: str) -> None:
    pipe = Pipe(Recorder(), Options(idle_timeout=100, ping_interval=None, message_timeout=1000))
    for now in range(0, 1000, 90):
        tick(pipe, now)
        assert pipe.conn.is_open
        if kind == "text":
            pipe.send("hello")
        elif kind == "fragments":
            pipe.write(frame(TEXT, b"a", fin=False))
            pipe.write(frame(0, b"b"))
        elif kind == "send":
            pipe.conn.send("hello")
        else:
            broadcast([pipe.conn], "hello")
        pipe.turn()
    tick(pipe, 1079)  # the last message was seen by no tick yet
    tick(pipe, 1178)
    assert pipe.conn.is_open
    tick(pipe, 1179)
    assert end_of(pipe) == IDLE


async def test_a_connection_whose_handler_runs_is_not_idle() -> None:
    gate = anyio.Event()

    class Working(Recorder):
        async def on_message(self, conn: Connection, message: Any) -> None:
            await gate.wait()

    async with anyio.create_task_group() as tasks:
        pipe = Pipe(Working(), Options(idle_timeout=10, ping_interval=None), tasks)
        pipe.send("work")
        await pipe.run_until_blocked()
        for now in range(100):
            tick(pipe, now)
        assert pipe.conn.is_open
        gate.set()
        await until_blocked()
        tick(pipe, 108)
        assert pipe.conn.is_open
        tick(pipe, 109)
        assert end_of(pipe) == IDLE
        tasks.cancel_scope.cancel()


def test_a_connection_with_a_message_on_its_way_is_not_idle() -> None:
    pipe = Pipe(Recorder(), Options(idle_timeout=10, ping_interval=None, ping_timeout=1000, high_water=1000))
    tick(pipe, 0)
    pipe.client.transport.pause_reading()
    pipe.conn.send(b"1" * 3000)
    for now in range(1, 100):
        tick(pipe, now)
    assert pipe.conn.is_open
    pipe.client.transport.resume_reading()
    for now in range(100, 109):
        tick(pipe, now)
    assert pipe.conn.is_open
    tick(pipe, 120)
    assert end_of(pipe) == IDLE


def test_nothing_follows_the_close_frame() -> None:
    pipe = Pipe(Recorder(), Options(idle_timeout=20, ping_interval=20))
    tick(pipe, 0)
    tick(pipe, 20)
    assert [opcode for opcode, _ in pipe.client.frames] == [CLOSE]


def test_a_connection_that_is_closing_is_not_closed_again() -> None:
    pipe = Pipe(Recorder(), Options(idle_timeout=10, max_connection_age=10, ping_interval=None, close_timeout=1000))
    tick(pipe, 0)
    pipe.conn.close(4000, "mine")
    for now in range(1, 100):
        tick(pipe, now)
    assert end_of(pipe) == (4000, "mine")


def test_without_these_limits_a_connection_has_no_lifetime() -> None:
    pipe = Pipe(Recorder())
    assert pipe.lifecycle.lifetime is None


@pytest.mark.parametrize("value", [0, -1, "1", True])
@pytest.mark.parametrize("name", ["max_connection_age", "idle_timeout"])
def test_these_limits_are_numbers_above_zero(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"Options.{name} must be a number greater than 0"):
        Options(**{name: value})


# -- on a server -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (Options(max_connection_age=0.2, close_timeout=0.05), 1012),
        (Options(idle_timeout=0.2, close_timeout=0.05), 1000),
    ],
    ids=["age", "idle"],
)
async def test_a_server_enforces_these_limits(options: Options, code: int) -> None:
    component = Recorder()
    async with (
        serving(component, options=options) as server,
        server.client() as client,
    ):
        assert await client.receive_close() == code
        await component.until_called("close")
