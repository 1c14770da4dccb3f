"""The rules for every broker, as checks that run against a `Broker`.

    async def test_my_broker():
        await check_broker(lambda: MyBroker("my://localhost"))

With pytest, each check can be a test of its own:

    @pytest.mark.parametrize("check", BROKER_CHECKS.values(), ids=BROKER_CHECKS)
    async def test_my_broker(check):
        await check(lambda: MyBroker("my://localhost"))

Each check uses topics of its own, so the server may have other users. The checks run on any event loop that the broker
supports. The checks of the history pass for a broker without one (`Broker.keeps_history`).
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import anyio

from pywsapp.brokers.base import Broker, BrokerConnection, Keep, Outgoing, Position
from pywsapp.testing.checks import run_checks
from pywsapp.topics.names import MAX_NAME_BYTES

MakeBroker = Callable[[], Broker]
Check = Callable[[MakeBroker], Awaitable[None]]
Received = tuple[str, bytes, "Position | None"]

#: Seconds in which published messages must arrive.
PATIENCE = 10.0
#: Every check by its name, in the order of `check_broker`.
BROKER_CHECKS: dict[str, Check] = {}


async def check_broker(make: MakeBroker) -> None:
    """Run all checks against a broker. This takes some seconds.

    Args:
        make: returns a Broker. It is called several times, and all its brokers must reach each other.

    Raises:
        AssertionError: the broker breaks a rule, or raises something else. The text begins with the rule.
    """
    await run_checks(BROKER_CHECKS, make, "the broker")


def _check(function: Check) -> Check:
    BROKER_CHECKS[getattr(function, "__name__", "")] = function
    return function


class Peer:
    """One connection to a broker, and the messages that it has received."""

    def __init__(self) -> None:
        self.connection: BrokerConnection
        self.received: list[Received] = []
        self._event = anyio.Event()

    def receive(self, topic: str, data: bytes, position: Position | None) -> None:
        """Store a message; the `Receive` function of the connection."""
        self.received.append((topic, data, position))
        self._event.set()

    async def publish(self, topic: str, *messages: bytes) -> None:
        """Publish messages in one batch."""
        await self.connection.publish([Outgoing(topic, message) for message in messages])

    async def wait_for(self, number: int) -> None:
        """Wait until this number of messages has arrived."""
        with anyio.move_on_after(PATIENCE) as scope:
            while len(self.received) < number:
                self._event = anyio.Event()
                await self._event.wait()
        assert not scope.cancelled_caught, f"{len(self.received)} messages arrived, not {number}"

    async def expect(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Wait for the same number of messages, compare them, and forget them."""
        await self.wait_for(len(messages))
        found = [(topic, data) for topic, data, _ in self.received]
        expected = list(messages)
        assert found == expected, f"received {_describe(found)} instead of {_describe(expected)}"
        self.received.clear()


def _describe(messages: Sequence[tuple[str, bytes]]) -> str:
    shown = [(topic, data[:20]) for topic, data in messages[:5]]
    return f"{len(messages)} messages {shown!r}{'...' if len(messages) > len(shown) else ''}"


@asynccontextmanager
async def peers(make: MakeBroker, number: int = 1, patterns: Sequence[str] = ()) -> AsyncIterator[list[Peer]]:
    """Connect peers, each through a broker of its own, and close them at the end."""
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


def unique_topic(name: str = "t") -> str:
    """Return the name of a topic that no other check and no other program uses."""
    return f"{name}:{secrets.token_hex(6)}"


async def _expect_nothing_else(topic: str, publisher: Peer, *subscribers: Peer) -> None:
    """Check that no message has arrived: a further one, published now, is the next."""
    await publisher.publish(topic, b"the end")
    for peer in subscribers:
        await peer.expect([(topic, b"the end")])


# -- publishing and subscribing --------------------------------------------------------------------------------------


