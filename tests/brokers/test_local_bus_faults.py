"""Workers and routers of the local bus that end, answer late, or send invalid frames."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.local_bus import NAME, TOPIC, frames, read, running, send, until, without_router
from support.serving import GUARD
from support.waiting import until_blocked

from pywsapp.brokers import relay
from pywsapp.brokers.base import Outgoing
from pywsapp.brokers.local.broker import LocalBroker, LocalConnection, _Wire
from pywsapp.brokers.local.frames import (
    BEGIN,
    BEGUN,
    CONFIRM,
    CONFIRMED,
    HEAD,
    HISTORY_END,
    KEEP,
    KEPT,
    LONG_COUNT,
    MAX_FRAME,
    MESSAGES,
    MISSED,
    PLACED,
    READ,
    SUBSCRIBE,
    encode,
    encode_lists,
    encode_messages,
)
from pywsapp.exceptions import BrokerUnavailable
from pywsapp.testing.broker_peers import Peer

pytestmark = pytest.mark.anyio

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


async def test_a_process_that_is_killed_is_removed(anyio_backend: Any) -> None:
    name, options = anyio_backend
    async with running() as bus:
        peer, end = await bus.peer("answers"), bus.pair()
        command = [sys.executable, "-c", WORKER, str(end.fileno()), name]
        if options.get("use_uvloop"):
            command.append("uvloop")
        async with await anyio.open_process(command, pass_fds=[end.fileno()], stdout=None, stderr=None) as process:
            try:
                end.close()
                await peer.expect([("answers", b"ready")])
                assert bus.router.stats[:2] == (2, 2)
                for number in range(3):
                    await peer.publish("questions", b"%d" % number)
                    await peer.expect([("answers", b"%d" % number)])
            finally:
                process.kill()
            await until(lambda: bus.router.stats[:2] == (1, 1))
        await peer.publish("other:1", b"x")


async def test_a_connection_is_lost_when_the_router_closes() -> None:
    async with running() as bus:
        broker = bus.broker()
        connection = await broker.connect(lambda topic, data, position: None, [])
        bus.router.close()
        with pytest.raises(BrokerUnavailable, match="supervisor"):
            await connection.wait_lost()
        with pytest.raises(BrokerUnavailable):
            await connection.publish([Outgoing(TOPIC, b"x")])
        with pytest.raises(BrokerUnavailable):
            await connection.read_history(TOPIC, None)
        with pytest.raises(BrokerUnavailable):
            await broker.connect(lambda topic, data, position: None, [])
        await connection.aclose()


async def test_a_worker_that_is_attached_while_the_router_closes() -> None:
    async with running() as bus:
        raw = bus.raw()
        bus.router.close()
        assert [frame async for frame in frames(raw)] == []


async def test_connections_follow_each_other_on_the_socket() -> None:
    async with running() as bus:
        broker, peer = bus.broker(), await bus.peer("answers")
        first, second = Peer(), Peer()
        first.connection = await broker.connect(first.receive, ["room:*"])
        await first.connection.subscribe(["news"])
        second.connection = await broker.connect(second.receive, ["answers"])
        with anyio.move_on_after(GUARD):
            await first.connection.wait_lost()
        with pytest.raises(BrokerUnavailable):
            await first.publish(TOPIC, b"x")
        assert bus.router.stats[:2] == (2, 1)
        for topic in (TOPIC, "news", "answers"):
            await peer.publish(topic, b"x")
        await second.expect([("answers", b"x")])
        await second.publish("answers", b"y")
        await peer.expect([("answers", b"y")])
        assert not first.received


async def test_a_relay_reconnects_when_the_router_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as bus:
        sender, peer = relay.Relay(bus.broker(), lambda topic, data, position: None), await bus.peer(TOPIC)
        sender.subscribe(NAME.decode() + ":own")
        async with anyio.create_task_group() as tasks:
            await tasks.start(sender.run)
            await sender.publish(TOPIC, b"1")
            (worker,) = bus.router.route(NAME + b":own")
            worker._transport.pause_reading()
            with monkeypatch.context() as patch:
                patch.setattr(relay, "PUBLISH_SECONDS", 0.1)
                with pytest.raises(BrokerUnavailable):
                    await sender.publish(TOPIC, b"2")
            worker._transport.resume_reading()
            await until(lambda: sender.stats.connects >= 2)
            await sender.publish(TOPIC, b"3")
            await until(lambda: peer.received[-1][1] == b"3")
            tasks.cancel_scope.cancel()
        assert [data for _, data, _ in peer.received] in ([b"1", b"3"], [b"1", b"2", b"3"])


async def test_a_connection_to_a_router_that_answers_late() -> None:
    received: list[bytes] = []
    async with without_router() as (first, router):
        broker = first._broker
        confirmed = encode(CONFIRMED, b"", [struct.pack("<I", 1)])
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
                wire = broker._wire
                assert wire is not None
                await until(lambda: bool(wire.connection and wire.connection._requests))
                await send(router, b"".join([confirmed, old, *begun[:3], old, begun[3], new]))

            tasks.start_soon(answer)
            third = await broker.connect(lambda topic, data, position: received.append(data), ["room:*"])
        await until(lambda: bool(received))
        assert received == [b"new"]
        frames = await read(router)
        assert [(kind & ~CONFIRM, name) for kind, name, _ in frames] == [
            (MESSAGES, NAME),
            (BEGIN, b""),
            (BEGIN, b"2"),
            (BEGIN, b""),
            (BEGIN, b"3"),
        ]
        await third.aclose()


async def test_tasks_that_wait_for_the_router_fail_when_it_closes() -> None:
    async with without_router() as (connection, router):
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


async def test_a_socket_without_a_router() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with anyio.fail_after(GUARD), pytest.raises(BrokerUnavailable):
        await LocalBroker(theirs).connect(lambda topic, data, position: None, ["room:*"])
    await anyio.lowlevel.checkpoint()


async def test_a_socket_that_no_transport_supports(anyio_backend: Any) -> None:
    if anyio_backend[0] == "trio":
        pytest.skip("trio's transport supports any socket")
    ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
    with ours, pytest.raises(BrokerUnavailable) as caught:
        await LocalBroker(theirs).connect(lambda topic, data, position: None, [])
    assert isinstance(caught.value.__cause__, ValueError)
    assert theirs.fileno() == -1


async def test_a_cancelled_publish_does_not_confirm_the_next_one() -> None:
    async with without_router() as (connection, router):
        confirmed = encode(CONFIRMED, b"", [struct.pack("<I", 1)])
        with anyio.move_on_after(0.05) as scope:
            await connection.publish([Outgoing(TOPIC, b"1")])
        assert scope.cancelled_caught
        done = anyio.Event()

        async def publish() -> None:
            await connection.publish([Outgoing(TOPIC, b"2")])
            done.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish)
            await send(router, confirmed + encode(KEPT, NAME, [b"1-abc", b"x"]))
            await until_blocked()
            assert not done.is_set()
            await send(router, confirmed)
        assert done.is_set()


MALFORMED = {
    "too large": HEAD.pack(MAX_FRAME + 1, MESSAGES, 1, 1),
    "the wrong length": HEAD.pack(1, MESSAGES, 2, 1) + b"x",
    "an unknown kind": encode(77, b"", []),
    "a kind for workers": encode(CONFIRMED, b"", [b"1234"]),
    "a topic that is not text": encode(MESSAGES, b"\xff\xfe", [b"x"]),
    "an invalid pattern": encode(BEGIN, b"", [b"a*b"]),
    "a pattern that is not text": encode(BEGIN, b"", [b"\xff"]),
    "a keep with two items": encode(KEEP, NAME, [b"me", b"x"]),
    "a keep that is not said how": encode(KEEP, NAME, [b"me", b"?", b"x"]),
    "a keep by a process that is not text": encode(KEEP, NAME, [b"\xff", struct.pack("<QIxxxxd", 1, 1, 1.0), b"x"]),
    "an invalid position": encode(READ, NAME, [LONG_COUNT.pack(1), b"17"]),
    "a read without a position": encode(READ, NAME, []),
    "a read without a limit": encode(READ, NAME, [b"1-a"]),
    "a read with a limit that is no number": encode(READ, NAME, [b"1", b"1-a"]),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
async def test_a_worker_that_sends_an_invalid_frame_is_disconnected_alone(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as bus:
        bad, one, two = bus.raw(), await bus.peer(TOPIC), await bus.peer()
        before = b"".join([*encode_lists(SUBSCRIBE, [b"x"]), *encode_messages([Outgoing(TOPIC, b"before")])])
        after = b"".join(encode_messages([Outgoing(TOPIC, b"after")]))
        await send(bad, before + data + after)
        assert [kind async for kind, _, _ in frames(bad)] in ([], [CONFIRMED])
        await one.expect([(TOPIC, b"before")])
        assert bus.router.stats[:2] == (2, 1)
        await two.publish(TOPIC, b"hello")
        await one.expect([(TOPIC, b"hello")])
        assert "worker 1 is disconnected from the bus" in caplog.text


@pytest.mark.parametrize(
    "data",
    [
        HEAD.pack(MAX_FRAME + 1, MESSAGES, 1, 1),
        encode(77, b"", []),
        encode(MESSAGES, b"\xff", [b"x"]),
        encode(CONFIRMED, b"", [b"x"]),
        encode(KEPT, NAME, [b"17", b"x"]),
        encode(PLACED, NAME, [b"17", b"me", bytes(8)]),
        encode(PLACED, NAME, [b"1-abc", b"me", b"1"]),
        encode(PLACED, NAME, [b"1-abc", b"me", bytes(8)]),  # of a message that was not published
        encode(HISTORY_END, b"", [b"1-abc", b""]),  # no history is being read
        encode(MISSED, b"", []),
    ],
)
async def test_a_connection_is_lost_when_the_router_sends_an_invalid_frame(data: bytes) -> None:
    async with without_router() as (connection, router):
        await send(router, data)
        with pytest.raises(BrokerUnavailable):
            await connection.wait_lost()


async def test_frames_before_the_connection_has_begun_are_ignored() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        broker, wire = LocalBroker(theirs), _Wire()
        wire.connection = LocalConnection(
            broker, wire, lambda topic, data, position: pytest.fail("the connection has not begun")
        )
        wire.data_received(encode(BEGUN, b"1", []) + encode(MESSAGES, NAME, [b"x"]))
        assert not wire.lost
        broker.close()
    assert theirs.fileno() == -1
