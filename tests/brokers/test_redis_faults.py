"""An app whose Redis stops, hangs, refuses the login or is slow; with real servers and clients."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from redis.crc import key_slot
from support.outages import TIMEOUT, check_freeze, check_restart, connected, join, serving_room, until
from support.services import Redis, redis_cluster, redis_server
from support.serving import Serving

from pywsapp import App
from pywsapp.brokers.base import Keep, Outgoing, Position
from pywsapp.brokers.redis import broker_from_url
from pywsapp.brokers.redis.broker import RedisBroker
from pywsapp.brokers.relay import MAX_PENDING, Relay
from pywsapp.exceptions import BrokerUnavailable, ConfigurationError
from pywsapp.testing.broker_peers import Peer, peers, unique_topic

pytestmark = pytest.mark.anyio

BROKERS_MD = Path(__file__).parents[2] / "docs" / "reference" / "brokers.md"
#: Seconds of silence until a connection is lost, in these tests.
HEALTH = 1.0


@pytest.fixture
def redis() -> Iterator[Redis]:
    with redis_server() as server:
        yield server


def room(url: str, health_seconds: float = HEALTH) -> AbstractAsyncContextManager[tuple[App, Serving]]:
    return serving_room(RedisBroker(url, health_seconds=health_seconds))


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "pywsapp" and record.levelno >= level]


async def test_an_app_survives_a_restart_of_redis(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    await check_restart(redis, lambda: RedisBroker(redis.url, health_seconds=HEALTH), caplog)


async def test_a_frozen_redis_is_noticed(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    make = functools.partial(RedisBroker, redis.url, health_seconds=HEALTH)
    await check_freeze(redis, make, "no answer for 1 seconds", caplog)


async def test_a_wrong_password_is_reported_but_not_logged(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    assert redis.ask("CONFIG", "SET", "requirepass", "correct horse") == "+OK"
    wrong = redis.url.replace("//", "//:battery-staple@")
    async with room(wrong) as (app, server), join(server) as sender, join(server) as local_client:
        assert not connected(app)
        await sender.send("1")
        assert await sender.message() == "1 stayed here"
        assert await local_client.message() == "1"
    assert len(lines(caplog)) == 1
    assert "AuthenticationError" in lines(caplog)[0]
    assert redis.url in lines(caplog)[0]
    assert "staple" not in caplog.text
    async with room(redis.url.replace("//", "//:correct%20horse@")) as (app, _):
        assert connected(app)
    async with room(f"{redis.url}?password=correct+horse") as (app, _):
        assert connected(app)
    assert "horse" not in caplog.text


async def test_a_slow_redis_delays_only_handlers_that_await_it(redis: Redis) -> None:
    async with (
        room(redis.url, health_seconds=60) as (_, server),
        room(redis.url, health_seconds=60) as (_, other_server),
        join(server) as sender,
        join(server) as local_client,
        join(other_server) as remote_client,
    ):
        redis.freeze()
        await sender.send(*map(str, range(50)))
        assert await local_client.message() == "0"
        await local_client.send("ping")  # a client of the same room is not delayed
        assert await local_client.message() == "pong"  # and the sender's second message was not handled before
        redis.thaw()
        for number in range(50):
            assert await sender.message() == f"{number} was sent"
            assert await remote_client.message() == str(number)


async def test_the_queue_for_a_slow_redis_is_bounded(redis: Redis) -> None:
    topic, peer = unique_topic(), Peer()
    relay = Relay(RedisBroker(redis.url, health_seconds=60), peer.receive)
    async with peers(lambda: broker_from_url(redis.url)) as (listener,), anyio.create_task_group() as tasks:
        await listener.connection.subscribe([topic])
        await tasks.start(relay.run)
        redis.freeze()
        acknowledgements = [relay.publish(topic, b"%d" % number) for number in range(MAX_PENDING + 10)]
        for acknowledgement in acknowledgements[-10:]:
            with pytest.raises(BrokerUnavailable, match="too slow"):
                await acknowledgement
        redis.thaw()
        for acknowledgement in acknowledgements[:-10]:
            await acknowledgement
        await listener.expect([(topic, b"%d" % number) for number in range(MAX_PENDING)])
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("kind", ["normal", "pubsub"])
async def test_the_loss_of_either_connection_is_noticed(kind: str, redis: Redis) -> None:
    async with peers(lambda: broker_from_url(redis.url)) as (peer,):
        await peer.connection.subscribe([unique_topic()])
        assert redis.ask("CLIENT", "KILL", "TYPE", kind) == ":1"
        # A connection that is silent is lost later, and for another reason.
        with anyio.fail_after(TIMEOUT), pytest.raises(Exception, match=r"(?i)closed"):
            await peer.connection.wait_lost()


async def test_cancelling_a_connect_leaves_no_connection(redis: Redis) -> None:
    redis.freeze()
    with anyio.move_on_after(0.2) as scope:
        await RedisBroker(redis.url).connect(lambda *message: None, [])
    assert scope.cancelled_caught
    redis.thaw()
    await until(lambda: redis.ask("CLIENT", "LIST").count(" addr=") == 1)


def least_rights() -> list[str]:
    """Return the user of docs/reference/brokers.md and its rights, as words of a command."""
    found = re.search(r"ACL SETUSER (\w+ .*?)```", BROKERS_MD.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1].replace("\\\n", " ").split()


async def test_the_documented_rights_suffice_and_others_are_refused(redis: Redis) -> None:
    words = least_rights()
    assert redis.ask("ACL", "SETUSER", *words) == "+OK"
    url = redis.url.replace("//", f"//{words[0]}:secret@")
    async with room(url) as (here, server), room(url) as (there, _), join(server) as client:
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


async def test_a_replica_is_not_used_until_it_is_a_master(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    with redis_server("--replicaof", "127.0.0.1", str(redis.port)) as replica:
        async with room(replica.url) as (app, _):
            assert "the server is a replica" in lines(caplog)[0]
            assert replica.ask("REPLICAOF", "NO", "ONE") == "+OK"
            await until(lambda: connected(app))


# -- a cluster -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")  # a cluster needs two seconds to start
def shared_cluster() -> Iterator[list[Redis]]:
    with redis_cluster(2) as servers:
        yield servers


@pytest.fixture
async def cluster(shared_cluster: list[Redis]) -> list[Redis]:
    for server in shared_cluster:  # a test can have restarted it
        await until(functools.partial(_is_ok, server))
    return shared_cluster


def _is_ok(server: Redis) -> bool:
    return "cluster_state:ok" in server.ask("CLUSTER", "INFO")


@asynccontextmanager
async def relays(url: str, receivers: Sequence[Peer]) -> AsyncIterator[list[Relay]]:
    found = [Relay(RedisBroker(url, cluster=True, health_seconds=HEALTH), peer.receive) for peer in receivers]
    async with anyio.create_task_group() as tasks:
        for relay in found:
            await tasks.start(relay.run)
        yield found
        tasks.cancel_scope.cancel()


async def test_a_moved_slot_is_followed(cluster: list[Redis], request: pytest.FixtureRequest) -> None:
    topic, peer = f"room:{request.node.callspec.id}", Peer()  # another slot on each event loop
    slot = key_slot(f"pywsapp:{{{topic}}}".encode())
    owner, other = cluster if slot < 8192 else cluster[::-1]
    async with relays(owner.url, [peer, Peer()]) as (subscriber, publisher):
        subscriber.subscribe(topic)
        await subscriber.subscribed(topic)
        await publisher.publish(topic, b"1")
        await peer.expect([(topic, b"1")])
        new_owner = other.ask("CLUSTER", "MYID").split("\r\n")[-1]
        for server in (other, owner):
            assert server.ask("CLUSTER", "SETSLOT", str(slot), "NODE", new_owner) == "+OK"
        await until(lambda: subscriber.stats.connects >= 2 and topic in subscriber._active)
        with anyio.fail_after(TIMEOUT):
            while True:
                try:
                    await publisher.publish(topic, b"2")
                    break
                except BrokerUnavailable:  # MOVED, once
                    await until(lambda: publisher.stats.connected)
        await peer.expect([(topic, b"2")])


async def test_a_lost_node_is_noticed_and_found_again(cluster: list[Redis]) -> None:
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


async def test_a_server_that_is_not_a_cluster_is_refused(redis: Redis) -> None:
    with pytest.raises(Exception, match="cluster support disabled"):
        await broker_from_url(f"{redis.url}?cluster=1").connect(lambda *message: None, [])


async def test_the_documented_rights_on_a_cluster(cluster: list[Redis]) -> None:
    of_pubsub = {"+subscribe", "+unsubscribe", "+psubscribe", "+publish"}
    instead = ["+ssubscribe", "+sunsubscribe", "+spublish", "+cluster|slots"]
    words = [*(word for word in least_rights() if word not in of_pubsub), *instead]
    for server in cluster:
        assert server.ask("ACL", "SETUSER", *words) == "+OK"
    url = cluster[0].url.replace("//", f"//{words[0]}:secret@") + "?cluster=1"
    topic = unique_topic()
    async with peers(lambda: broker_from_url(url), 2) as (one, two):
        await two.connection.subscribe([topic])
        await one.connection.publish([Outgoing(topic, b"x", Keep(("me", 1), 5, 60)), Outgoing(topic, b"y")])
        await two.expect([(topic, b"x"), (topic, b"y")])
        await two.connection.unsubscribe([topic])
