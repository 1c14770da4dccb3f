"""A broker that refuses one message or topic is not lost, and all other messages and topics go on."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Iterator, Sequence

import anyio
import anyio.lowlevel
import pytest
from redis.crc import key_slot
from support.services import Redis, nats_server, redis_cluster
from support.serving import GUARD
from support.topic_bench import Inbox, failure_of, kept, relaying, taken, until

from pywsapp.brokers import relay as relay_module
from pywsapp.brokers.base import Broker, BrokerConnection, Outgoing, PartlyRefused, Position, Receive
from pywsapp.brokers.memory import MemoryBroker, MemoryConnection
from pywsapp.brokers.nats import NatsBroker
from pywsapp.brokers.redis.broker import RedisBroker
from pywsapp.brokers.relay import Relay
from pywsapp.testing.broker_peers import Peer, peers, unique_topic
from pywsapp.topics.names import TopicPattern

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[Redis]]:
    with redis_cluster(2) as servers:
        yield servers


@pytest.fixture
def short_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "RETRY_SECONDS", 0.02)


class Refusing(MemoryBroker):
    """A broker that refuses messages and subscriptions of some topics."""

    def __init__(self, *refused: str) -> None:
        super().__init__()
        self.refused = set(refused)

    async def connect(self, receive: Receive, patterns: Sequence[str]) -> MemoryConnection:
        connection = RefusingConnection(self, receive, [TopicPattern(text) for text in patterns])
        self.connections.append(connection)
        return connection


class RefusingConnection(MemoryConnection):
    async def publish(self, messages: Sequence[Outgoing]) -> None:
        await super().publish([message for message in messages if not self.is_refused(message.topic)])
        self.raise_refused([message.topic for message in messages])

    async def subscribe(self, topics: Sequence[str]) -> None:
        await super().subscribe([topic for topic in topics if not self.is_refused(topic)])
        self.raise_refused(topics)

    def is_refused(self, topic: str) -> bool:
        assert isinstance(self._broker, Refusing)
        return topic in self._broker.refused

    def raise_refused(self, topics: Sequence[str]) -> None:
        reasons = {place: f"no {topic}" for place, topic in enumerate(topics) if self.is_refused(topic)}
        if reasons:
            raise PartlyRefused(reasons)


# -- messages --------------------------------------------------------------------------------------------------------


async def test_a_refused_message_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    inbox = Inbox()
    relay = Relay(Refusing("bad"), inbox)
    relay.subscribe("good")
    async with relaying(relay):
        good = [relay.publish("good", b"1"), relay.publish("good", b"2", kept(1))]
        bad = [relay.publish("bad", b"x"), relay.publish("bad", b"y", kept(2))]
        good.append(relay.publish("good", b"3"))
        for acknowledgement in good:
            await taken(acknowledgement)
        for acknowledgement in bad:
            assert await failure_of(acknowledgement) == "the memory broker refused the message: no bad"
        assert relay.stats[:6] == (True, 1, 3, 2, 3, 0)
        assert inbox.data == [b"1", b"2", b"3"]
        assert caplog.messages == [
            "the memory broker refused a message on 'bad': no bad (1 refused so far)",
            "the memory broker refused a message on 'bad': no bad (2 refused so far)",
        ]
        caplog.clear()
        for _ in range(100):
            await failure_of(relay.publish("bad", b"x"))
        assert len(caplog.messages) == 5, "the log has them less and less often"


async def publish_beside_refusals(relay: Relay, refused: Sequence[str], other: str, messages: int) -> int:
    """Publish on refused topics with a history, and beside it on another topic; return how many of the latter fail."""
    failed = 0

    async def publish(number: int) -> None:
        nonlocal failed
        try:
            await relay.publish(other, b"%d" % number)
        except Exception:
            failed += 1

    async with anyio.create_task_group() as tasks:
        for number in range(messages):
            tasks.start_soon(publish, number)
            if number % 100 == 0:
                for topic in refused:
                    relay.publish(topic, b"x", kept(number + 1))
            await anyio.lowlevel.checkpoint()
    return failed


async def test_refused_history_writes_cut_nothing_in_redis(redis: Redis) -> None:
    topic, wrong, full, peer = unique_topic(), unique_topic(), unique_topic(), Peer()
    relay = Relay(RedisBroker(redis.url), peer.receive)
    assert redis.ask("SET", f"pywsapp:{{{wrong}}}:meta", "x") == "+OK"
    relay.subscribe(topic)
    async with relaying(relay):
        await taken(relay.subscribed(topic))
        try:
            assert redis.ask("CONFIG", "SET", "maxmemory", "1") == "+OK"
            assert await publish_beside_refusals(relay, [wrong, full], topic, 592) == 0
            assert "OutOfMemory" in await failure_of(relay.publish(full, b"x", kept(1000)))
        finally:
            assert redis.ask("CONFIG", "SET", "maxmemory", "0") == "+OK"
        assert "WRONGTYPE" in await failure_of(relay.publish(wrong, b"x", kept(1000)))
        await taken(relay.publish(full, b"x", kept(1001)))
        await peer.expect([(topic, b"%d" % number) for number in range(592)])
        assert relay.stats.connects == 1


async def test_a_refused_history_write_leaves_no_gap(redis: Redis) -> None:
    topic = unique_topic()
    messages = f"pywsapp:{{{topic}}}:messages"
    async with peers(lambda: RedisBroker(redis.url)) as (peer,):
        await peer.connection.publish([Outgoing(topic, b"1", kept(1))])
        before = (await peer.connection.read_history(topic, None)).position
        assert redis.ask("RENAME", messages, "aside") == "+OK"
        assert redis.ask("SET", messages, "x") == "+OK"
        with pytest.raises(PartlyRefused, match="WRONGTYPE"):
            await peer.connection.publish([Outgoing(topic, b"2", kept(2))])
        assert redis.ask("RENAME", "aside", messages) == "+OK"
        await peer.connection.publish([Outgoing(topic, b"2", kept(2))])  # it is not taken for a repeated one
        kept_since = await peer.connection.read_history(topic, before)
        assert (kept_since.messages, kept_since.complete) == (((2, b"2"),), True)


async def test_an_unserved_slot_fails_alone(cluster: list[Redis], short_retries: None) -> None:
    topics = [f"t:{secrets.token_hex(4)}" for _ in range(20)]
    bad = next(topic for topic in topics if key_slot(f"pywsapp:{{{topic}}}".encode()) < 8192)
    slot = key_slot(f"pywsapp:{{{bad}}}".encode())
    good = [topic for topic in topics if key_slot(f"pywsapp:{{{topic}}}".encode()) != slot]
    peer = Peer()
    relay = Relay(RedisBroker(cluster[0].url, cluster=True), peer.receive)
    async with relaying(relay):
        await taken(relay.publish(good[0], b"x"))
        for number in (1, 2):  # the connection has a master for the slot first, and then has none
            for server in cluster:
                assert server.ask("CLUSTER", "DELSLOTS", str(slot)) == "+OK"
            try:
                if number == 2:
                    assert relay.connection is not None
                    await relay.connection.aclose()
                    await until(lambda: relay.stats.connects == 2)
                refused = [relay.publish(bad, b"x", kept(number)), relay.publish(bad, b"y")]
                accepted = [relay.publish(topic, b"x", kept(number)) for topic in good]
                for acknowledgement in accepted:
                    await taken(acknowledgement)
                for acknowledgement in refused:
                    assert "refused the message" in await failure_of(acknowledgement)
                for topic in topics:
                    relay.subscribe(topic)
                for topic in good:
                    await taken(relay.subscribed(topic))
                assert relay.stats.connects == number
                if number == 2:  # subscribed before; a message may arrive after it is acknowledged
                    await until(lambda: len(peer.received) >= len(good))
                    assert sorted(name for name, _, _ in peer.received) == sorted(good)
                    peer.received.clear()
            finally:
                owner = cluster[0].ask("CLUSTER", "MYID").split("\r\n")[-1]
                assert cluster[0].ask("CLUSTER", "ADDSLOTS", str(slot)) == "+OK"
                cluster[1].ask("CLUSTER", "SETSLOT", str(slot), "NODE", owner)
        await until(lambda: relay.stats.connects >= 3 and bad in relay._active)
        await taken(relay.publish(bad, b"back"))
        await peer.expect([(bad, b"back")])


async def test_a_subject_without_the_right_fails_alone_in_nats(short_retries: None) -> None:
    rights = 'permissions: { publish: ["pywsapp.good.>"], subscribe: ["pywsapp.good.>"] }'
    peer = Peer()
    with nats_server(f"authorization {{ users = [ {{ user: me, password: x, {rights} }} ] }}") as server:
        relay = Relay(NatsBroker(server.url.replace("//", "//me:x@")), peer.receive)
        async with relaying(relay):
            for topic in ("good:1", "bad:1", "good:2"):
                relay.subscribe(topic)
            await taken(relay.subscribed("good:2"))
            assert "for publish to" in await failure_of(relay.publish("bad:1", b"x"))
            numbers = range(200)
            acknowledgements = [relay.publish(f"good:{number % 2 + 1}", b"%d" % number) for number in numbers]
            failing = [relay.publish(f"Bad:{number}", b"%d" % number) for number in range(50)]
            for acknowledgement in acknowledgements:
                await taken(acknowledgement)
            for acknowledgement in failing:
                assert "for publish to" in await failure_of(acknowledgement)
            await peer.expect([(f"good:{number % 2 + 1}", b"%d" % number) for number in numbers])
            assert relay.stats.connects == 1


# -- subscriptions ---------------------------------------------------------------------------------------------------


async def test_a_refused_topic_is_subscribed_again(short_retries: None, caplog: pytest.LogCaptureFixture) -> None:
    broker, inbox = Refusing("bad"), Inbox()
    connects: list[set[str]] = []

    async def on_connect(connection: BrokerConnection) -> None:
        assert isinstance(connection, MemoryConnection)
        connects.append(set(connection._topics))

    relay = Relay(broker, inbox, on_connect=on_connect)
    relay.subscribe("good")
    relay.subscribe("bad")
    async with relaying(relay):
        await taken(relay.subscribed("bad"))  # it does not wait, as without a connection
        await until(lambda: len(caplog.messages) > 2)
        assert caplog.messages[0] == "the memory broker refused the subscription on 'bad': no bad (1 refused so far)"
        assert connects == [{"good"}]
        broker.refused.clear()
        await until(lambda: len(connects) == 2)
        assert connects[1] == {"good", "bad"}, "what it has missed can be read now"
        await taken(relay.publish("bad", b"x"))
        assert inbox.data == [b"x"]
        assert relay.stats.connects == 1


async def test_a_refused_topic_that_is_not_wanted_any_more_is_forgotten(short_retries: None) -> None:
    broker = Refusing("bad")
    relay = Relay(broker, Inbox())
    relay.subscribe("bad")
    async with relaying(relay):
        relay.unsubscribe("bad")
        relay.subscribe("good")
        await taken(relay.subscribed("good"))
        await until(lambda: not relay._refused_topics)
        broker.refused.clear()
        await anyio.sleep(3 * relay_module.RETRY_SECONDS)
        assert broker.connections[0]._topics == {"good"}


async def test_a_right_that_is_withdrawn_loses_the_connection_to_nats() -> None:
    allowed = 'authorization {{ users = [ {{ user: me, password: x, permissions: {{ subscribe: "{0}" }} }} ] }}'
    received: list[tuple[str, bytes, Position | None]] = []
    with nats_server(allowed.format(">")) as server:
        broker: Broker = NatsBroker(server.url.replace("//", "//me:x@"))
        connection = await broker.connect(lambda *message: received.append(message), [])
        await connection.subscribe(["t"])
        configuration = server.directory / "nats.conf"
        configuration.write_text(configuration.read_text().replace('">"', '"other"'))
        assert server.process is not None
        server.process.send_signal(signal.SIGHUP)
        with anyio.fail_after(GUARD), pytest.raises(Exception, match=r"(?i)permissions violation for subscription"):
            await connection.wait_lost()
        await connection.aclose()
