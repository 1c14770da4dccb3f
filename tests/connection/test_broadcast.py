"""`broadcast`, which sends one message to several connections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.serving import (
    MemoryHost,
    Pipe,
    Recorder,
    serving,
)

from pywsapp._protocol.prepared import PreparedMessage
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection, broadcast

pytestmark = pytest.mark.anyio


def connections(count: int) -> tuple[MemoryHost, list[Pipe]]:
    host = MemoryHost()
    return host, [Pipe(Recorder(), host=host) for _ in range(count)]


def test_a_broadcast_reaches_all_connections_except_the_excluded_ones() -> None:
    _, pipes = connections(4)
    conns = {pipe.conn for pipe in pipes}
    broadcast(conns, "to all")
    broadcast(conns, "to others", exclude=pipes[0].conn)
    broadcast(conns, "to some", exclude=(pipe.conn for pipe in pipes[1:3]))
    broadcast([], "to nobody")
    pipes[3].conn.close()
    broadcast(iter(conns), PreparedMessage("to the open ones"))
    for pipe in pipes:
        pipe.turn()
    assert pipes[0].messages() == ["to all", "to some", "to the open ones"]
    assert pipes[1].messages() == pipes[2].messages() == ["to all", "to others", "to the open ones"]
    assert pipes[3].messages() == ["to all", "to others", "to some"]


def test_a_broadcast_is_encoded_once() -> None:
    _, pipes = connections(50)
    broadcast([pipe.conn for pipe in pipes], "x" * 1000)
    for pipe in pipes:
        pipe.turn()
    frames = [pipe.writes[-1] for pipe in pipes]
    assert all(written is frames[0] for written in frames)


def test_replies_and_broadcasts_of_one_turn_share_one_write_for_each_connection() -> None:
    class Chat(MessageComponent):
        def on_message(self, conn: Connection, message: Any) -> None:
            conn.send("heard")
            broadcast(conns, message)

    host = MemoryHost()
    pipes = [Pipe(Chat(), host=host) for _ in range(3)]
    conns = [pipe.conn for pipe in pipes]
    for pipe in pipes:
        pipe.writes.clear()
    pipes[0].send("1", "2")
    assert [len(pipe.writes) for pipe in pipes] == [1, 1, 1]
    for pipe in pipes[1:]:
        pipe.turn()
    assert pipes[0].messages() == ["heard", "1", "heard", "2"]
    assert pipes[1].messages() == pipes[2].messages() == ["1", "2"]


def test_the_set_can_change_during_a_broadcast() -> None:
    """Code that runs during a broadcast, such as a log handler for a slow consumer, can remove connections."""
    _, pipes = connections(3)
    conns = {pipe.conn for pipe in pipes}

    def shrinking() -> Iterator[Connection]:
        for conn in list(conns):
            conns.discard(conn)
            yield conn

    broadcast(shrinking(), "bye")
    assert conns == set()
    for pipe in pipes:
        pipe.turn()
        assert pipe.messages() == ["bye"]


async def test_handlers_can_change_the_set_between_broadcasts() -> None:
    class Chat(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.clients: set[Connection] = set()

        def on_open(self, conn: Connection) -> None:
            self.clients.add(conn)
            broadcast(self.clients, "joined")

        def on_message(self, conn: Connection, message: Any) -> None:
            broadcast(self.clients, message, exclude=conn)

        def on_close(self, conn: Connection) -> None:
            self.clients.discard(conn)
            broadcast(self.clients, "left")
            self.record("close")

    component = Chat()
    async with serving(component) as server, server.client() as ana:
        assert await ana.message() == "joined"
        async with server.client() as bo:
            assert await bo.message() == await ana.message() == "joined"
            await bo.send("hello")
            assert await ana.message() == "hello"
            await bo.reset()
        assert await ana.message() == "left"
        assert len(component.clients) == 1


@pytest.mark.parametrize("message", [None, [1j]], ids=repr)
def test_an_invalid_broadcast_reaches_no_connection(message: Any) -> None:
    _, pipes = connections(2)
    with pytest.raises(TypeError):
        broadcast([pipe.conn for pipe in pipes], message)
    assert all(pipe.conn.buffered == 0 for pipe in pipes)
