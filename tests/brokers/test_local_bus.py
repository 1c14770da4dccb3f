"""The local bus: routers and brokers over real socket pairs, on every event loop; and the router beside a model."""

from __future__ import annotations

import json
import socket
import struct
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.serving import serving

from pywsapp import App, Connection, MessageComponent
from pywsapp._transports.memory import memory_pipe
from pywsapp.brokers import relay
from pywsapp.brokers.base import Keep, Outgoing, Position
from pywsapp.brokers.envelope import Envelope, encode_envelope
from pywsapp.brokers.local import router as bus
from pywsapp.brokers.local.broker import LocalBroker, LocalConnection, _Wire
from pywsapp.brokers.local.frames import (
    ASK,
    BEGIN,
    BEGUN,
    GAP,
    HEAD,
    HISTORY_END,
    KEEP,
    KEPT,
    LONG_COUNT,
    MAX_FRAME,
    MESSAGES,
    READ,
    SUBSCRIBE,
    TAKEN,
    UNSUBSCRIBE,
    FrameCutter,
    encode,
    encode_lists,
    encode_messages,
    items_of,
)
from pywsapp.brokers.local.router import QUEUE_LIMIT, BusRouter
from pywsapp.exceptions import BrokerUnavailable
from pywsapp.testing.broker import BROKER_CHECKS, Check, Peer
from pywsapp.topics.names import TopicPattern
from pywsapp.topics.registry import TopicRegistry

pytestmark = pytest.mark.anyio

GUARD = 20
TOPIC = "room:42"
NAME = TOPIC.encode()
KIB = 1024