@_check
async def every_subscriber_receives_a_message_exactly_once(make: MakeBroker) -> None:
    topic = unique_topic()
    async with peers(make, 3) as (one, two, three):
        for peer in (one, two, three):
            await peer.connection.subscribe([topic])
        await one.publish(topic, b"hello")
        for peer in (two, three):
            await peer.expect([(topic, b"hello")])
        await _expect_nothing_else(topic, one, two, three)


@_check
async def a_publisher_receives_its_own_message_at_most_once(make: MakeBroker) -> None:
    topic = unique_topic()
    async with peers(make, 2) as (one, two):
        await one.connection.subscribe([topic])
        await one.publish(topic, b"hello")
        await two.publish(topic, b"the end")
        while (topic, b"the end", None) not in one.received:
            await one.wait_for(len(one.received) + 1)
        times = one.received.count((topic, b"hello", None))
        assert times <= 1, f"its own message arrived {times} times"


@_check
async def messages_from_before_a_subscription_do_not_arrive(make: MakeBroker) -> None:
    topic = unique_topic()
    async with peers(make, 2) as (one, two):
        await one.publish(topic, b"early")
        await two.connection.subscribe([topic])
        await _expect_nothing_else(topic, one, two)


@_check
async def messages_of_other_topics_do_not_arrive(make: MakeBroker) -> None:
    base = unique_topic()
    others = [f"{base}x", f"{base}:x", base[:-1], base.upper(), base.replace(":", ".")]
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([base])
        for other in others:
            await one.publish(other, b"for another topic")
        await one.publish(base, b"for this topic")
        await two.expect([(base, b"for this topic")])


@_check
async def messages_of_a_publisher_arrive_in_its_order(make: MakeBroker) -> None:
    topic = unique_topic()
    messages = [b"%d" % number for number in range(1000)]
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([topic])
        for start in range(0, 1000, 250):
            await one.publish(topic, *messages[start : start + 250])
        await two.expect([(topic, message) for message in messages])


@_check
async def one_batch_can_have_messages_for_several_topics(make: MakeBroker) -> None:
    first, second = unique_topic("a"), unique_topic("b")
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([first, second])
        await one.connection.publish([Outgoing(first, b"1"), Outgoing(second, b"2"), Outgoing(first, b"3")])
        await two.wait_for(3)
        assert [data for topic, data, _ in two.received if topic == first] == [b"1", b"3"], (
            "the messages of a topic are not in order"
        )
        assert [data for topic, data, _ in two.received if topic == second] == [b"2"], "a message is missing"


@_check
async def a_topic_can_be_unsubscribed_and_subscribed_again(make: MakeBroker) -> None:
    topic, other = unique_topic(), unique_topic("other")
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([topic, other])
        await two.connection.unsubscribe([topic])
        await one.publish(topic, b"not subscribed")
        await _expect_nothing_else(other, one, two)
        await two.connection.subscribe([topic])
        await one.publish(topic, b"subscribed")
        await two.expect([(topic, b"subscribed")])


@_check
async def hundreds_of_topics_can_be_subscribed_in_one_call(make: MakeBroker) -> None:
    base = unique_topic()
    topics = [f"{base}:{number}" for number in range(500)]
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe(topics)
        await one.connection.publish([Outgoing(topic, b"x") for topic in topics])
        await two.wait_for(len(topics))
        assert {topic for topic, _, _ in two.received} == set(topics), "messages of some topics are missing"
        await two.connection.unsubscribe(topics)


@_check
async def every_valid_topic_name_works(make: MakeBroker) -> None:
    base = unique_topic()
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
async def every_byte_sequence_arrives_unchanged(make: MakeBroker) -> None:
    topic = unique_topic()
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([topic])
        messages = [b"", bytes(range(256)), b"\r\n$5\r\nhello\r\n"]
        await one.publish(topic, *messages)
        await two.expect([(topic, message) for message in messages])


@_check
async def a_message_of_max_size_bytes_arrives(make: MakeBroker) -> None:
    topic = unique_topic()
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([topic])
        message = b"x" * make().max_size
        await one.publish(topic, message)
        await two.expect([(topic, message)])


