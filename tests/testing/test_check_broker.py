"""`check_broker`, on a broker that is written with the public names only."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import anyio
import anyio.lowlevel
import pytest

from pywsapp.brokers.base import Broker, BrokerConnection, Keep, Kept, Outgoing, Position, Receive
from pywsapp.testing.broker import BROKER_CHECKS, check_broker

pytestmark = pytest.mark.anyio


class Exchange:
    """What the connections of one broker share."""

    def __init__(self) -> None:
        self.connections: list[DictConnection] = []
        self.messages: dict[str, list[tuple[int, bytes, float]]] = {}
        self.offsets: dict[str, int] = {}
        self.counts: dict[tuple[str, str], int] = {}

    def append(self, topic: str, data: bytes, keep: Keep) -> Position | None:
        publisher, count = keep.id
        if self.counts.get((topic, publisher), -1) >= count:
            return None
        self.counts[topic, publisher] = count
        offset = self.offsets[topic] = self.offsets.get(topic, 0) + 1
        expires = anyio.current_time() + keep.seconds
        kept = [(number, old, expires) for number, old, _ in self.kept(topic)]
        self.messages[topic] = [*kept, (offset, data, expires)][-keep.size :]
        return Position("1", offset)

    def kept(self, topic: str) -> list[tuple[int, bytes, float]]:
        now = anyio.current_time()
        return [message for message in self.messages.get(topic, []) if message[2] > now]


class DictBroker(Broker):
    name = "a broker in a dict"
    keeps_history = True
    max_size = 1000

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange

    async def connect(self, receive: Receive, patterns: Sequence[str]) -> DictConnection:
        await anyio.lowlevel.checkpoint()
        connection = DictConnection(self.exchange, receive, patterns)
        self.exchange.connections.append(connection)
        return connection


class DictConnection(BrokerConnection):
    def __init__(self, exchange: Exchange, receive: Receive, patterns: Sequence[str]) -> None:
        self.exchange = exchange
        self.receive = receive
        self.patterns = patterns
        self.topics: set[str] = set()
        self.lost = anyio.Event()

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        await self.check_open()
        for topic, data, keep in messages:
            position = None if keep is None else self.exchange.append(topic, data, keep)
            if keep is None or position is not None:
                for connection in self.exchange.connections:
                    if connection is not self or keep is not None:
                        connection.deliver(topic, data, position)

    def deliver(self, topic: str, data: bytes, position: Position | None) -> None:
        if topic in self.topics or any(topic.startswith(pattern.rstrip("*")) for pattern in self.patterns):
            self.receive(topic, data, position)

    async def subscribe(self, topics: Sequence[str]) -> None:
        await self.check_open()
        self.topics.update(topics)

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        await self.check_open()
        self.topics.difference_update(topics)

    async def read_history(self, topic: str, since: Position | None, max_bytes: int | None = None) -> Kept:
        await self.check_open()
        position = Position("1", self.exchange.offsets.get(topic, 0))
        if since is None:
            return Kept(position, [], True)
        messages = [(offset, data) for offset, data, _ in self.exchange.kept(topic) if offset > since.offset]
        is_known = since.epoch == position.epoch and since.offset <= position.offset
        is_complete = is_known and len(messages) == position.offset - since.offset
        sizes = accumulate(len(data) for _, data in messages)
        number = len(messages) if max_bytes is None else 1 + sum(size < max_bytes for size in sizes)
        return Kept(position, messages[:number], is_complete)

    async def wait_lost(self) -> None:
        await self.lost.wait()

    async def aclose(self) -> None:
        self.lost.set()
        if self in self.exchange.connections:
            self.exchange.connections.remove(self)

    async def check_open(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self.lost.is_set():
            raise ConnectionError("the connection is closed")


async def test_a_broker_of_ones_own_passes() -> None:
    exchange = Exchange()
    await check_broker(lambda: DictBroker(exchange))


class DeliversTwice(DictConnection):
    def deliver(self, topic: str, data: bytes, position: Position | None) -> None:
        for _ in range(2):
            super().deliver(topic, data, position)


class ForgetsToUnsubscribe(DictConnection):
    async def unsubscribe(self, topics: Sequence[str]) -> None:
        await self.check_open()


class CannotUnsubscribe(DictConnection):
    async def unsubscribe(self, topics: Sequence[str]) -> None:
        raise NotImplementedError("later")


class RepeatsKeptMessages(DictConnection):
    async def publish(self, messages: Sequence[Outgoing]) -> None:
        self.exchange.counts.clear()
        await super().publish(messages)


class MissesItsOwnKeptMessages(DictConnection):
    async def publish(self, messages: Sequence[Outgoing]) -> None:
        topics, self.topics = self.topics, set()
        await super().publish(messages)
        self.topics = topics


class IgnoresTheLimit(DictConnection):
    async def read_history(self, topic: str, since: Position | None, max_bytes: int | None = None) -> Kept:
        return await super().read_history(topic, since)


class IsNeverLost(DictConnection):
    async def wait_lost(self) -> None:
        await anyio.sleep_forever()


@pytest.mark.parametrize(
    ("connection_class", "message"),
    [
        (DeliversTwice, r"every subscriber receives a message exactly once: received 2 messages .* instead of 1 "),
        (ForgetsToUnsubscribe, r"a topic can be unsubscribed and subscribed again: received 2 messages .* instead of "),
        (CannotUnsubscribe, r"a topic can be unsubscribed .*: the broker raised NotImplementedError\('later'\)"),
        (RepeatsKeptMessages, r"a history ignores a message that it has already: received "),
        (
            MissesItsOwnKeptMessages,
            r"messages that a history keeps also arrive at their publisher .*: 3 messages arrived",
        ),
        (IgnoresTheLimit, r"a history can be read in parts: 15 bytes after offset 1 are \[2, 3, 4, 5\], not \[2, 3\]"),
        (IsNeverLost, r"a closed connection is lost and receives nothing: wait_lost does not return after aclose"),
    ],
)
async def test_a_broken_rule_is_named(
    connection_class: type[DictConnection], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("broker", "broker_history", "broker_peers"):
        monkeypatch.setattr(f"pywsapp.testing.{module}.PATIENCE", 0.2)
    exchange = Exchange()

    class Broken(DictBroker):
        async def connect(self, receive: Receive, patterns: Sequence[str]) -> DictConnection:
            await anyio.lowlevel.checkpoint()
            connection = connection_class(self.exchange, receive, patterns)
            self.exchange.connections.append(connection)
            return connection

    with pytest.raises(AssertionError, match=f"^{message}"):
        await check_broker(lambda: Broken(exchange))


async def test_a_check_that_hangs_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pywsapp.testing.checks.CHECK_SECONDS", 0.05)

    class Hangs(DictBroker):
        async def connect(self, receive: Receive, patterns: Sequence[str]) -> DictConnection:
            await anyio.sleep_forever()
            raise AssertionError

    with pytest.raises(AssertionError, match=r"^every subscriber receives a message exactly once: .* 0\.05 seconds"):
        await check_broker(lambda: Hangs(Exchange()))


def test_checks_are_named_by_their_rule() -> None:
    assert "every_subscriber_receives_a_message_exactly_once" in BROKER_CHECKS
    assert all(name == check.__name__ for name, check in BROKER_CHECKS.items())