class Bus:
    """A router, and what is needed to be a worker at it."""

    def __init__(self, queue_limit: int) -> None:
        self.router = BusRouter(queue_limit)
        self._ends: list[socket.socket] = []
        self._brokers: list[LocalBroker] = []
        self._number = 0

    def pair(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        self._number += 1
        self.router.attach(self._number, ours)
        return theirs

    def broker(self) -> LocalBroker:
        self._brokers.append(LocalBroker(self.pair()))
        return self._brokers[-1]

    def close(self) -> None:
        """End what is left."""
        self.router.close()
        for broker in self._brokers:
            broker.close()
        for end in self._ends:
            end.close()

    def raw(self) -> socket.socket:
        """Give the end of a worker that does only what the test does."""
        end = self.pair()
        end.setblocking(False)
        self._ends.append(end)
        return end

    async def peer(self, *topics: str) -> Peer:
        """Give a worker that is connected and subscribes."""
        peer = Peer()
        peer.connection = await self.broker().connect(peer.receive, [])
        await peer.connection.subscribe(topics)
        return peer


@asynccontextmanager
async def running(queue_limit: int = QUEUE_LIMIT) -> AsyncIterator[Bus]:
    made = Bus(queue_limit)
    try:
        with anyio.fail_after(GUARD):
            yield made
    finally:
        made.close()
        # The router's sockets are closed by tasks of their own.
        for _ in range(3):
            await anyio.lowlevel.checkpoint()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - there is no event for what a stranger does to the router
        await anyio.sleep(0.002)


async def send(end: socket.socket, data: bytes) -> None:
    while data:
        await anyio.wait_writable(end)
        data = data[end.send(data) :]


async def frames(end: socket.socket) -> AsyncGenerator[tuple[int, bytes, list[bytes]], None]:
    """Give what a raw worker is sent, until the end of the stream."""
    cutter = FrameCutter()
    while True:
        await anyio.wait_readable(end)
        try:
            data = end.recv(1 << 20)
        except ConnectionResetError:
            return
        if not data:
            return
        for cut in cutter.cut(data):
            yield cut[0], cut[2], items_of(cutter.buffer, cut)


@pytest.mark.parametrize("check", BROKER_CHECKS.values(), ids=BROKER_CHECKS)
async def test_local_broker_keeps(check: Check) -> None:
    async with running() as made:
        await check(made.broker)


async def test_topics_of_two_hubs_are_one() -> None:
    heard: list[str] = []
    event = anyio.Event()

    def hear(topic: Any, message: str) -> None:
        heard.append(message)
        event.set()

    async with running() as made:
        one, two = TopicRegistry(made.broker()), TopicRegistry(made.broker())
        two.listen("room:*", hear)
        async with one.running(), two.running():
            await one.topic(TOPIC).broadcast("hello")
            await event.wait()
        assert heard == ["hello"]


async def test_two_publishers_at_once_keep_their_orders() -> None:
    async with running() as made:
        listener, one, two = await made.peer(TOPIC), await made.peer(), await made.peer()

        async def publish(peer: Peer, letter: bytes) -> None:
            for start in range(0, 1000, 10):
                await peer.publish(TOPIC, *(letter + b"%d" % number for number in range(start, start + 10)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish, one, b"a")
            tasks.start_soon(publish, two, b"b")
        await until(lambda: len(listener.received) == 2000)
        for letter in (b"a", b"b"):
            found = [data for _, data, _ in listener.received if data.startswith(letter)]
            assert found == [letter + b"%d" % number for number in range(1000)]


# -- who does not read ---------------------------------------------------------------------------------------------


async def test_a_worker_that_does_not_read_is_told_what_it_missed() -> None:
    async with running(256 * KIB) as made:
        stuck, other, publisher = made.raw(), await made.peer(TOPIC), await made.peer()
        await send(stuck, b"".join(encode_lists(SUBSCRIBE, [NAME])))
        await until(lambda: made.router.route(NAME) != () and len(made.router.route(NAME)) == 2)
        published = 0
        while made.router.dropped < 20:
            batch = [b"%d:" % number + bytes(10 * KIB) for number in range(published, published + 7)]
            await publisher.publish(TOPIC, *batch)
            published += len(batch)
            await other.expect([(TOPIC, message) for message in batch])
        assert made.router.stats.dropped < published

        found: list[int] = []
        missing = 0
        async with aclosing(frames(stuck)) as reading:
            while not missing or len(found) + missing < published:
                kind, _, items = await reading.__anext__()
                if kind & ~ASK == MESSAGES:
                    numbers = [int(item.partition(b":")[0]) for item in items]
                    assert numbers == list(range(len(found) + missing, len(found) + missing + len(numbers)))
                    found += numbers
                elif kind == GAP:
                    missing += LONG_COUNT.unpack(items[0])[0]
                    await publisher.publish(TOPIC, b"%d:" % published)
                    published += 1
        assert missing == made.router.dropped
        assert found[-1] == published - 1


async def test_a_broker_that_misses_messages_begins_anew() -> None:
    async with running(256 * KIB) as made:
        broker, publisher = made.broker(), await made.peer()
        received: list[bytes] = []
        published = 0
        for _ in range(2):
            connection = await broker.connect(lambda topic, data, position: received.append(data), [])
            await connection.subscribe([TOPIC])
            before = made.router.dropped
            connection._wire.transport.pause_reading()
            while made.router.dropped < before + 20:
                await publisher.publish(TOPIC, *[bytes(10 * KIB)] * 7)
                published += 7
            connection._wire.transport.resume_reading()
            with pytest.raises(BrokerUnavailable, match=r"^\d+ messages of other workers are missing") as raised:
                await connection.wait_lost()
            assert broker.missing == made.router.dropped == published - len(received)
            assert str(raised.value).startswith(f"{broker.missing - before} messages")
            await connection.aclose()
        connection = await broker.connect(lambda topic, data, position: received.append(data), [])
        await connection.subscribe([TOPIC])
        await publisher.publish(TOPIC, b"again")
        await until(lambda: received[-1] == b"again")
        await connection.aclose()


async def test_what_a_worker_did_not_read_is_read_from_the_history() -> None:
    """Nothing is published behind it that would show the gap."""
    async with running(256 * KIB) as made:
        app = App(port=0, broker=made.broker())
        app.history(TOPIC)
        publisher = await made.peer()

        class Room(MessageComponent):
            async def on_open(self, conn: Connection) -> None:
                conn.send((await app.topic(TOPIC).recover(conn, None)).position)

        app.route("/", Room())
        async with serving(app) as server, server.client() as client:
            await client.message()
            connection = app.topics.relay.connection if app.topics.relay is not None else None
            assert isinstance(connection, LocalConnection)
            connection._wire.transport.pause_reading()
            text = "x" * 10 * KIB
            published = 0
            while made.router.dropped < 20:
                published += 1
                data = encode_envelope(Envelope(TOPIC, text))
                keep = Keep(("elsewhere", published), 100, 60)
                await publisher.connection.publish([Outgoing(TOPIC, data, keep)])
            connection._wire.transport.resume_reading()
            for number in range(1, published + 1):
                message = json.loads(await client.message())
                assert (message["position"].partition("-")[0], message["message"]) == (str(number), text)


async def test_who_does_not_read_is_not_read_from_and_is_answered_later() -> None:
    async with running(64 * KIB) as made:
        stuck, other = made.raw(), await made.peer()
        await send(stuck, b"".join(encode_lists(SUBSCRIBE, [NAME])))
        await until(lambda: made.router.stats.topics == 1)
        (worker,) = made.router.route(NAME)
        asked = 1
        while not worker.full:
            await send(stuck, encode(MESSAGES | ASK, NAME, [bytes(10 * KIB)]))
            await other.publish("unheard", b"x")  # the router has had a turn
            asked += 1
        taken = made.router.taken
        for _ in range(5):
            await send(stuck, encode(MESSAGES | ASK, NAME, [b"x"]))
            await other.publish("unheard", b"x")
        assert made.router.taken == taken + 5, "it was read from"
        told = found = 0
        async with aclosing(frames(stuck)) as reading:
            while told < asked + 5 or found < asked + 4:
                kind, _, items = await reading.__anext__()
                told += struct.unpack("<I", items[0])[0] if kind == TAKEN else 0
                found += kind & ~ASK == MESSAGES
        assert (told, found) == (asked + 5, asked + 4)


async def test_a_full_worker_that_dies_is_forgotten() -> None:
    async with running(64 * KIB) as made:
        stuck, publisher = made.raw(), await made.peer()
        await send(stuck, b"".join(encode_lists(SUBSCRIBE, [NAME])))
        await until(lambda: made.router.stats.topics == 1)
        while not made.router.dropped:
            await publisher.publish(TOPIC, bytes(100 * KIB))
        stuck.close()
        await until(lambda: made.router.stats.topics == 0)
        assert made.router.stats.workers == 1
        await publisher.publish(TOPIC, b"x")


async def test_a_history_beyond_the_limit_counts_as_forgotten() -> None:
    async with running(256 * KIB) as made:
        peer = await made.peer()
        await peer.connection.publish([Outgoing(TOPIC, bytes(100 * KIB), Keep(("me", n), 9, 60)) for n in (1, 2, 3)])
        epoch = (await peer.connection.read_history(TOPIC, None)).position.epoch
        assert len((await peer.connection.read_history(TOPIC, Position(epoch, 1))).messages) == 2
        whole = await peer.connection.read_history(TOPIC, Position(epoch, 0))
        assert whole == (Position(epoch, 3), [], False)


async def test_histories_asked_for_at_once_share_the_limit() -> None:
    async with running(256 * KIB) as made:
        peer, raw = await made.peer(), made.raw()
        await peer.connection.publish([Outgoing(TOPIC, bytes(100 * KIB), Keep(("me", n), 9, 60)) for n in (1, 2)])
        start = Position((await peer.connection.read_history(TOPIC, None)).position.epoch, 1)
        await send(raw, encode(READ, NAME, [str(start).encode()]) * 5)
        complete: list[bool] = []
        async with aclosing(frames(raw)) as reading:
            while len(complete) < 5:
                kind, _, items = await reading.__anext__()
                if kind == HISTORY_END:
                    complete.append(bool(items[1]))
        assert complete == [True, True, False, False, False]


# -- who dies, or says what has no meaning -------------------------------------------------------------------------

WORKER = """
import socket, sys, anyio
from pywsapp.brokers.local.broker import LocalBroker
from pywsapp.brokers.base import Outgoing

async def main():
    def receive(topic, data, position):
        tasks.start_soon(connection.publish, [Outgoing("answers", data)])
    connection = await LocalBroker(socket.socket(fileno=int(sys.argv[1]))).connect(receive, ["other:*"])
    async with anyio.create_task_group() as tasks:
        await connection.subscribe(["questions"])
        await connection.publish([Outgoing("answers", b"ready")])
        await connection.wait_lost()

anyio.run(main, backend=sys.argv[2], backend_options={"use_uvloop": True} if sys.argv[3:] else {})
"""


async def test_a_process_that_is_killed_is_forgotten(anyio_backend: Any) -> None:
    name, options = anyio_backend
    async with running() as made:
        peer, end = await made.peer("answers"), made.pair()
        command = [sys.executable, "-c", WORKER, str(end.fileno()), name]
        if options.get("use_uvloop"):
            command.append("uvloop")
        async with await anyio.open_process(command, pass_fds=[end.fileno()], stdout=None, stderr=None) as process:
            try:
                end.close()
                await peer.expect([("answers", b"ready")])
                assert made.router.stats[:2] == (2, 2)
                for number in range(3):
                    await peer.publish("questions", b"%d" % number)
                    await peer.expect([("answers", b"%d" % number)])
            finally:
                process.kill()
            await until(lambda: made.router.stats[:2] == (1, 1))
        await peer.publish("other:1", b"x")


async def test_a_worker_learns_that_the_router_is_gone() -> None:
    async with running() as made:
        broker = made.broker()
        connection = await broker.connect(lambda topic, data, position: None, [])
        made.router.close()
        with pytest.raises(BrokerUnavailable, match="supervisor"):
            await connection.wait_lost()
        with pytest.raises(BrokerUnavailable):
            await connection.publish([Outgoing(TOPIC, b"x")])
        with pytest.raises(BrokerUnavailable):
            await connection.read_history(TOPIC, None)
        with pytest.raises(BrokerUnavailable):
            await broker.connect(lambda topic, data, position: None, [])
        await connection.aclose()


async def test_a_worker_that_comes_while_the_router_closes() -> None:
    async with running() as made:
        raw = made.raw()
        made.router.close()
        assert [frame async for frame in frames(raw)] == []


async def test_connections_follow_each_other_on_the_socket() -> None:
    async with running() as made:
        broker, peer = made.broker(), await made.peer("answers")
        first, second = Peer(), Peer()
        first.connection = await broker.connect(first.receive, ["room:*"])
        await first.connection.subscribe(["news"])
        second.connection = await broker.connect(second.receive, ["answers"])
        with anyio.move_on_after(GUARD):
            await first.connection.wait_lost()
        with pytest.raises(BrokerUnavailable):
            await first.publish(TOPIC, b"x")
        assert made.router.stats[:2] == (2, 1)
        for topic in (TOPIC, "news", "answers"):
            await peer.publish(topic, b"x")
        await second.publish("answers", b"y")
        await second.expect([("answers", b"x"), ("answers", b"y")])
        assert not first.received


async def test_a_relay_gets_over_a_router_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "PUBLISH_SECONDS", 0.1)
    received: list[bytes] = []
    async with running() as made:
        one = relay.Relay(made.broker(), lambda topic, data, position: received.append(data))
        one.subscribe(TOPIC)
        async with anyio.create_task_group() as tasks:
            await tasks.start(one.run)
            await one.publish(TOPIC, b"1")
            (worker,) = made.router.route(NAME)
            worker._transport.pause_reading()
            with pytest.raises(BrokerUnavailable):
                await one.publish(TOPIC, b"2")
            worker._transport.resume_reading()
            await until(lambda: one.stats.connects == 2)
            await one.publish(TOPIC, b"3")
            await until(lambda: b"3" in received)
            tasks.cancel_scope.cancel()
        assert received in ([b"1", b"3"], [b"1", b"2", b"3"])


@asynccontextmanager
async def alone() -> AsyncIterator[tuple[LocalConnection, socket.socket]]:
    """Give a connection, and the socket of a router that does only what the test does."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    broker = LocalBroker(theirs)

    async def answer() -> None:
        assert await read(ours) == [(BEGIN, b"1", [])]
        await send(ours, encode(BEGUN, b"1", []))

    try:
        with anyio.fail_after(GUARD), ours:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(answer)
                connection = await broker.connect(lambda topic, data, position: None, [])
            yield connection, ours
    finally:
        broker.close()
        await anyio.lowlevel.checkpoint()


async def read(end: socket.socket) -> list[tuple[int, bytes, list[bytes]]]:
    """Give what has come, and is whole."""
    await anyio.wait_readable(end)
    cutter = FrameCutter()
    return [(cut[0], cut[2], items_of(cutter.buffer, cut)) for cut in cutter.cut(end.recv(1 << 16))]


async def test_a_router_that_answers_late_can_still_be_had() -> None:
    received: list[bytes] = []
    async with alone() as (first, router):
        broker = first._broker
        asked = [encode(TAKEN, b"", [struct.pack("<I", 1)])]
        with anyio.move_on_after(0.05) as scope:
            await first.publish([Outgoing(TOPIC, b"x")])
        assert scope.cancelled_caught
        await first.aclose()
        with anyio.move_on_after(0.05) as scope:
            await broker.connect(lambda topic, data, position: received.append(data), [])
        assert scope.cancelled_caught
        async with anyio.create_task_group() as tasks:

            async def answer() -> None:
                old = encode(MESSAGES, NAME, [b"old"])
                begun = [encode(BEGUN, name, []) for name in (b"", b"2", b"", b"3")]
                new = encode(MESSAGES, NAME, [b"new"])
                await until(lambda: bool(broker._wire and broker._wire.connection and broker._wire.connection._asked))
                await send(router, b"".join([*asked, old, *begun[:3], old, begun[3], new]))

            tasks.start_soon(answer)
            third = await broker.connect(lambda topic, data, position: received.append(data), ["room:*"])
        await until(lambda: bool(received))
        assert received == [b"new"]
        frames = await read(router)
        assert [(kind & ~ASK, name) for kind, name, _ in frames] == [
            (MESSAGES, NAME),
            (BEGIN, b""),
            (BEGIN, b"2"),
            (BEGIN, b""),
            (BEGIN, b"3"),
        ]
        await third.aclose()


async def test_who_waits_for_the_router_learns_that_it_is_gone() -> None:
    async with alone() as (connection, router):
        failed: list[str] = []

        async def wait(name: str, call: Callable[..., Any], *arguments: Any) -> None:
            try:
                await call(*arguments)
            except BrokerUnavailable:
                failed.append(name)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, "publish", connection.publish, [Outgoing(TOPIC, b"x")])
            tasks.start_soon(wait, "subscribe", connection.subscribe, [TOPIC])
            tasks.start_soon(wait, "read", connection.read_history, TOPIC, None)
            await anyio.wait_readable(router)
            router.close()
        assert sorted(failed) == ["publish", "read", "subscribe"]


async def test_no_router_at_all() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with anyio.fail_after(GUARD), pytest.raises(BrokerUnavailable):
        await LocalBroker(theirs).connect(lambda topic, data, position: None, ["room:*"])
    await anyio.lowlevel.checkpoint()


async def test_a_socket_that_no_transport_takes(anyio_backend: Any) -> None:
    if anyio_backend[0] == "trio":
        pytest.skip("trio's transport takes any")
    ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
    with ours, pytest.raises(BrokerUnavailable) as caught:
        await LocalBroker(theirs).connect(lambda topic, data, position: None, [])
    assert isinstance(caught.value.__cause__, ValueError)
    assert theirs.fileno() == -1


async def test_a_publish_that_is_cancelled_does_not_confuse_the_next() -> None:
    async with alone() as (connection, router):
        taken = encode(TAKEN, b"", [struct.pack("<I", 1)])
        with anyio.move_on_after(0.05) as scope:
            await connection.publish([Outgoing(TOPIC, b"1")])
        assert scope.cancelled_caught
        done = anyio.Event()

        async def publish() -> None:
            await connection.publish([Outgoing(TOPIC, b"2")])
            done.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish)
            await send(router, taken + encode(KEPT, NAME, [b"1-abc", b"x"]))
            await anyio.wait_all_tasks_blocked()
            assert not done.is_set()
            await send(router, taken)
        assert done.is_set()


MALFORMED = {
    "too large": HEAD.pack(MAX_FRAME + 1, MESSAGES, 1, 1),
    "the wrong size": HEAD.pack(1, MESSAGES, 2, 1) + b"x",
    "an unknown kind": encode(77, b"", []),
    "a kind for workers": encode(TAKEN, b"", [b"1234"]),
    "a topic that is no text": encode(MESSAGES, b"\xff\xfe", [b"x"]),
    "a pattern that is none": encode(BEGIN, b"", [b"a*b"]),
    "a pattern that is no text": encode(BEGIN, b"", [b"\xff"]),
    "a keep of two": encode(KEEP, NAME, [b"me", b"x"]),
    "a keep without how": encode(KEEP, NAME, [b"me", b"?", b"x"]),
    "a keep by no text": encode(KEEP, NAME, [b"\xff", struct.pack("<QIxxxxd", 1, 1, 1.0), b"x"]),
    "a position that is none": encode(READ, NAME, [b"17"]),
    "a read of nothing": encode(READ, NAME, []),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
async def test_who_says_what_has_no_meaning_is_cut_off_alone(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with running() as made:
        bad, one, two = made.raw(), await made.peer(TOPIC), await made.peer()
        before = b"".join([*encode_lists(SUBSCRIBE, [b"x"]), *encode_messages([Outgoing(TOPIC, b"in front")])])
        behind = b"".join(encode_messages([Outgoing(TOPIC, b"behind")]))
        await send(bad, before + data + behind)
        assert [kind async for kind, _, _ in frames(bad)] in ([], [TAKEN])
        await one.expect([(TOPIC, b"in front")])
        assert made.router.stats[:2] == (2, 1)
        await two.publish(TOPIC, b"hello")
        await one.expect([(TOPIC, b"hello")])
        assert "worker 1 is cut off" in caplog.text


@pytest.mark.parametrize(
    "data",
    [
        HEAD.pack(MAX_FRAME + 1, MESSAGES, 1, 1),
        encode(77, b"", []),
        encode(MESSAGES, b"\xff", [b"x"]),
        encode(TAKEN, b"", [b"x"]),
        encode(KEPT, NAME, [b"17", b"x"]),
        encode(HISTORY_END, b"", [b"1-abc", b""]),  # nobody has asked
        encode(GAP, b"", []),
    ],
)
async def test_a_router_that_says_what_has_no_meaning_is_lost(data: bytes) -> None:
    async with alone() as (connection, router):
        await send(router, data)
        with pytest.raises(BrokerUnavailable):
            await connection.wait_lost()


async def test_an_answer_before_the_question_is_none() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        broker, wire = LocalBroker(theirs), _Wire()
        wire.connection = LocalConnection(broker, wire, lambda topic, data, position: pytest.fail("it has not begun"))
        wire.data_received(encode(BEGUN, b"1", []) + encode(MESSAGES, NAME, [b"x"]))
        assert not wire.lost
        broker.close()
    assert theirs.fileno() == -1


# -- the router beside a model -------------------------------------------------------------------------------------

NAMES = ["a", "a:1", "a:2", "b"]
WORKERS = 3
#: What came on each topic.
Received = dict[str, list[bytes]]

names = st.lists(st.sampled_from(NAMES), max_size=3)
steps = st.one_of(
    st.tuples(st.just("subscribe"), names),
    st.tuples(st.just("unsubscribe"), names),
    st.tuples(st.just("begin"), st.sampled_from(["a:*", "*", "b"])),
    st.tuples(st.just("publish"), names),
    st.tuples(st.just("leave"), st.none()),
)
turns = st.tuples(st.integers(0, WORKERS - 1), st.lists(steps, min_size=1, max_size=5))


class Raw:
    """A worker's end of a pipe in memory."""

    def __init__(self) -> None:
        self.cutter = FrameCutter()
        self.received: Received = {}
        self.lost = False

    def connection_made(self, transport: Any) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def eof_received(self) -> None: ...

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    def data_received(self, data: bytes) -> None:
        for cut in self.cutter.cut(data):
            if cut[0] & ~ASK == MESSAGES:
                self.received.setdefault(cut[2].decode(), []).extend(items_of(self.cutter.buffer, cut))


class Model:
    """A router of real frames through pipes in memory, and beside it what should come of that."""

    def __init__(self, size: int) -> None:
        self.router = BusRouter()
        self.ends = [Raw() for _ in range(WORKERS)]
        self.wanted: list[Received] = [{} for _ in self.ends]
        self.topics: dict[int, set[str]] = {number: set() for number in range(WORKERS)}
        self._patterns: list[list[TopicPattern]] = [[] for _ in self.ends]
        self._pipes = [
            memory_pipe(end, self.router.link(number), cut=lambda data: _cut(data, size))[0]
            for number, end in enumerate(self.ends)
        ]

    def pump(self) -> None:
        """Let everything arrive: first at the router, then where it goes from there."""
        for pipe in self._pipes * 2:
            pipe.pump()

    def do(self, worker: int, what: str, argument: Any) -> None:
        """Let a worker do something, if it is there."""
        if worker in self.topics:
            getattr(self, what)(worker, argument)

    def subscribe(self, worker: int, names: list[str]) -> None:
        self.topics[worker] |= set(names)
        self._write(worker, encode_lists(SUBSCRIBE, [name.encode() for name in names]))

    def unsubscribe(self, worker: int, names: list[str]) -> None:
        self.topics[worker] -= set(names)
        self._write(worker, encode_lists(UNSUBSCRIBE, [name.encode() for name in names]))

    def begin(self, worker: int, pattern: str) -> None:
        self.topics[worker].clear()
        self._patterns[worker] = [TopicPattern(pattern)]
        self._write(worker, [encode(BEGIN, b"", [pattern.encode()])])

    def publish(self, worker: int, names: list[str]) -> None:
        outgoing = [Outgoing(name, b"%d by %d" % (number, worker)) for number, name in enumerate(names)]
        for other, topics in self.topics.items():
            for name, data, _ in outgoing:
                if name in topics or any(pattern.matches(name) for pattern in self._patterns[other]):
                    self.wanted[other].setdefault(name, []).append(data)
        self._write(worker, encode_messages(outgoing))

    def leave(self, worker: int, _: None) -> None:
        self.pump()
        del self.topics[worker]
        self._pipes[worker].abort()
        self.pump()

    def _write(self, worker: int, frames: list[bytes]) -> None:
        self._pipes[worker].write(b"".join(frames))


def _cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


@settings(deadline=None)
@given(st.lists(turns, max_size=12), st.sampled_from([1, 7, 64, 1 << 20]))
@example([(0, [("subscribe", ["a"]), ("publish", ["a"]), ("subscribe", ["b"]), ("publish", ["a"])])], 1 << 20)
@example([(0, [("begin", "*"), ("publish", ["a"]), ("leave", None)])], 1 << 20)
def test_everybody_gets_what_the_model_says(told: list[Any], size: int) -> None:
    model = Model(size)
    for worker, steps in told:
        for what, argument in steps:
            model.do(worker, what, argument)
        model.pump()
    assert [end.received for end in model.ends] == model.wanted
    assert model.router.stats.workers == len(model.topics)
    assert model.router.stats.topics == len(set().union(*model.topics.values()))
    assert all(worker in model.router._workers for name in NAMES for worker in model.router.route(name.encode()))


def test_remembered_ways_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus, "_MAX_ROUTES", 10)
    router = BusRouter()
    for number in range(100):
        assert router.route(b"%d" % number) == ()
    assert len(router._routes) <= 10