@_check
async def a_pattern_brings_each_matching_message_exactly_once(make: MakeBroker) -> None:
    base = unique_topic()
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


# -- the end of a connection -----------------------------------------------------------------------------------------


@_check
async def a_closed_connection_is_lost_and_receives_nothing(make: MakeBroker) -> None:
    topic = unique_topic()
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([topic])
        await two.connection.aclose()
        await two.connection.aclose()
        with anyio.move_on_after(PATIENCE) as scope, suppress(Exception):  # it may raise the reason
            await two.connection.wait_lost()
        assert not scope.cancelled_caught, "wait_lost does not return after aclose"
        try:
            with anyio.fail_after(PATIENCE):
                await two.publish(topic, b"x")
        except Exception:
            pass
        else:
            raise AssertionError("publish does not raise after aclose")
        await one.publish(topic, b"not subscribed")
        assert not two.received, "a message arrived after aclose"


# -- history ---------------------------------------------------------------------------------------------------------


@_check
async def a_history_numbers_messages_and_keeps_the_last_ones(make: MakeBroker) -> None:
    if not make().keeps_history:
        return
    topic, process = unique_topic(), secrets.token_hex(4)
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([topic])
        outgoing = [Outgoing(topic, b"%d" % n, Keep((process, n), 5, 60)) for n in range(1, 9)]
        await one.connection.publish(outgoing)
        await two.expect([(topic, b"%d" % n) for n in range(1, 9)])
        epoch = (await one.connection.read_history(topic, None)).position.epoch
        whole = await one.connection.read_history(topic, Position(epoch, 3))
        assert whole.position == (epoch, 8), f"the position after 8 messages is {whole.position}"
        assert list(whole.messages) == [(n, b"%d" % n) for n in range(4, 9)], (
            "read_history does not return all messages after a position"
        )
        assert whole.complete, "all messages after the position are kept, but `complete` is False"
        part = await one.connection.read_history(topic, Position(epoch, 2))
        assert not part.complete, "a message after the position is not kept any more, but `complete` is True"
        assert [offset for offset, _ in part.messages] == [4, 5, 6, 7, 8], (
            "read_history does not return the kept messages"
        )
        nothing = await one.connection.read_history(topic, whole.position)
        assert nothing.complete, "nothing was published after the position, but `complete` is False"
        assert not nothing.messages, "nothing was published after the position, but there are messages"
        for unknown in (Position("0000", 3), Position(epoch, 9)):
            assert not (await one.connection.read_history(topic, unknown)).complete, (
                f"the history never had the position {unknown}, but `complete` is True"
            )


@_check
async def the_position_of_a_topic_without_messages_is_before_its_first_message(make: MakeBroker) -> None:
    if not make().keeps_history:
        return
    topic, process = unique_topic(), secrets.token_hex(4)
    async with peers(make) as (one,):
        start = (await one.connection.read_history(topic, None)).position
        assert start.offset == 0, f"the offset of a new topic is {start.offset}, not 0"
        for number, expected in enumerate(([], [1], [1, 2], [2, 3])):
            if number:
                await one.connection.publish([Outgoing(topic, b"x", Keep((process, number), 2, 60))])
            kept = await one.connection.read_history(topic, start)
            found = [offset for offset, _ in kept.messages], kept.complete
            assert found == (expected, number < 3), f"after {number} messages the start of a topic has {found}"


@_check
async def a_history_can_be_read_in_parts(make: MakeBroker) -> None:
    if not make().keeps_history:
        return
    topic, process = unique_topic(), secrets.token_hex(4)
    async with peers(make) as (one,):
        keep = [Keep((process, n), 4, 60) for n in range(1, 6)]
        await one.connection.publish([Outgoing(topic, b"%d" % n * 10, keep[n - 1]) for n in range(1, 6)])
        epoch = (await one.connection.read_history(topic, None)).position.epoch
        for since, max_bytes, expected in ((1, 15, [2, 3]), (1, 20, [2, 3]), (2, 1, [3]), (4, 1000, [5]), (5, 1, [])):
            part = await one.connection.read_history(topic, Position(epoch, since), max_bytes)
            offsets = [offset for offset, _ in part.messages]
            assert offsets == expected, f"{max_bytes} bytes after offset {since} are {offsets}, not {expected}"
            assert part.position == (epoch, 5), f"the position of a part is {part.position}, not that of the history"
            assert part.complete, "no message is missing before the end of the part, but `complete` is False"
        part = await one.connection.read_history(topic, Position(epoch, 0), 15)
        assert not part.complete, "a message before the part is not kept any more, but `complete` is True"


