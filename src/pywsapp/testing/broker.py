"""What every Broker has to keep, as checks that any of them can be held to.

    async def test_my_broker():
        await check_broker(lambda: MyBroker("my://localhost"))

Each check uses topics of its own, so a broker that others use as well does no harm. They run on any event loop that
the broker runs on, and raise AssertionError.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import anyio

from pywsapp.brokers.base import Broker, BrokerConnection, Keep, Outgoing, Position
from pywsapp.topics.names import MAX_NAME_BYTES

Make = Callable[[], Broker]
Check = Callable[[Make], Awaitable[None]]
Received = tuple[str, bytes, "Position | None"]

#: Seconds within which everything has to arrive.
PATIENCE = 10.0
#: Every check by its name.
BROKER_CHECKS: dict[str, Check] = {}


async def check_broker(make: Make) -> None:
    """Hold a broker to all checks; blocks for some seconds.

    Args:
        make: makes a Broker; called several times.

    Raises:
        AssertionError: it does not keep one of them.
    """
    for name, check in BROKER_CHECKS.items():
        try:
            await check(make)
        except AssertionError as exc:
            raise AssertionError(f"{name}: {exc}") from exc


def _check(function: Check) -> Check:
    BROKER_CHECKS[getattr(function, "__name__", "")] = function
    return function


class Peer:
    """A connection to a broker, and what came over it."""

    def __init__(self) -> None:
        self.connection: BrokerConnection
        self.received: list[Received] = []
        self._event = anyio.Event()

    def receive(self, topic: str, data: bytes, position: Position | None) -> None:
        """Take a message."""
        self.received.append((topic, data, position))
        self._event.set()

    async def publish(self, topic: str, *messages: bytes) -> None:
        """Publish messages in one batch."""
        await self.connection.publish([Outgoing(topic, message) for message in messages])

    async def wait_for(self, number: int) -> None:
        """Wait until so many messages came."""
        with anyio.move_on_after(PATIENCE) as scope:
            while len(self.received) < number:
                self._event = anyio.Event()
                await self._event.wait()
        assert not scope.cancelled_caught, f"{len(self.received)} messages came, not {number}"

    async def wait_for_last(self, message: tuple[str, bytes]) -> None:
        """Wait until the last message that came is this one."""
        with anyio.move_on_after(PATIENCE) as scope:
            while not self.received or self.received[-1][:2] != message:
                self._event = anyio.Event()
                await self._event.wait()
        assert not scope.cancelled_caught, f"{message!r} did not come"

    async def expect(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Wait until as many messages came, and compare."""
        await self.wait_for(len(messages))
        found = [(topic, data) for topic, data, _ in self.received]
        wanted = list(messages)
        assert found == wanted, f"{_short(found)} came, not {_short(wanted)}"
        self.received.clear()


def _short(messages: Sequence[tuple[str, bytes]]) -> str:
    shown = [(topic, data[:20]) for topic, data in messages[:5]]
    return f"{len(messages)} messages {shown!r}{'...' if len(messages) > len(shown) else ''}"


@asynccontextmanager
async def peers(make: Make, number: int = 1, patterns: Sequence[str] = ()) -> AsyncIterator[list[Peer]]:
    """Connect peers, each through a broker of its own."""
    found: list[Peer] = []
    try:
        for _ in range(number):
            peer = Peer()
            peer.connection = await make().connect(peer.receive, patterns)
            found.append(peer)
        yield found
    finally:
        for peer in found:
            with anyio.move_on_after(PATIENCE, shield=True):
                await peer.connection.aclose()


def fresh(name: str = "t") -> str:
    """Give the name of a topic that nobody else uses."""
    return f"{name}:{secrets.token_hex(6)}"


async def _nothing_more(topic: str, publisher: Peer, *listening: Peer) -> None:
    """Check that nothing came, by something that another connection publishes behind it."""
    await publisher.publish(topic, b"the end")
    for peer in listening:
        await peer.expect([(topic, b"the end")])


@_check
async def what_is_published_reaches_all_that_subscribe_once(make: Make) -> None:
    topic = fresh()
    async with peers(make, 3) as (one, two, three):
        for peer in (one, two, three):
            await peer.connection.subscribe([topic])
        await one.publish(topic, b"hello")
        for peer in (two, three):
            await peer.expect([(topic, b"hello")])
        await _nothing_more(topic, one, two, three)
        await two.publish(topic, b"answer")
        for peer in (one, three):
            await peer.wait_for_last((topic, b"answer"))
        own = [(topic, b"hello"), (topic, b"the end")]
        found = [(topic, data) for topic, data, _ in one.received]
        assert found in ([(topic, b"answer")], [*own, (topic, b"answer")]), f"{_short(found)} came to the publisher"


