"""`Connection.ping`, and the pongs that answer it."""

from __future__ import annotations

from types import SimpleNamespace

import anyio
import anyio.lowlevel
import pytest
from support.serving import (
    GUARD,
    PING,
    PONG,
    TEXT,
    Pipe,
    Recorder,
    close_frame,
    frame,
)

from pywsapp._outbox import pings
from pywsapp.exceptions import ConfigurationError, ConnectionClosed

pytestmark = pytest.mark.anyio


async def test_a_ping_returns_the_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(pings, "time", SimpleNamespace(perf_counter=lambda: now))
    pipe = Pipe(Recorder())
    ping = pipe.conn.ping(b"?")
    now = 100.25
    pipe.write(frame(PONG, b"?"))
    assert await ping == 0.25


async def test_a_pong_answers_its_ping_and_the_earlier_ones() -> None:
    pipe = Pipe(Recorder())
    sent = [pipe.conn.ping(name) for name in (b"1", b"2", b"3")]
    pipe.write(frame(PONG, b"2") + frame(PONG, b"2") + frame(PONG, b"unasked"))
    with anyio.fail_after(GUARD):
        assert 0 <= await sent[1] <= await sent[0]
    with anyio.move_on_after(0) as scope:
        await sent[2]
    assert scope.cancelled_caught
    assert pipe.client.frames == [(PING, b"1"), (PING, b"2"), (PING, b"3")]


def test_a_ping_does_not_overtake_what_was_sent_before_it() -> None:
    pipe = Pipe(Recorder())
    pipe.conn.send("first")
    pipe.conn.ping(b"then")
    pipe.conn.send("last")
    pipe.turn()
    assert pipe.client.frames == [(TEXT, b"first"), (PING, b"then"), (TEXT, b"last")]


async def test_a_ping_need_not_be_awaited() -> None:
    pipe = Pipe(Recorder())
    pipe.conn.ping()
    pipe.conn.ping()
    pipe.turn()
    assert len({payload for opcode, payload in pipe.client.frames if opcode == PING}) == 2


@pytest.mark.parametrize("how", ["close", "abort", "peer", "lost"])
async def test_an_awaited_ping_fails_when_the_connection_ends(how: str) -> None:
    pipe = Pipe(Recorder())
    ping = pipe.conn.ping()
    pipe.end(how)
    if how in ("close", "abort"):
        pipe.write(close_frame())
    for awaitable in (ping, pipe.conn.ping()):
        with anyio.fail_after(GUARD), pytest.raises(ConnectionClosed, match="ended before the pong came"):
            await awaitable


async def test_the_pong_of_a_keepalive_ping_answers_earlier_pings() -> None:
    waiting = pings.Pings()
    _, first = waiting.add(b"1")
    waiting.keepalive_sent()
    _, second = waiting.add(b"2")
    waiting.keepalive_sent()  # the peer may answer the first one
    waiting.pong_received(b"")
    with anyio.fail_after(GUARD):
        await first
    with anyio.move_on_after(0) as scope:
        await second
    assert scope.cancelled_caught
    waiting.keepalive_sent()
    waiting.pong_received(b"")
    with anyio.fail_after(GUARD):
        await second


async def test_pings_of_a_program_can_have_the_payload_of_the_keepalive() -> None:
    waiting = pings.Pings()
    waiting.keepalive_sent()
    _, first = waiting.add(b"1")
    waiting.keepalive_sent()
    _, second = waiting.add(b"")
    waiting.keepalive_sent()
    with pytest.raises(ConfigurationError, match="still unanswered"):
        waiting.add(b"")
    waiting.pong_received(b"")
    with anyio.fail_after(GUARD):
        assert 0 <= await second <= await first


async def test_the_pings_that_wait_are_bounded() -> None:
    pipe = Pipe(Recorder())
    sent = [pipe.conn.ping() for _ in range(pings.MAX_WAITING + 2)]
    for forgotten in sent[:2]:
        with anyio.fail_after(GUARD), pytest.raises(TimeoutError, match="neither this ping nor 99 later ones"):
            await forgotten
    pipe.turn()
    last = pipe.client.frames[-1][1]
    pipe.write(frame(PONG, last))
    with anyio.fail_after(GUARD):
        for ping in sent[2:]:
            await ping


def test_invalid_pings_are_refused() -> None:
    pipe = Pipe(Recorder())
    with pytest.raises(ConfigurationError, match="at most 125 bytes, not 126"):
        pipe.conn.ping(b"1" * 126)
    pipe.conn.ping(b"1" * 125)
    with pytest.raises(ConfigurationError, match="still unanswered"):
        pipe.conn.ping(b"1" * 125)
