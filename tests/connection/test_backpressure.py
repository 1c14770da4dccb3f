"""Slow peers and slow handlers: memory stays bounded, and other connections are not delayed."""

from __future__ import annotations

import logging
import socket
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.serving import (
    BINARY,
    CLOSE,
    GUARD,
    Client,
    MemoryClient,
    MemoryHost,
    Pipe,
    Recorder,
    RecordingTransport,
    close_frame,
    lifecycle_of,
    message_frame,
    serving,
    take_frames,
)
from support.waiting import until_blocked

from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp._protocol.deflate import DeflateParameters
from pywsapp._protocol.websocket import WebSocket
from pywsapp._transports.memory import memory_pipe
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection, broadcast
from pywsapp.exceptions import ConfigurationError
from pywsapp.http import Request
from pywsapp.options import Deflate, Options, SlowConsumer

pytestmark = pytest.mark.anyio

KIB = 1024
MIB = 1024 * 1024
POLICIES = pytest.mark.parametrize("policy", list(SlowConsumer), ids=lambda policy: policy.value)


def small(policy: SlowConsumer = SlowConsumer.CLOSE, **options: Any) -> Options:
    return Options(high_water=1000, max_outbox=2000, slow_consumer=policy, **options)


def full_connection(options: Options, component: MessageComponent | None = None, **arguments: Any) -> Pipe:
    """Return a connection whose peer does not read, and whose transport is full: it holds 1100 bytes."""
    pipe = Pipe(component or Recorder(), options, **arguments)
    pipe.client.transport.pause_reading()
    pipe.conn.send("x" * 1096)
    pipe.turn()
    assert not pipe.lifecycle.machine.outbox.is_writable
    assert pipe.conn.buffered == pipe.transport.get_write_buffer_size() == 1100
    return pipe


def resume_reading(pipe: Pipe) -> None:
    pipe.client.transport.resume_reading()
    pipe.turn()


def numbered(count: int, size: int = 98) -> list[str]:
    """Return messages whose frames have 100 bytes each."""
    return [f"{number:0{size}}" for number in range(count)]


# -- awaiting send -----------------------------------------------------------------------------------------------------


async def test_an_awaited_send_does_not_wait_below_high_water() -> None:
    pipe = Pipe(Recorder(), small())
    for message in numbered(10):
        with anyio.CancelScope() as scope:
            scope.cancel()  # a send that waits is cancelled
            await pipe.conn.send(message)
        assert not scope.cancelled_caught
    assert pipe.conn.buffered == 1000
    with anyio.CancelScope() as scope:
        scope.cancel()
        await pipe.conn.send("")
    assert scope.cancelled_caught


async def test_an_awaited_send_waits_while_the_peer_does_not_read() -> None:
    pipe = full_connection(small())
    done: list[int] = []

    async def send(number: int) -> None:
        await pipe.conn.send(f"{number}")
        done.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(send, number)
        await pipe.run_until_blocked()
        assert done == []
        pipe.client.transport.resume_reading()
        await pipe.run_until_blocked()
        assert sorted(done) == [0, 1, 2]
    assert sorted(pipe.messages()[1:]) == ["0", "1", "2"]


@pytest.mark.parametrize("how", ["close", "abort", "peer closes", "lost"])
async def test_an_awaited_send_returns_when_the_connection_ends(how: str) -> None:
    pipe = full_connection(small())

    async def send() -> None:
        await pipe.conn.send("1")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        await pipe.run_until_blocked()
        if how == "peer closes":
            pipe.transport.resume_reading()
            pipe.write(close_frame())
        elif how == "lost":
            pipe.client.transport.abort()
        else:
            getattr(pipe.conn, how)()
        with anyio.fail_after(GUARD):
            await pipe.run_until_blocked()


