"""A peer that ends its direction of the stream gets what is queued for it, and the close frame behind it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from support.serving import BINARY, CLOSE, GUARD, TEXT, close_frame, frame
from support.waiting import until_blocked
from support.wire import peer_of, serving

from pywsapp import Connection, MessageComponent, Options

pytestmark = pytest.mark.anyio

CONTINUATION = 0
#: More than the kernel takes of a connection whose peer does not read.
LARGE = bytes(range(256)) * 80_000
OPTIONS = Options(max_outbox=2 * len(LARGE), close_timeout=GUARD)


class Site(MessageComponent):
    """Sends messages and closes, when a message comes.

    Attributes:
        ends: what `on_close` was told of each connection.
    """

    def __init__(self, messages: list[Any], *, closes: bool) -> None:
        self.messages = messages
        self.closes = closes
        self.ended = anyio.Event()
        self.ends: list[tuple[int | None, bool | None]] = []

    def on_message(self, conn: Connection, message: str | bytes) -> None:
        for one in self.messages:
            conn.send(one)
        if self.closes:
            conn.close(1001, "bye")

    def on_close(self, conn: Connection) -> None:
        self.ends.append((conn.close_code, conn.was_clean))
        self.ended.set()


MESSAGES: dict[str, list[Any]] = {"one large": [LARGE], "many": [LARGE[: 64 * 1024]] * 300}


@pytest.mark.parametrize("messages", MESSAGES.values(), ids=MESSAGES)
@pytest.mark.parametrize("last", [b"", close_frame(1000)], ids=["no close frame", "close frame"])
@pytest.mark.parametrize("ends", [True, False], ids=["end", "no end"])
async def test_a_peer_that_ends_gets_everything(messages: list[Any], last: bytes, ends: bool) -> None:
    site = Site(messages, closes=True)
    async with serving(site, OPTIONS) as server, peer_of(server) as peer:
        await peer.open()
        await peer.send(frame(TEXT, b"go") + last)
        await until_blocked()
        if ends:
            peer.end()
        await until_blocked()  # the server has seen the end
        for message in messages:
            assert await peer.frame() == (BINARY, message)
        assert (await peer.frame())[0] == CLOSE
        if not (ends or last):
            await peer.send(close_frame(1001))
        if not ends:
            peer.end()
        assert await peer.read_to_end() == b""
        with anyio.fail_after(GUARD):
            await site.ended.wait()
    assert site.ends == [(1000, True) if last else (1001, not ends)]


@pytest.mark.parametrize("messages", MESSAGES.values(), ids=MESSAGES)
async def test_a_peer_that_ends_its_stream_first_gets_everything(messages: list[Any]) -> None:
    site = Site(messages, closes=False)
    async with serving(site, OPTIONS) as server, peer_of(server) as peer:
        await peer.open()
        await peer.send(frame(TEXT, b"go"))
        peer.end()
        await until_blocked()
        for message in messages:
            assert await peer.frame() == (BINARY, message)
        assert await peer.read_to_end() == b""
        await until_blocked()
    assert site.ends == [(1006, False)]


@pytest.mark.parametrize("leave", [lambda peer: peer.disconnect(), lambda peer: peer.reset()], ids=["close", "reset"])
async def test_a_peer_that_leaves_is_lost(leave: Callable[[Any], None]) -> None:
    site = Site([LARGE], closes=True)
    async with serving(site, OPTIONS) as server, peer_of(server) as peer:
        await peer.open()
        await peer.send(frame(TEXT, b"go"))
        await until_blocked()
        leave(peer)
        with anyio.fail_after(GUARD):
            await site.ended.wait()
    assert site.ends == [(1001, False)]


async def test_a_peer_that_ends_its_stream_and_does_not_read_is_dropped() -> None:
    site = Site([LARGE], closes=True)
    options = Options(max_outbox=2 * len(LARGE), close_timeout=0.2)
    async with serving(site, options) as server, peer_of(server) as peer:
        await peer.open()
        await peer.send(frame(TEXT, b"go"))
        await until_blocked()
        peer.end()
        with anyio.fail_after(GUARD):
            await site.ended.wait()
    assert site.ends == [(1001, False)]


@pytest.mark.parametrize("leave", [lambda peer: peer.disconnect(), lambda peer: peer.reset()], ids=["close", "reset"])
@pytest.mark.parametrize("before", [0, 10_000], ids=["in a callback", "in a task"])  # a task handles many messages
async def test_a_peer_that_breaks_the_protocol_and_leaves_is_no_error(
    before: int, leave: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Our close frame makes the peer's system reset the connection, so that no end can be sent behind it."""
    site = Site([], closes=False)
    async with serving(site, OPTIONS) as server, peer_of(server) as peer:
        await peer.open()
        await until_blocked()
        data = frame(TEXT) * before + frame(CONTINUATION, b"of nothing")
        assert peer.sock.send(data) == len(data)
        leave(peer)
        with anyio.fail_after(GUARD):
            await site.ended.wait()
        await until_blocked()
    assert site.ends == [(1002, False)]
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