@_check
async def what_was_published_before_subscribing_does_not_come(make: Make) -> None:
    topic = fresh()
    async with peers(make, 2) as (one, two):
        await one.publish(topic, b"early")
        await two.connection.subscribe([topic])
        await _nothing_more(topic, one, two)


@_check
async def other_topics_do_not_come(make: Make) -> None:
    base = fresh()
    others = [f"{base}x", f"{base}:x", base[:-1], base.upper(), base.replace(":", ".")]
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([base])
        for other in others:
            await one.publish(other, b"not for you")
        await one.publish(base, b"for you")
        await two.expect([(base, b"for you")])


@_check
async def the_order_of_a_publisher_is_kept(make: Make) -> None:
    topic = fresh()
    messages = [b"%d" % number for number in range(1000)]
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([topic])
        for start in range(0, 1000, 250):
            await one.publish(topic, *messages[start : start + 250])
        await two.expect([(topic, message) for message in messages])


@_check
async def a_batch_may_be_for_several_topics(make: Make) -> None:
    first, second = fresh("a"), fresh("b")
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([first, second])
        await one.connection.publish([Outgoing(first, b"1"), Outgoing(second, b"2"), Outgoing(first, b"3")])
        await two.wait_for(3)
        assert [data for topic, data, _ in two.received if topic == first] == [b"1", b"3"], "the order is not kept"
        assert [data for topic, data, _ in two.received if topic == second] == [b"2"], "a message is missing"


@_check
async def unsubscribing_ends_it_and_subscribing_again_works(make: Make) -> None:
    topic, other = fresh(), fresh("other")
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([topic, other])
        await two.connection.unsubscribe([topic])
        await one.publish(topic, b"unheard")
        await _nothing_more(other, one, two)
        await two.connection.subscribe([topic])
        await one.publish(topic, b"heard")
        await two.expect([(topic, b"heard")])


@_check
async def many_topics_can_be_subscribed_at_once(make: Make) -> None:
    base = fresh()
    topics = [f"{base}:{number}" for number in range(500)]
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe(topics)
        await one.connection.publish([Outgoing(topic, b"x") for topic in topics])
        await two.wait_for(len(topics))
        assert {topic for topic, _, _ in two.received} == set(topics), "some topics did not come"
        await two.connection.unsubscribe(topics)


@_check
async def every_name_is_carried(make: Make) -> None:
    base = fresh()
    names = [
        "#general",
        "c#",
        "a.b.c",
        "a:b.c",
        "a.b:c",
        "Zürich",
        "部屋:四十二",
        "[x]?",
        "$sys",
        "a>b",
        "100%",
        "a/b\\c",
    ]
    topics = [f"{base}:{name}" for name in names]
    topics.append(base + ":" + "x" * (MAX_NAME_BYTES - len(base) - 1))
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe(topics)
        for topic in topics:
            await one.publish(topic, topic.encode())
            await two.expect([(topic, topic.encode())])


@_check
async def every_byte_is_carried(make: Make) -> None:
    topic = fresh()
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([topic])
        messages = [b"", bytes(range(256)), b"\r\n$5\r\nhello\r\n"]
        await one.publish(topic, *messages)
        await two.expect([(topic, message) for message in messages])


@_check
async def a_message_of_the_largest_size_is_carried(make: Make) -> None:
    topic = fresh()
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([topic])
        message = b"x" * make().max_size
        await one.publish(topic, message)
        await two.expect([(topic, message)])


@_check
async def a_pattern_brings_what_is_below_it_once(make: Make) -> None:
    base = fresh()
    below, deep, beside = f"{base}:a", f"{base}:b:c", f"{base}x:a"
    async with peers(make, 1, [f"{base}:*"]) as (two,), peers(make) as (one,):
        await two.connection.subscribe([below])
        await one.publish(below, b"1")
        await one.publish(beside, b"no")
        await one.publish(base, b"no")
        await one.publish(deep, b"2")
        await one.publish(below, b"3")
        await two.expect([(below, b"1"), (deep, b"2"), (below, b"3")])
        await two.connection.unsubscribe([below])
        await one.publish(below, b"4")
        await two.expect([(below, b"4")])


@_check
async def a_closed_connection_is_lost(make: Make) -> None:
    topic = fresh()
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([topic])
        await two.connection.aclose()
        await two.connection.aclose()
        with anyio.move_on_after(PATIENCE) as scope, suppress(Exception):  # it may say why
            await two.connection.wait_lost()
        assert not scope.cancelled_caught, "a closed connection is not lost"
        try:
            with anyio.fail_after(PATIENCE):
                await two.publish(topic, b"x")
        except Exception:
            pass
        else:
            raise AssertionError("publishing on a closed connection did not raise")
        await one.publish(topic, b"unheard")
        assert not two.received, "a closed connection receives"