async def test_a_handler_that_awaits_its_sends_is_as_fast_as_its_peer() -> None:
    sizes: list[int] = []

    class Streaming(Recorder):
        async def on_open(self, conn: Connection) -> None:
            for number in range(100):
                await conn.send(number.to_bytes(4, "big") * 16 * KIB)
                sizes.append(conn.buffered)
            await conn.close()

    async with serving(Streaming(), options=Options(max_outbox=256 * KIB)) as server, server.client() as client:
        for number in range(100):
            assert await client.message() == number.to_bytes(4, "big") * 16 * KIB
        assert await client.receive() == (CLOSE, b"\x03\xe8")
        await client.stream.send(close_frame())
    assert max(sizes) <= 256 * KIB


# -- the bound of the outbox, and the policies -------------------------------------------------------------------------


@POLICIES
def test_the_outbox_holds_exactly_max_outbox_bytes(policy: SlowConsumer) -> None:
    pipe = full_connection(small(policy))
    for message in numbered(20):
        pipe.conn.send(message)
    assert pipe.conn.buffered == 1100 + 2000
    assert pipe.conn.is_open
    resume_reading(pipe)
    assert pipe.messages()[1:] == numbered(20)


@POLICIES
@pytest.mark.parametrize("size", [1, 98, 500, 1996])
def test_the_policy_applies_above_max_outbox(policy: SlowConsumer, size: int) -> None:
    component = Recorder()
    pipe = full_connection(small(policy), component)
    sent = numbered(20)
    for message in sent:
        pipe.conn.send(message)
    pipe.conn.send("y" * size)
    header = 2 if size < 126 else 4
    assert pipe.conn.buffered <= 1100 + 2000
    resume_reading(pipe)
    received = pipe.messages()[1:]
    if policy is SlowConsumer.CLOSE:
        assert received == []
        assert pipe.client.frames[-1] == (CLOSE, b"\x03\xf5reading too slowly")
        pipe.write(close_frame(1013))
        assert component.calls == [("open",), ("close", 1013, "reading too slowly", True)]
    elif policy is SlowConsumer.DROP_NEWEST:
        assert received == sent
    else:
        dropped = -(-(size + header) // 100)
        assert received == [*sent[dropped:], "y" * size]


@POLICIES
def test_one_message_of_any_size_can_be_queued(policy: SlowConsumer) -> None:
    pipe = full_connection(small(policy))
    pipe.conn.send("y" * 10_000)
    resume_reading(pipe)
    assert pipe.messages()[1:] == ["y" * 10_000]
    pipe.conn.send("z" * 10_000)
    resume_reading(pipe)
    assert pipe.messages()[2:] == ["z" * 10_000]


@POLICIES
def test_a_burst_in_one_turn_does_not_trigger_the_policy(policy: SlowConsumer) -> None:
    """The outbox is flushed to the transport before it counts as full."""
    pipe = Pipe(Recorder(), Options(high_water=100 * KIB, max_outbox=100 * KIB, slow_consumer=policy))
    pipe.transport.set_write_buffer_limits(high=10 * MIB)
    sent = numbered(5000)
    for message in sent:
        pipe.conn.send(message)
    pipe.turn()
    assert pipe.messages() == sent


def test_closing_a_slow_consumer_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    pipe = full_connection(small())
    for message in numbered(100):
        pipe.conn.send(message)
    [record] = caplog.records
    assert (record.name, record.levelno) == ("pywsapp", logging.WARNING)
    assert f"<Connection {pipe.conn.id} / from local open> reads too slowly: 3100 bytes wait for it" in caplog.text


@POLICIES
async def test_an_awaited_send_of_a_dropped_message_lets_others_run(policy: SlowConsumer) -> None:
    pipe = full_connection(small(policy))
    for message in numbered(20):
        pipe.conn.send(message)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await pipe.conn.send("one more")
    assert scope.cancelled_caught


def test_the_close_frame_is_not_dropped() -> None:
    pipe = full_connection(small(SlowConsumer.DROP_OLDEST))
    for message in numbered(20):
        pipe.conn.send(message)
    pipe.conn.close(4000)
    for message in numbered(20):
        pipe.conn.send(message)
    resume_reading(pipe)
    assert pipe.messages()[1:] == numbered(20)
    assert pipe.codes() == [4000]


Step = tuple[str, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 2500)),
        st.tuples(st.sampled_from(["turn", "read", "stop"]), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS, st.sampled_from(SlowConsumer))