@_check
async def messages_that_a_history_keeps_arrive_with_their_positions(make: MakeBroker) -> None:
    if not make().keeps_history:
        return
    topic, process = unique_topic(), secrets.token_hex(4)
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
async def messages_that_a_history_keeps_also_arrive_at_their_publisher_in_order(make: MakeBroker) -> None:
    if not make().keeps_history:
        return
    topic = unique_topic()
    async with peers(make, 2) as (one, two):
        await one.connection.subscribe([topic])
        for number in (1, 2, 3):
            for peer, letter in ((one, b"one"), (two, b"two")):
                keep = Keep((letter.decode(), number), 10, 60)
                await peer.connection.publish([Outgoing(topic, b"%s %d" % (letter, number), keep)])
        await one.wait_for(6)
        epoch = (await one.connection.read_history(topic, None)).position.epoch
        texts = [b"one 1", b"two 1", b"one 2", b"two 2", b"one 3", b"two 3"]
        expected = [(topic, data, Position(epoch, offset)) for offset, data in enumerate(texts, 1)]
        assert one.received == expected, f"received {one.received} instead of {expected}"


@_check
async def a_history_ignores_a_message_that_it_has_already(make: MakeBroker) -> None:
    if not make().keeps_history:
        return
    topic, process, other = unique_topic(), secrets.token_hex(4), secrets.token_hex(4)
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([topic])
        for name, number in ((process, 1), (process, 2), (process, 2), (process, 1), (other, 1), (process, 3)):
            await one.connection.publish([Outgoing(topic, b"%d" % number, Keep((name, number), 10, 60))])
        await two.expect([(topic, b"1"), (topic, b"2"), (topic, b"1"), (topic, b"3")])
        assert (await one.connection.read_history(topic, None)).position.offset == 4, "a repeated message got an offset"


@_check
async def a_history_keeps_a_message_with_an_id_of_its_own_once(make: MakeBroker) -> None:
    if not make().keeps_history:
        return
    topic, one_id, other_id, process = unique_topic(), *(secrets.token_hex(4) for _ in range(3))
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([topic])
        for name, number in ((one_id, 0), (process, 1), (other_id, 0), (one_id, 0), (process, 2), (other_id, 0)):
            await one.connection.publish([Outgoing(topic, b"%d" % number, Keep((name, number), 10, 60))])
        await two.expect([(topic, b"0"), (topic, b"1"), (topic, b"0"), (topic, b"2")])
        assert (await one.connection.read_history(topic, None)).position.offset == 4, "a repeated message got an offset"


@_check
async def the_messages_of_a_history_expire(make: MakeBroker) -> None:
    if not make().keeps_history:
        return
    topic, process = unique_topic(), secrets.token_hex(4)
    async with peers(make) as (one,):
        await one.connection.publish([Outgoing(topic, b"%d" % n, Keep((process, n), 10, 0.3)) for n in (1, 2, 3)])
        position = (await one.connection.read_history(topic, None)).position
        deadline = anyio.current_time() + PATIENCE
        while (await one.connection.read_history(topic, Position(position.epoch, 1))).messages:
            assert anyio.current_time() < deadline, "the messages do not expire"
        kept = await one.connection.read_history(topic, Position(position.epoch, 1))
        assert not kept.complete, "messages after the position have expired, but `complete` is True"
        assert (await one.connection.read_history(topic, position)).complete, (
            "nothing was published after the position, but `complete` is False"
        )