@_check
async def a_history_counts_and_keeps(make: Make) -> None:
    if not make().keeps_history:
        return
    topic, process = fresh(), secrets.token_hex(4)
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([topic])
        start = (await two.connection.read_history(topic, None)).position
        assert start.offset == 0, f"a new topic begins at {start.offset}"
        outgoing = [Outgoing(topic, b"%d" % n, Keep((process, n), 5, 60)) for n in range(1, 9)]
        await one.connection.publish(outgoing)
        await two.expect([(topic, b"%d" % n) for n in range(1, 9)])
        whole = await one.connection.read_history(topic, Position(start.epoch, 3))
        assert whole.position == (start.epoch, 8), f"the position is {whole.position}"
        assert list(whole.messages) == [(n, b"%d" % n) for n in range(4, 9)], "not all behind a position is given"
        assert whole.complete, "all is there, and yet it is not complete"
        part = await one.connection.read_history(topic, Position(start.epoch, 2))
        assert not part.complete, "more than is kept cannot be complete"
        assert [offset for offset, _ in part.messages] == [4, 5, 6, 7, 8], "what is kept is not given"
        nothing = await one.connection.read_history(topic, whole.position)
        assert nothing.complete, "nothing came, and yet it is not complete"
        assert not nothing.messages, "nothing came, and yet something is given"
        for strange in (Position("0000", 3), Position(start.epoch, 9)):
            assert not (await one.connection.read_history(topic, strange)).complete, f"{strange} is not known"


@_check
async def a_history_gives_positions_with_messages(make: Make) -> None:
    if not make().keeps_history:
        return
    topic, process = fresh(), secrets.token_hex(4)
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([topic])
        await one.connection.publish([Outgoing(topic, b"x", Keep((process, n), 10, 60)) for n in range(1, 4)])
        await two.expect([(topic, b"x")] * 3)
        await one.connection.publish([Outgoing(topic, b"y", Keep((process, n), 10, 60)) for n in range(4, 6)])
        await one.publish(topic, b"plain")
        await two.wait_for(3)
        positions = [position for _, _, position in two.received]
        epoch = (await one.connection.read_history(topic, None)).position.epoch
        assert positions == [(epoch, 4), (epoch, 5), None], f"the positions are {positions}"


@_check
async def a_publisher_gets_its_own_kept_messages_in_the_order_of_the_history(make: Make) -> None:
    if not make().keeps_history:
        return
    topic = fresh()
    async with peers(make, 3) as (one, two, three):
        for peer in (one, two, three):
            await peer.connection.subscribe([topic])

        async def publish(peer: Peer, process: str) -> None:
            for first in range(1, 50, 10):
                keeps = [Keep((process, number), 100, 60) for number in range(first, first + 10)]
                await peer.connection.publish([Outgoing(topic, f"{keep.id}".encode(), keep) for keep in keeps])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish, one, "one")
            tasks.start_soon(publish, two, "two")
        for peer in (one, two, three):
            await peer.wait_for(100)
        offsets = [position.offset if position is not None else 0 for _, _, position in three.received]
        assert offsets == list(range(1, 101)), f"the offsets are {offsets}"
        for peer in (one, two):
            assert peer.received == three.received, "a publisher gets other messages than a subscriber"


@_check
async def a_history_takes_a_message_once(make: Make) -> None:
    if not make().keeps_history:
        return
    topic, process, other = fresh(), secrets.token_hex(4), secrets.token_hex(4)
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([topic])
        for name, number in ((process, 1), (process, 2), (process, 2), (process, 1), (other, 1), (process, 3)):
            await one.connection.publish([Outgoing(topic, b"%d" % number, Keep((name, number), 10, 60))])
        await two.expect([(topic, b"1"), (topic, b"2"), (topic, b"1"), (topic, b"3")])
        assert (await one.connection.read_history(topic, None)).position.offset == 4, "it was counted twice"


@_check
async def a_history_expires(make: Make) -> None:
    if not make().keeps_history:
        return
    topic, process = fresh(), secrets.token_hex(4)
    async with peers(make) as (one,):
        await one.connection.publish([Outgoing(topic, b"%d" % n, Keep((process, n), 10, 0.3)) for n in (1, 2, 3)])
        position = (await one.connection.read_history(topic, None)).position
        deadline = anyio.current_time() + PATIENCE
        while (await one.connection.read_history(topic, Position(position.epoch, 1))).messages:
            assert anyio.current_time() < deadline, "its messages do not expire"
        assert not (await one.connection.read_history(topic, Position(position.epoch, 1))).complete
        assert (await one.connection.read_history(topic, position)).complete, "nothing was missed"