def test_the_messages_that_are_not_dropped_arrive_whole_and_in_order(steps: list[Step], policy: SlowConsumer) -> None:
    options = small(policy)
    pipe = Pipe(Recorder(), options)
    sent: list[bytes] = []
    for step, size in steps:
        if step == "send":
            sent.append(len(sent).to_bytes(2, "big") + bytes(size))
            pipe.conn.send(sent[-1])
            assert pipe.conn.buffered - pipe.transport.get_write_buffer_size() <= max(
                options.max_outbox, *(len(one) + 4 for one in sent)
            )
        elif step == "turn":
            pipe.turn()
        elif step == "read":
            resume_reading(pipe)
        else:
            pipe.client.transport.pause_reading()
    resume_reading(pipe)
    received = pipe.messages()
    numbers = [int.from_bytes(message[:2], "big") for message in received]  # type: ignore[arg-type]
    assert numbers == sorted(set(numbers))
    assert all(message == sent[number] for message, number in zip(received, numbers, strict=True))
    if not pipe.conn.is_open:
        assert policy is SlowConsumer.CLOSE
        assert pipe.codes() == [1013]
    else:
        assert pipe.conn.buffered == 0
        assert not pipe.lifecycle.machine.pause_causes
    if policy is SlowConsumer.DROP_OLDEST and sent:
        assert received[-1] == sent[-1]


@pytest.mark.parametrize(
    "policy", [SlowConsumer.DROP_NEWEST, SlowConsumer.DROP_OLDEST], ids=lambda policy: policy.value
)
@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
def test_compression_does_not_refer_to_dropped_messages(policy: SlowConsumer, client: bool) -> None:
    """With context takeover a message can refer to earlier ones, which must not be dropped ones."""
    options = small(
        policy, deflate=Deflate(threshold=0, server_no_context_takeover=False, client_no_context_takeover=False)
    )
    parameters = DeflateParameters(False, False, 12, 12)
    ws, reader = (WebSocket(client=role, options=options, deflate=parameters) for role in (client, not client))
    host, transport, peer = MemoryHost(), RecordingTransport(), MemoryClient()
    lifecycle = Lifecycle(Recorder(), Request(), ws, transport, options, host)
    conn = lifecycle.conn
    transport.inner, _ = memory_pipe(lifecycle, peer)
    transport.inner.set_write_buffer_limits(high=options.high_water)
    received: list[Any] = []
    peer.data_received = lambda data: received.extend(reader.receive(data))  # type: ignore[method-assign]
    texts = [f"{number} " + " ".join(str((number * 7919 + k) ** 3) for k in range(60)) for number in range(30)]
    for part in (texts[:20], texts[20:]):
        peer.transport.pause_reading()
        for text in part:
            conn.send(text)
            host.flush()
        peer.transport.resume_reading()
        for _ in range(10):
            transport.inner.pump()
    assert 0 < len(received) < len(texts), "no message was dropped, or all"
    assert received == [text for text in texts if text in received]


def test_max_outbox_must_not_be_smaller_than_high_water() -> None:
    with pytest.raises(ConfigurationError, match="max_outbox must not be smaller"):
        Options(high_water=1001, max_outbox=1000)


# -- the same over real sockets ----------------------------------------------------------------------------------------


class Publishing(Recorder):
    """Sends each message to all connections."""

    def on_message(self, conn: Connection, message: Any) -> None:
        broadcast(self.conns, message)


def shrink(client: Client) -> None:
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * KIB)


class Flood:
    """Numbered messages of a size, which a client sends as fast as it can; `sent` counts them."""

    def __init__(self, client: Client, count: int, size: int) -> None:
        self.sent = 0
        self._client, self._count, self._size = client, count, size

    async def send(self) -> None:
        for number in range(self._count):
            await self._client.send(number.to_bytes(4, "big") + bytes(self._size))
            self.sent += 1


async def until_paused(component: Recorder) -> None:
    """Wait until the first connection is not read any more."""
    with anyio.fail_after(GUARD):
        while not lifecycle_of(component.conns[0]).machine.pause_causes:
            await anyio.lowlevel.checkpoint()


