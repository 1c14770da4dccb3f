"""What happens to an app when its Redis goes away, hangs, refuses it, or is slow; with real servers and clients."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from redis.crc import key_slot
from services import Redis, redis_cluster, redis_server
from serving import Client, Serving, serving

from pywsapp import App, Connection, MessageComponent
from pywsapp.backends.redis import RedisBroker, broker_from_url
from pywsapp.testing.brokers import Peer, fresh, peers
from pywsapp.topics.broker import Keep, Outgoing, Position
from pywsapp.topics.relay import MAX_PENDING, Relay
from pywsapp.values.errors import BrokerUnavailable, ConfigurationError

pytestmark = pytest.mark.anyio

BROKERS_MD = Path(__file__).parents[2] / "docs" / "brokers.md"
GUARD = 20
#: Seconds of silence until a connection is lost, in these tests.
HEALTH = 1.0


@pytest.fixture
def redis() -> Iterator[Redis]:
    with redis_server() as server:
        yield server


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(GUARD):
        while not condition():  # noqa: ASYNC110 - nothing tells
            await anyio.sleep(0.01)


class Room(MessageComponent):
    """Everybody in it gets what the others say, and whoever says it is told what came of it."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def on_open(self, conn: Connection) -> None:
        await self.app.topic("room:1").add(conn)
        conn.send("ready")

    async def on_message(self, conn: Connection, message: str | bytes) -> None:
        if message == "ping":
            conn.send("pong")
            return
        try:
            await self.app.topic("room:1").broadcast(message, exclude=conn)
        except BrokerUnavailable:
            conn.send(f"{message!s} stayed here")
        else:
            conn.send(f"{message!s} was sent")


@asynccontextmanager
async def room(url: str, health_seconds: float = HEALTH) -> AsyncIterator[tuple[App, Serving]]:
    app = App(port=0, broker=RedisBroker(url, health_seconds=health_seconds))
    app.route("/", Room(app))
    async with serving(app) as server:
        yield app, server


@asynccontextmanager
async def inside(server: Serving) -> AsyncIterator[Client]:
    async with server.client() as client:
        assert await client.message() == "ready"
        yield client


def connected(*apps: App) -> bool:
    return all(app.hub.relay is not None and app.hub.relay.stats.connected for app in apps)


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "pywsapp" and record.levelno >= level]


