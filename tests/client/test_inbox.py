"""The queue of a `ClientConnection`: how many messages it holds, and what it does at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.client_servers import Server, echoing
from support.serving import Pipe, message_frame

from pywsapp import Connection, ConnectionClosed, Options, connect
from pywsapp._connecting.inbox import Inbox

pytestmark = pytest.mark.anyio

KIB = 1024


@asynccontextmanager
async def piped(limit: int) -> AsyncIterator[tuple[Inbox, Pipe]]:
    """An inbox in memory, as `connect` runs it."""
    async with anyio.create_task_group() as tasks:
        inbox = Inbox(limit)
        yield inbox, Pipe(inbox, Options(max_queue=1), tasks)
        tasks.cancel_scope.cancel()


def size_of(numbers: range) -> int:
    return sum(len(message_frame(str(number))) for number in numbers)


@pytest.mark.parametrize("limit", [1, 2, 4])
async def test_reading_stops_when_max_queue_and_one_more_wait(limit: int) -> None:
    async with piped(limit) as (inbox, pipe):
        for number in range(20):
            pipe.send(str(number))
        await pipe.run_until_blocked()
        peer = pipe.client.transport
        assert peer.get_write_buffer_size() == size_of(range(limit + 1, 20))
        for number in range(20):
            assert await inbox.take(pipe.conn) == str(number)
            await pipe.run_until_blocked()
        assert peer.get_write_buffer_size() == 0


@pytest.mark.parametrize("limit", [1, 4])
async def test_messages_of_one_read_are_all_kept(limit: int) -> None:
    async with piped(limit) as (inbox, pipe):
        pipe.send(*map(str, range(100)))
        pipe.client.transport.close()
        for number in range(100):
            await pipe.run_until_blocked()
            assert await inbox.take(pipe.conn) == str(number)
        await pipe.run_until_blocked()
        with pytest.raises(ConnectionClosed, match="1006"):
            await inbox.take(pipe.conn)


async def test_a_full_queue_does_not_keep_the_connection_after_discarding() -> None:
    async with piped(2) as (inbox, pipe):
        pipe.send(*map(str, range(100)))
        await pipe.run_until_blocked()
        pipe.client.transport.abort()
        await pipe.run_until_blocked()
        assert pipe.host.discarded == 0
        inbox.discard()
        await pipe.run_until_blocked()
        assert pipe.host.discarded == 1
        with pytest.raises(ConnectionClosed):
            await inbox.take(pipe.conn)


@given(limit=st.integers(1, 5), steps=st.lists(st.integers(-3, 12), max_size=30))
async def test_messages_come_whole_and_in_order(limit: int, steps: list[int]) -> None:
    sent = received = 0
    async with piped(limit) as (inbox, pipe):
        for step in [*steps, -1000]:
            if step >= 0:
                pipe.send(*map(str, range(sent, sent + step)))
                sent += step
                continue
            for _ in range(min(-step, sent - received)):
                await pipe.run_until_blocked()
                assert await inbox.take(pipe.conn) == str(received)
                received += 1
    assert received == sent


async def test_a_server_that_floods_is_slowed_down() -> None:
    count, limit = 1000, 4

    class Flood(Server):
        sent = 0

        async def on_open(self, conn: Connection) -> None:
            for number in range(count):
                await conn.send(number.to_bytes(4, "big") + bytes(64 * KIB))
                self.sent += 1

    server = Flood()
    async with (
        echoing(server) as app,
        connect(f"ws://127.0.0.1:{app.port}/", options=Options(max_queue=limit)) as conn,
    ):
        inbox = conn._inbox
        while len(inbox._messages) < limit:
            await anyio.lowlevel.checkpoint()
        assert server.sent < count
        for number in range(count):
            assert len(inbox._messages) <= limit
            assert int.from_bytes(bytes((await conn.receive())[:4]), "big") == number  # type: ignore[arg-type]