@POLICIES
async def test_the_policy_applies_to_a_slow_peer_and_not_to_others(
    policy: SlowConsumer, caplog: pytest.LogCaptureFixture
) -> None:
    options = Options(slow_consumer=policy, max_outbox=256 * KIB, ping_interval=None, close_timeout=GUARD)
    component = Publishing()
    count = 200  # 13 MB, more than the kernel's buffers hold
    async with serving(component, options=options) as server, server.client() as slow, server.client() as fast:
        shrink(slow)
        conn = component.conns[0]
        biggest = 0
        for number in range(count):
            message = number.to_bytes(4, "big") + bytes(64 * KIB)
            await fast.send(message)
            assert await fast.message() == message
            biggest = max(biggest, conn.buffered)
        assert biggest <= 256 * KIB + 3 * 64 * KIB
        frames = list(take_frames(slow._buffer))
        if policy is not SlowConsumer.CLOSE:
            await fast.close()
            await component.until_called("close")
            conn.close(4000)
        with anyio.fail_after(GUARD):
            while not frames or frames[-1][0] != CLOSE:
                frames.append(await slow.receive())
    closes = policy is SlowConsumer.CLOSE
    assert frames.pop() == (CLOSE, b"\x03\xf5reading too slowly" if closes else b"\x0f\xa0")
    assert all(opcode == BINARY and len(payload) == 64 * KIB + 4 for opcode, payload in frames)
    numbers = [int.from_bytes(payload[:4], "big") for _, payload in frames]
    assert numbers == sorted(set(numbers))
    assert len(numbers) < count
    if policy is not SlowConsumer.DROP_OLDEST:
        assert numbers == list(range(len(numbers)))
    else:
        assert numbers[-1] == count - 1
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == closes


def test_several_reads_in_one_turn_pause_reading_before_the_policy_applies() -> None:
    """libuv reads a socket many times before the end of a turn, until reading is paused."""

    class Echo(MessageComponent):
        def on_message(self, conn: Connection, message: Any) -> None:
            conn.send(message)

    pipe = Pipe(Echo(), Options(high_water=1000, max_outbox=8000))
    pipe.client.transport.pause_reading()
    one_read = b"".join(map(message_frame, numbered(4, size=996)))
    reads = 0
    while not pipe.lifecycle.machine.pause_causes and reads < 10:
        pipe.lifecycle.data_received(one_read)
        reads += 1
    assert pipe.conn.is_open
    resume_reading(pipe)
    assert pipe.messages() == numbered(4, size=996) * reads


