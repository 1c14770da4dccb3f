"""A peer that sends a lot neither blocks the others nor fills the memory: each turn of the event loop has a bound."""

from __future__ import annotations

import tracemalloc
from typing import Any

import anyio
import pytest
from support.protocol_peer import CONTINUATION, deflated
from support.serving import TEXT, Pipe, Recorder, close_frame, frame, message_frame, serving

from pywsapp._protocol.deflate import DeflateParameters
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection
from pywsapp.options import Deflate, Options

pytestmark = pytest.mark.anyio
RSV1 = 0x40

FLOODS = {
    "messages": message_frame("x"),
    "fragments": frame(TEXT, b"x", fin=False) + frame(CONTINUATION, fin=False) * 8 + frame(CONTINUATION),
}


class Counter(MessageComponent):
    """Counts the messages; each one must be the same."""

    def __init__(self) -> None:
        self.received = 0
        self.code: int | None = None

    def on_message(self, conn: Connection, message: Any) -> Any:
        assert message == "x"
        self.received += 1

    def on_close(self, conn: Connection) -> None:
        self.code = conn.close_code


class AsyncCounter(Counter):
    async def on_message(self, conn: Connection, message: Any) -> None:
        super().on_message(conn, message)


class Gate(Recorder):
    """Handles messages when the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = anyio.Event()

    async def on_message(self, conn: Connection, message: Any) -> None:
        await self.gate.wait()
        super().on_message(conn, message)


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
@pytest.mark.parametrize("counter", [Counter, AsyncCounter], ids=["def", "async"])
async def test_a_turn_handles_a_part_of_a_flood(counter: type[Counter], flood: bytes) -> None:
    count = 256 * 1024 // len(flood)
    component = counter()
    async with anyio.create_task_group() as tasks:
        pipe = Pipe(component, tasks=tasks)
        other = Pipe(Recorder(), tasks=tasks)
        pipe.write(flood * count)
        at_once = component.received
        assert at_once < count
        other.send("meanwhile")
        turns = 0
        while component.received < count:
            before = component.received
            await anyio.lowlevel.checkpoint()
            assert component.received - before < count - at_once, "the rest was handled in one turn"
            turns += 1
        assert turns > 1
        pipe.write(close_frame(3000))
        await pipe.run_until_blocked()
        assert component.code == 3000
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("counter", [Counter, AsyncCounter], ids=["def", "async"])
async def test_a_server_handles_every_message_of_a_flood(counter: type[Counter]) -> None:
    component = counter()
    flood = FLOODS["messages"] * 30_000 + close_frame(3000)
    async with serving(component) as server, server.client() as client, server.client() as other:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.stream.send, flood)
            await other.send("x")
        assert await client.receive_close() == 3000
    assert component.received == 30_001


@pytest.mark.parametrize("size", [1, 500])
async def test_the_queue_is_bounded_in_messages_and_bytes(size: int) -> None:
    """After the loss of the transport the queue is delivered, and nothing more."""
    component = Gate()
    options = Options(max_queue=16, max_message_size=2000)
    async with anyio.create_task_group() as tasks:
        pipe = Pipe(component, options, tasks)
        pipe.write(message_frame("x" * size) * 1000)
        await pipe.run_until_blocked()
        pipe.transport.abort()
        pipe.turn()
        component.gate.set()
        await component.until_called("close")
    delivered = component.names().count("message")
    # One is being handled while the queue fills up. The messages of one read can exceed the bytes.
    assert delivered in range(2, 1 + 16 + 1)


@pytest.mark.parametrize("kind", ["empty", "compressed", "empty and compressed", "fragments"])
async def test_messages_without_bytes_are_not_free(kind: str) -> None:
    """A read with 10,000 of them is parsed only as far as the queue has room, while a handler is busy."""
    unit = {
        "empty": frame(TEXT),
        "compressed": frame(TEXT | RSV1, deflated(b"x" * 500)),
        "empty and compressed": frame(TEXT | RSV1, b"\0"),
        "fragments": frame(TEXT, fin=False) + frame(CONTINUATION),
    }[kind]
    component, parameters = Gate(), DeflateParameters(True, True, 15, 15)
    async with anyio.create_task_group() as tasks:
        pipe = Pipe(component, Options(max_queue=16, deflate=Deflate()), tasks, deflate=parameters)
        tracemalloc.start()
        try:
            pipe.lifecycle.data_received(unit * 10_000)
            for _ in range(100):
                await anyio.lowlevel.checkpoint()
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 60_000 + len(unit) * 10_000
        assert pipe.lifecycle.machine.pause_causes
        pipe.transport.abort()
        pipe.turn()
        component.gate.set()
        await component.until_called("close")
    assert component.names().count("message") in range(2, 1 + 16 + 1)


@pytest.mark.parametrize(
    "unit", [frame(TEXT), frame(TEXT, fin=False) + frame(CONTINUATION)], ids=["whole", "fragments"]
)
async def test_messages_without_bytes_that_come_one_by_one_are_not_free(unit: bytes) -> None:
    component = Gate()
    async with anyio.create_task_group() as tasks:
        pipe = Pipe(component, Options(max_queue=16), tasks)
        for _ in range(200):
            pipe.write(unit)
        await pipe.run_until_blocked()
        assert pipe.lifecycle.machine.pause_causes
        pipe.transport.abort()
        pipe.turn()
        component.gate.set()
        await component.until_called("close")
    assert component.names().count("message") in range(2, 1 + 16 + 1)


async def test_messages_of_the_largest_size_do_not_fill_the_queue() -> None:
    component = Gate()
    options = Options(max_queue=16, max_message_size=2000)
    async with anyio.create_task_group() as tasks:
        pipe = Pipe(component, options, tasks)
        for _ in range(16):
            pipe.write(message_frame("x" * 2000))
        await pipe.run_until_blocked()
        pipe.transport.abort()
        pipe.turn()
        component.gate.set()
        await component.until_called("close")
    assert component.names().count("message") == 2  # one that is being handled, and one in the queue


async def test_a_message_that_was_left_for_later_waits_for_a_peer_that_does_not_read() -> None:
    """The answers to one read can be much larger than the outbox."""

    class Amplifier(MessageComponent):
        def on_message(self, conn: Connection, message: Any) -> None:
            conn.send(message * 1000)

    count = 3000
    options = Options(max_outbox=256 * 1024)
    async with serving(Amplifier(), options=options) as server, server.client() as client:
        await client.stream.send(message_frame("x") * count)
        for _ in range(count):
            assert await client.message() == "x" * 1000