async def test_an_app_outlives_its_redis(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[str | bytes] = []
    async with (
        room(redis.url) as (here, server),
        room(redis.url) as (there, other_server),
        inside(server) as speaker,
        inside(server) as neighbour,
        inside(other_server) as stranger,
    ):
        await speaker.send("1")
        assert await speaker.message() == "1 was sent"
        assert [await client.message() for client in (neighbour, stranger)] == ["1", "1"]

        redis.kill()
        await until(lambda: not connected(here) and not connected(there))
        await speaker.send("2")
        assert await speaker.message() == "2 stayed here"
        assert await neighbour.message() == "2"
        assert [line for line in lines(caplog) if "away" not in line] == []
        assert len(lines(caplog)) == 2  # one for each app
        assert here.hub.relay is not None
        assert here.hub.relay.stats.failed == 1

        redis.start()
        await until(lambda: connected(here, there))
        await speaker.send("3")
        assert await speaker.message() == "3 was sent"
        heard += [await neighbour.message(), await stranger.message()]
        assert heard == ["3", "3"]
        assert here.hub.relay.stats.connects == 2
        assert [line for line in lines(caplog)[2:] if "again" not in line] == []
        assert len(lines(caplog)) == 4


async def test_patterns_and_topics_come_again_after_a_restart(redis: Redis) -> None:
    app = App(port=0, broker=RedisBroker(redis.url, health_seconds=HEALTH))
    app.route("/", Room(app))
    heard: list[tuple[str, str | bytes]] = []

    @app.on_broadcast("news:*")
    def listen(topic: object, message: str | bytes) -> None:
        heard.append((getattr(topic, "name", ""), message))

    async with room(redis.url) as (other, _), serving(app) as server, inside(server) as client:
        redis.kill()
        await until(lambda: not connected(app) and not connected(other))
        redis.start()
        await until(lambda: connected(app, other))
        await other.topic("news:today").broadcast("rain")
        await other.topic("room:1").broadcast("hello")
        assert await client.message() == "hello"
        await until(lambda: heard)
        assert heard == [("news:today", "rain")]


async def test_a_redis_that_hangs_is_noticed(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    async with room(redis.url) as (app, server), inside(server) as speaker, inside(server) as neighbour:
        redis.freeze()
        await until(lambda: not connected(app))
        assert "no answer for 1 seconds" in lines(caplog)[0]
        await speaker.send("1")
        assert await speaker.message() == "1 stayed here"
        assert await neighbour.message() == "1"
        redis.thaw()
        await until(lambda: connected(app))
        await speaker.send("2")
        assert await speaker.message() == "2 was sent"


async def test_a_wrong_password_is_said_and_shown_to_nobody(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    assert redis.ask("CONFIG", "SET", "requirepass", "correct horse") == "+OK"
    wrong = redis.url.replace("//", "//:battery-staple@")
    async with room(wrong) as (app, server), inside(server) as speaker, inside(server) as neighbour:
        assert not connected(app)
        await speaker.send("1")
        assert await speaker.message() == "1 stayed here"
        assert await neighbour.message() == "1"
    assert len(lines(caplog)) == 1
    assert "AuthenticationError" in lines(caplog)[0]
    assert redis.url in lines(caplog)[0]
    assert "staple" not in caplog.text
    async with room(redis.url.replace("//", "//:correct%20horse@")) as (app, _):
        assert connected(app)
    async with room(f"{redis.url}?password=correct+horse") as (app, _):
        assert connected(app)
    assert "horse" not in caplog.text


async def test_a_slow_redis_slows_only_those_who_wait_for_it(redis: Redis) -> None:
    async with (
        room(redis.url, health_seconds=60) as (_, server),
        room(redis.url, health_seconds=60) as (_, other_server),
        inside(server) as speaker,
        inside(server) as neighbour,
        inside(other_server) as stranger,
    ):
        redis.freeze()
        await speaker.send(*map(str, range(50)))
        assert await neighbour.message() == "0"
        await neighbour.send("ping")  # of the same room, and not held up
        assert await neighbour.message() == "pong"  # nor did a second message of the speaker go before
        redis.thaw()
        for number in range(50):
            assert await speaker.message() == f"{number} was sent"
            assert await stranger.message() == str(number)


async def test_what_waits_for_a_slow_redis_is_bounded(redis: Redis) -> None:
    topic, peer = fresh(), Peer()
    relay = Relay(RedisBroker(redis.url, health_seconds=60), peer.receive)
    async with peers(lambda: broker_from_url(redis.url)) as (listener,), anyio.create_task_group() as tasks:
        await listener.connection.subscribe([topic])
        await tasks.start(relay.run)
        redis.freeze()
        handed = [relay.publish(topic, b"%d" % number) for number in range(MAX_PENDING + 10)]
        for handover in handed[-10:]:
            with pytest.raises(BrokerUnavailable, match="too slow"):
                await handover
        redis.thaw()
        for handover in handed[:-10]:
            await handover
        await listener.expect([(topic, b"%d" % number) for number in range(MAX_PENDING)])
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("kind", ["normal", "pubsub"])
async def test_either_of_the_two_connections_is_missed(kind: str, redis: Redis) -> None:
    async with peers(lambda: broker_from_url(redis.url)) as (peer,):
        await peer.connection.subscribe([fresh()])
        assert redis.ask("CLIENT", "KILL", "TYPE", kind) == ":1"
        with anyio.fail_after(2), pytest.raises(Exception, match=r"(?i)closed"):
            await peer.connection.wait_lost()


async def test_connecting_to_what_does_not_answer_leaves_nothing(redis: Redis) -> None:
    redis.freeze()
    with anyio.move_on_after(0.2) as scope:
        await RedisBroker(redis.url).connect(lambda *message: None, [])
    assert scope.cancelled_caught
    redis.thaw()
    await until(lambda: redis.ask("CLIENT", "LIST").count(" addr=") == 1)


def least_rights() -> list[str]:
    """Give the user of docs/brokers.md, and its rights."""
    found = re.search(r"ACL SETUSER (\w+ .*?)```", BROKERS_MD.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1].replace("\\\n", " ").split()


async def test_the_least_rights_suffice_and_what_they_leave_out_is_refused(redis: Redis) -> None:
    words = least_rights()
    assert redis.ask("ACL", "SETUSER", *words) == "+OK"
    url = redis.url.replace("//", f"//{words[0]}:secret@")
    async with room(url) as (here, server), room(url) as (there, _), inside(server) as client:
        assert connected(here, there)
        await there.topic("room:1").broadcast("hello")
        assert await client.message() == "hello"
    async with peers(lambda: broker_from_url(url), patterns=["room:*"]) as (peer,):
        await peer.connection.read_history("t", None)
        await peer.connection.publish([Outgoing("t", b"x", Keep(("me", 1), 5, 60))])
        kept = await peer.connection.read_history("t", Position("", 0))
        assert [data for _, data in kept.messages] == [b"x"]
        await peer.connection.unsubscribe(["t"])
    async with peers(lambda: RedisBroker(url, prefix="other:")) as (peer,):
        with pytest.raises(Exception, match=r"(?i)channel"):
            await peer.publish("t", b"x")
        with pytest.raises(Exception, match=r"(?i)channel"):
            await peer.connection.subscribe(["t"])


async def test_a_replica_is_not_taken_until_it_is_a_master(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    with redis_server("--replicaof", "127.0.0.1", str(redis.port)) as replica:
        async with room(replica.url) as (app, _):
            assert "it is a replica" in lines(caplog)[0]
            assert replica.ask("REPLICAOF", "NO", "ONE") == "+OK"
            await until(lambda: connected(app))


# -- a cluster -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster() -> Iterator[list[Redis]]:
    with redis_cluster(2) as servers:
        yield servers


@asynccontextmanager
async def relays(url: str, receive: Sequence[Peer]) -> AsyncIterator[list[Relay]]:
    found = [Relay(RedisBroker(url, cluster=True, health_seconds=HEALTH), peer.receive) for peer in receive]
    async with anyio.create_task_group() as tasks:
        for relay in found:
            await tasks.start(relay.run)
        yield found
        tasks.cancel_scope.cancel()


async def test_a_slot_that_moves_is_followed(cluster: list[Redis]) -> None:
    topic, peer = "room:1", Peer()
    slot = key_slot(b"pywsapp:{room:1}")
    owner, other = cluster if slot < 8192 else cluster[::-1]
    async with relays(owner.url, [peer, Peer()]) as (listening, speaking):
        listening.subscribe(topic)
        await listening.subscribed(topic)
        await speaking.publish(topic, b"1")
        await peer.expect([(topic, b"1")])
        new_owner = other.ask("CLUSTER", "MYID").split("\r\n")[-1]
        for server in (other, owner):
            assert server.ask("CLUSTER", "SETSLOT", str(slot), "NODE", new_owner) == "+OK"
        await until(lambda: listening.stats.connects == 2 and topic in listening._active)
        with anyio.fail_after(GUARD):
            while True:
                try:
                    await speaking.publish(topic, b"2")
                    break
                except BrokerUnavailable:  # MOVED, once
                    await until(lambda: speaking.stats.connected)
        await peer.expect([(topic, b"2")])


async def test_a_node_that_is_lost_is_missed_and_found_again(cluster: list[Redis]) -> None:
    topics = [f"t:{number}" for number in range(20)]  # some on each node
    peer = Peer()
    async with relays(cluster[0].url, [peer]) as (relay,):
        for topic in topics:
            relay.subscribe(topic)
            await relay.subscribed(topic)
        cluster[1].kill()
        await until(lambda: not relay.stats.connected)
        cluster[1].start()
        await until(lambda: relay.stats.connected)
        for topic in topics:
            await relay.publish(topic, b"x")
        await until(lambda: len(peer.received) == len(topics))
        assert sorted(name for name, _, _ in peer.received) == sorted(topics)


async def test_patterns_are_refused_on_a_cluster(cluster: list[Redis]) -> None:
    with pytest.raises(ConfigurationError, match=r"no patterns such as 'a:\*'"):
        await broker_from_url(f"{cluster[0].url}?cluster=1").connect(lambda *message: None, ["a:*"])


async def test_a_server_that_is_no_cluster_says_so(redis: Redis) -> None:
    with pytest.raises(Exception, match="cluster support disabled"):
        await broker_from_url(f"{redis.url}?cluster=1").connect(lambda *message: None, [])


async def test_the_least_rights_on_a_cluster(cluster: list[Redis]) -> None:
    of_pubsub = {"+subscribe", "+unsubscribe", "+psubscribe", "+publish"}
    instead = ["+ssubscribe", "+sunsubscribe", "+spublish", "+cluster|slots"]
    words = [*(word for word in least_rights() if word not in of_pubsub), *instead]
    for server in cluster:
        assert server.ask("ACL", "SETUSER", *words) == "+OK"
    url = cluster[0].url.replace("//", f"//{words[0]}:secret@") + "?cluster=1"
    topic = fresh()
    async with peers(lambda: broker_from_url(url), 2) as (one, two):
        await two.connection.subscribe([topic])
        await one.connection.publish([Outgoing(topic, b"x", Keep(("me", 1), 5, 60)), Outgoing(topic, b"y")])
        await two.expect([(topic, b"x"), (topic, b"y")])
        await two.connection.unsubscribe([topic])