@pytest.mark.parametrize("kind", ["def", "async"])
async def test_a_peer_that_floods_an_echo_without_reading_is_slowed_down(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    biggest = 0

    class Echo(Recorder):
        def on_message(self, conn: Connection, message: Any) -> Any:
            nonlocal biggest
            biggest = max(biggest, conn.buffered)
            return self.later(conn, message) if kind == "async" else self.now(conn, message)

        def now(self, conn: Connection, message: Any) -> None:
            conn.send(message)

        async def later(self, conn: Connection, message: Any) -> None:
            await conn.send(message)

    component = Echo()
    count, size = 256, 64 * KIB
    async with serving(component) as server, server.client() as client:
        shrink(client)
        async with anyio.create_task_group() as tasks:
            flood = Flood(client, count, size)
            tasks.start_soon(flood.send)
            await until_paused(component)
            assert flood.sent < count
            for number in range(count):
                assert (await client.receive())[1] == number.to_bytes(4, "big") + bytes(size)
        assert await client.close() == 1000
    assert biggest < 1 * MIB
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# -- slow handlers -----------------------------------------------------------------------------------------------------


class Gate(Recorder):
    """A component whose `on_message` waits for `open`."""

    def __init__(self) -> None:
        super().__init__()
        self.open = anyio.Event()

    async def on_message(self, conn: Connection, message: Any) -> None:
        self.record("begun", message)
        await self.open.wait()


async def test_reading_pauses_at_a_full_queue_and_resumes_at_half() -> None:
    gates = [anyio.Event() for _ in range(20)]

    class Stepwise(Gate):
        async def on_message(self, conn: Connection, message: Any) -> None:
            self.record(message)
            await gates[int(message)].wait()

    component = Stepwise()
    async with anyio.create_task_group() as tasks:
        pipe = Pipe(component, Options(max_queue=4), tasks)
        for number in range(20):
            pipe.send(str(number))
        await pipe.run_until_blocked()
        assert pipe.lifecycle.machine.pause_causes
        # One message is being handled, four are queued, and fifteen have not been read.
        assert pipe.client.transport.get_write_buffer_size() == len(
            b"".join(message_frame(str(number)) for number in range(5, 20))
        )
        gates[0].set()
        await pipe.run_until_blocked()
        assert component.names()[1:] == ["0", "1"]
        assert pipe.lifecycle.machine.pause_causes, "three messages are still queued"
        gates[1].set()
        await until_blocked()
        assert not pipe.lifecycle.machine.pause_causes, "half of the queue is free"
        for gate in gates:
            gate.set()
        await pipe.run_until_blocked()
        assert component.names()[1:] == [str(number) for number in range(20)]
        assert not pipe.lifecycle.machine.pause_causes
        tasks.cancel_scope.cancel()


async def test_memory_is_bounded_while_a_handler_waits() -> None:
    component = Gate()
    count, size = 256, 64 * KIB
    async with serving(component) as server, server.client() as client:
        async with anyio.create_task_group() as tasks:
            flood = Flood(client, count, size)
            tasks.start_soon(flood.send)
            await until_paused(component)
            assert component.names() == ["open", "begun"]
            assert flood.sent < count
            component.open.set()
            await component.until_called("begun", count)
        numbers = [int.from_bytes(call[1][:4], "big") for call in component.calls if call[0] == "begun"]
        assert numbers == list(range(count))
        assert await client.close() == 1000


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_close_and_abort_work_with_a_full_queue(how: str) -> None:
    component = Gate()
    async with serving(component, options=Options(max_queue=2)) as server, server.client() as client:
        for number in range(10):
            await client.send(str(number))
        conn = component.conns[0]
        with anyio.fail_after(GUARD):
            while not lifecycle_of(conn).machine.pause_causes:
                await anyio.lowlevel.checkpoint()
        getattr(conn, how)()
        if how == "close":
            assert await client.close() == 1000
        else:
            await client.read_to_end()
        component.open.set()
        await component.until_called("close")
    assert component.calls[-1] == (("close", 1000, "", True) if how == "close" else ("close", 1006, "aborted", False))
    assert component.names() == ["open", "begun", "close"]


async def test_a_slow_handler_does_not_delay_other_connections() -> None:
    class SlowPath(Gate):
        async def on_message(self, conn: Connection, message: Any) -> None:
            if conn.request.path == "/slow":
                await super().on_message(conn, message)
            await conn.send(message)

    component = SlowPath()
    async with serving(component) as server, server.client("/slow") as slow, server.client() as other:
        await slow.send("slow")
        await component.until_called("begun")
        for number in range(50):
            await other.send(str(number))
            assert await other.message() == str(number)
        component.open.set()
        assert await slow.message() == "slow"


async def test_reading_resumes_only_when_both_causes_of_the_pause_are_gone() -> None:
    """The queue must have space, and the peer must have read."""
    component = Gate()
    async with anyio.create_task_group() as tasks:
        pipe = full_connection(small(max_queue=2), component, tasks=tasks)
        pipe.transport.resume_reading()  # the queue can fill up while the peer does not read
        pipe.send(*"123")
        pipe.lifecycle.pause_writing()
        assert pipe.lifecycle.machine.pause_causes
        component.open.set()
        await until_blocked()
        assert pipe.lifecycle.machine.pause_causes, "the peer still does not read"
        resume_reading(pipe)
        await pipe.run_until_blocked()
        assert not pipe.lifecycle.machine.pause_causes
        tasks.cancel_scope.cancel()
    assert [call[1] for call in component.calls if call[0] == "begun"] == ["1", "2", "3"]
