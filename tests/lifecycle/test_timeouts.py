"""Pings, timeouts of pings, sends, closes and unfinished messages; time is an argument of `Lifecycle.tick`."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from support import wire
from support.components import NeverEnding
from support.serving import PING, PONG, TEXT, Pipe, Recorder, close_frame, frame, message_frame, serving
from support.waiting import until_blocked

from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp.connection import Connection
from pywsapp.exceptions import ConnectionClosed
from pywsapp.options import Options

pytestmark = pytest.mark.anyio


def count_pings(pipe: Pipe) -> int:
    return [opcode for opcode, _ in pipe.client.frames].count(PING)


def tick(pipe: Pipe, now: float) -> None:
    pipe.lifecycle.tick(now)
    pipe.turn()


def test_the_server_pings_at_each_interval() -> None:
    pipe = Pipe(Recorder(), Options(ping_interval=20, ping_timeout=20))
    tick(pipe, 1000)
    tick(pipe, 1019)
    assert count_pings(pipe) == 0
    tick(pipe, 1020)
    assert count_pings(pipe) == 1
    pipe.write(frame(PONG))
    tick(pipe, 1039)
    assert count_pings(pipe) == 1
    tick(pipe, 1040)
    assert count_pings(pipe) == 2


def test_without_an_interval_the_server_does_not_ping() -> None:
    pipe = Pipe(Recorder(), Options(ping_interval=None))
    for now in range(0, 10_000, 100):
        tick(pipe, now)
    assert count_pings(pipe) == 0
    assert pipe.conn.is_open


def test_bytes_that_arrive_after_a_timeout_are_ignored() -> None:
    """A loop can deliver what it has read already between `abort` and `connection_lost`."""
    component = Recorder()
    pipe = Pipe(component, Options(ping_interval=20, ping_timeout=10))
    for now in (0.0, 20.0, 30.0):
        pipe.lifecycle.tick(now)
    written = len(pipe.writes)
    pipe.lifecycle.data_received(message_frame("late") + frame(PING) + close_frame(1000))
    pipe.turn()
    assert component.calls == [("open",), ("close", 1006, "ping timeout", False)]
    assert len(pipe.writes) == written


def test_a_silent_peer_is_dropped() -> None:
    component = Recorder()
    pipe = Pipe(component, Options(ping_interval=20, ping_timeout=10))
    tick(pipe, 0)
    tick(pipe, 20)
    tick(pipe, 29)
    assert component.names() == ["open"]
    tick(pipe, 30)
    assert component.calls == [("open",), ("close", 1006, "ping timeout", False)]
    assert pipe.client.lost
    assert pipe.codes() == []
    assert pipe.host.discarded == 1


def test_the_timeout_can_be_longer_than_the_interval() -> None:
    component = Recorder()
    pipe = Pipe(component, Options(ping_interval=5, ping_timeout=20))
    for now in range(25):
        tick(pipe, now)
    assert component.names() == ["open"]
    assert count_pings(pipe) == 1
    tick(pipe, 25)
    assert component.names() == ["open", "close"]


@pytest.mark.parametrize("sign", [frame(PONG, b"other"), message_frame("hi"), b"\x81", frame(PING)], ids=repr)
def test_any_received_byte_counts_as_activity(sign: bytes) -> None:
    pipe = Pipe(Recorder(), Options(ping_interval=20, ping_timeout=10))
    tick(pipe, 0)
    tick(pipe, 20)
    pipe.write(sign)
    tick(pipe, 35)
    assert pipe.conn.is_open


class Waiting(Recorder):
    """Waits in `on_message` until its gate opens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = anyio.Event()

    async def on_message(self, conn: Connection, message: Any) -> None:
        await self.gate.wait()


async def test_a_connection_is_pinged_and_not_dropped_while_a_busy_handler_stops_reading() -> None:
    waiting = Waiting()
    async with anyio.create_task_group() as tasks:
        pipe = Pipe(waiting, Options(ping_interval=20, ping_timeout=10, max_queue=2), tasks)
        tick(pipe, 0)
        tick(pipe, 20)
        assert count_pings(pipe) == 1
        pipe.send("1", "2", "3")
        pipe.client.transport.write(frame(PONG))
        await pipe.run_until_blocked()
        assert pipe.lifecycle.machine.pause_causes
        for now in range(21, 200):
            tick(pipe, now)
        assert count_pings(pipe) == 1 + 8
        waiting.gate.set()
        await until_blocked()
        pipe.lifecycle.tick(199)  # the pong has arrived, but is not read yet
        assert pipe.conn.is_open
        await pipe.run_until_blocked()
        tick(pipe, 199)
        assert count_pings(pipe) == 9
        tick(pipe, 200)
        assert count_pings(pipe) == 10
        tasks.cancel_scope.cancel()


async def test_without_an_interval_the_server_does_not_ping_while_a_handler_is_busy() -> None:
    async with anyio.create_task_group() as tasks:
        pipe = Pipe(Waiting(), Options(ping_interval=None, max_queue=2), tasks)
        pipe.send("1", "2", "3")
        await pipe.run_until_blocked()
        assert pipe.lifecycle.machine.pause_causes
        for now in range(0, 1000, 10):
            tick(pipe, now)
        assert count_pings(pipe) == 0
        tasks.cancel_scope.cancel()


async def test_a_peer_that_is_gone_is_noticed_while_a_busy_handler_stops_reading() -> None:
    """The event loop reads nothing, so it does not notice that the peer's system has reset the connection."""
    waiting = Waiting()
    options = Options(ping_interval=1000, max_queue=2, cancel_on_disconnect=True)
    async with wire.serving(waiting, options) as server, wire.peer_of(server) as peer:
        await peer.open()
        await peer.send(message_frame("one") * 10)
        await until_blocked()
        [lifecycle] = server.runtime.connections
        assert isinstance(lifecycle, Lifecycle)
        assert lifecycle.machine.pause_causes
        peer.reset()
        for seconds in (0, 1000, 2000):
            lifecycle.tick(anyio.current_time() + seconds)
            await until_blocked()
        assert waiting.names()[-1] == "close"


def stop_reading(pipe: Pipe, size: int = 3000) -> None:
    """Make the client stop reading, and send until the transport is full."""
    pipe.client.transport.pause_reading()
    pipe.conn.send(b"1" * size)
    pipe.turn()
    assert not pipe.lifecycle.machine.outbox.is_writable


def test_a_peer_that_stops_reading_is_dropped() -> None:
    component = Recorder()
    pipe = Pipe(component, Options(ping_interval=20, ping_timeout=10, high_water=1000))
    tick(pipe, 0)
    stop_reading(pipe)
    tick(pipe, 1)
    tick(pipe, 30)
    assert component.names() == ["open"]
    tick(pipe, 31)
    assert component.calls == [("open",), ("close", 1006, "send timeout", False)]


def test_further_sends_do_not_keep_a_peer_that_stops_reading() -> None:
    component = Recorder()
    pipe = Pipe(component, Options(ping_interval=20, ping_timeout=10, high_water=1000))
    stop_reading(pipe)
    for now in range(32):
        pipe.conn.send("more")
        tick(pipe, now)
    assert component.names() == ["open", "close"]


def test_a_peer_that_reads_a_little_is_kept() -> None:
    component = Recorder()
    pipe = Pipe(component, Options(ping_interval=20, ping_timeout=10, high_water=1000))
    for now in range(0, 200, 25):
        stop_reading(pipe)
        tick(pipe, now)
        pipe.client.transport.resume_reading()
        pipe.turn()
    assert component.names() == ["open"]


@pytest.mark.parametrize("reads", [True, False], ids=["reading", "not reading"])
def test_a_peer_that_does_not_answer_the_close_frame_is_dropped(reads: bool) -> None:
    component = Recorder()
    pipe = Pipe(component, Options(close_timeout=5, high_water=1000))
    tick(pipe, 0)
    if not reads:
        stop_reading(pipe)
    pipe.conn.close(3000, "bye")
    tick(pipe, 10)
    tick(pipe, 14)
    assert component.names() == ["open"]
    tick(pipe, 15)
    assert component.calls == [("open",), ("close", 3000, "bye", False)]
    assert pipe.codes() == ([3000] if reads else [])


def test_a_peer_that_closes_and_does_not_read_the_answer_is_dropped() -> None:
    component = Recorder()
    pipe = Pipe(component, Options(close_timeout=5, high_water=1000))
    stop_reading(pipe)
    pipe.client.transport.write(close_frame(3000))
    pipe.transport.resume_reading()
    pipe.turn()
    tick(pipe, 0)
    tick(pipe, 5)
    assert component.calls == [("open",), ("close", 3000, "", False)]


def test_a_message_that_stays_unfinished_closes_the_connection() -> None:
    component = Recorder()
    pipe = Pipe(component, Options(message_timeout=30, ping_interval=None))
    pipe.write(frame(TEXT, b"never ", fin=False))
    tick(pipe, 0)
    tick(pipe, 29)
    assert component.names() == ["open"]
    tick(pipe, 30)
    assert pipe.codes() == [1008]
    assert component.calls == [("open",), ("close", 1008, "a message stayed unfinished for too long", False)]


def test_the_pongs_of_one_read_are_sent_in_one_write() -> None:
    pipe = Pipe(Recorder())
    pipe.write(frame(PING, b"1") + frame(PING, b"2"))
    assert pipe.client.frames == [(PONG, b"1"), (PONG, b"2")]
    assert len(pipe.writes) == 1


async def test_pings_are_answered_while_a_handler_is_busy() -> None:
    component = NeverEnding()
    async with serving(component) as server, server.client() as client:
        await client.send("1")
        await component.until_called("begun")
        for payload in (b"1", b"2", b"3"):
            await client.send_frame(PING, payload)
            assert await client.receive() == (PONG, payload)


async def test_an_awaited_ping_fails_when_the_connection_ends() -> None:
    class Pinging(Recorder):
        async def on_message(self, conn: Connection, message: Any) -> None:
            try:
                await conn.ping()
            except ConnectionClosed:
                self.record("no pong")

    component = Pinging()
    async with serving(component) as server, server.client() as client:
        await client.send(b"1")
        assert (await client.receive())[0] == PING
        await client.reset()
        await component.until_called("close")
    assert component.names() == ["open", "no pong", "close"]


async def test_a_message_is_not_late_while_a_slow_handler_stops_reading() -> None:
    gate = anyio.Event()

    class Waiting(Recorder):
        async def on_message(self, conn: Connection, message: Any) -> None:
            await gate.wait()
            self.record("message", message)

    component = Waiting()
    async with anyio.create_task_group() as tasks:
        pipe = Pipe(component, Options(max_queue=1, message_timeout=30, ping_interval=None), tasks)
        late = message_frame("late")
        pipe.write(message_frame("first") + message_frame("second") + late[:-2])
        await pipe.run_until_blocked()
        assert pipe.lifecycle.machine.pause_causes
        for now in range(0, 300, 10):
            pipe.lifecycle.tick(float(now))
        gate.set()
        await pipe.run_until_blocked()
        pipe.write(late[-2:])
        await pipe.run_until_blocked()
        assert [call[1] for call in component.calls if call[0] == "message"] == ["first", "second", "late"]
        pipe.lifecycle.connection_lost(None)
        await pipe.run_until_blocked()
