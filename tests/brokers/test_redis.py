"""The Redis broker on real servers: a single one, a Unix socket, TLS, and a cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import pytest
import trustme
from support.services import Redis, find_program, free_port, redis_cluster, redis_server
from support.serving import GUARD, serving

from pywsapp import App
from pywsapp.brokers.base import Broker
from pywsapp.brokers.redis.broker import RedisBroker
from pywsapp.brokers.urls import broker_for
from pywsapp.exceptions import ConfigurationError
from pywsapp.testing.broker import BROKER_CHECKS
from pywsapp.testing.broker_peers import Check, MakeBroker, peers, unique_topic
from pywsapp.topics.topic import Topic

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[Redis]]:
    with redis_cluster() as servers:
        yield servers


def broker(url: str) -> Broker:
    made = broker_for(url)
    assert made is not None
    return made


@pytest.mark.parametrize("check", BROKER_CHECKS.values(), ids=BROKER_CHECKS)
async def test_redis_passes(check: Check, redis: Redis) -> None:
    await check(lambda: broker(redis.url))


@pytest.mark.parametrize("check", BROKER_CHECKS.values(), ids=BROKER_CHECKS)
async def test_a_cluster_passes(check: Check, cluster: list[Redis]) -> None:
    if "pattern" in check.__name__:
        pytest.skip("sharded pub/sub has no patterns")
    await check(lambda: broker(f"{cluster[1].url}?cluster=1"))


async def test_a_cluster_carries_messages_without_the_cluster_parameter(cluster: list[Redis]) -> None:
    topic, server = unique_topic(), cluster[0]
    async with (
        peers(lambda: broker(server.url), patterns=["*"]) as (one,),
        peers(lambda: broker(cluster[1].url)) as (two,),
    ):
        await two.publish(topic, b"x")
        await one.expect([(topic, b"x")])


async def test_names_that_differ_in_case_leave_no_subscription(redis: Redis) -> None:
    topic = unique_topic("room")
    names = [topic, topic.upper(), topic.title(), f"{topic}é", f"{topic}e\u0301"]
    async with peers(lambda: broker(redis.url)) as (one,):
        await one.connection.subscribe(names)
        listed = redis.ask("PUBSUB", "NUMSUB", *[f"pywsapp:{name}" for name in names])
        assert listed.count("\r\n:1") == len(names)
        for name in reversed(names):
            await one.connection.unsubscribe([name])
        assert topic not in redis.ask("PUBSUB", "CHANNELS").lower()


# -- URLs ------------------------------------------------------------------------------------------------------------


async def check_delivery(make: MakeBroker) -> None:
    topic = unique_topic()
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([topic])
        await one.publish(topic, b"hello")
        await two.expect([(topic, b"hello")])


async def test_a_unix_socket_works(redis: Redis) -> None:
    await check_delivery(lambda: broker(f"unix://{redis.socket}?db=1"))


async def test_tls_certificates_are_verified(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    options = ("--tls-cert-file", f"{tmp_path}/server.pem", "--tls-key-file", f"{tmp_path}/server.pem")
    with redis_server(*options, "--tls-auth-clients", "no", "--tls-port", str(port := free_port())) as server:
        assert server.ask("PING") == "+PONG"
        trusting = f"ssl_ca_certs={quote(str(tmp_path / 'authority.pem'))}"
        await check_delivery(lambda: broker(f"rediss://localhost:{port}?{trusting}"))
        for url in [f"rediss://localhost:{port}", f"rediss://127.0.0.1:{port}?{trusting}"]:
            with pytest.raises(Exception, match=r"(?i)certificate"):
                await broker(url).connect(lambda *message: None, [])


async def test_prefixes_separate_apps(redis: Redis) -> None:
    topic = unique_topic()
    async with (
        peers(lambda: broker(f"{redis.url}?prefix=a%3A")) as (one,),
        peers(lambda: RedisBroker(redis.url, prefix="b:"), patterns=["*"]) as (two,),
    ):
        await one.connection.subscribe([topic])
        await two.publish(topic, b"b")
        await one.publish(topic, b"a")
        await one.expect([(topic, b"a")])
        await two.expect([(topic, b"b")])


async def test_databases_do_not_separate_pub_sub(redis: Redis) -> None:
    topic = unique_topic()
    async with peers(lambda: broker(f"{redis.url}/3")) as (one,), peers(lambda: broker(redis.url)) as (two,):
        await two.connection.subscribe([topic])
        await one.publish(topic, b"x")
        await two.expect([(topic, b"x")])


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost?nonsense=1",
        "redis://localhost:port",
        "redis://localhost?db=x",
        "redis://localhost?cluster=perhaps",
        "redis://localhost?durable=yes",
        "redis://localhost?prefix=a{b}",
        "rediss://localhost?ssl_cert_reqs=perhaps",
    ],
)
def test_an_invalid_url_raises_at_once(url: str) -> None:
    with pytest.raises(ConfigurationError):
        broker(url)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://localhost", "redis://localhost"),
        ("redis://me:secret@localhost:6380/2?cluster=1", "redis://localhost:6380/2"),
        ("rediss://:sec%40ret@[::1]:6380", "rediss://[::1]:6380"),
        ("unix:///run/redis.sock?db=1&password=secret", "unix:///run/redis.sock"),
    ],
)
def test_the_name_for_logs_has_no_password(url: str, name: str) -> None:
    assert broker(url).name == name


# -- patterns --------------------------------------------------------------------------------------------------------


async def test_overlapping_patterns_bring_a_message_once(redis: Redis) -> None:
    base = unique_topic()
    patterns = [f"{base}:a:*", f"{base}:*", f"{base}:*", f"{base}:a:b", f"{base}"]
    async with peers(lambda: broker(redis.url), patterns=patterns) as (one,):
        topics = [base, f"{base}:a:b", f"{base}:a:c", f"{base}:d"]
        await one.connection.subscribe([f"{base}:d", base])
        for topic in topics:
            await one.publish(topic, b"x")
        await one.expect([(topic, b"x") for topic in topics])


async def test_special_characters_of_redis_patterns_match_themselves(redis: Redis) -> None:
    base = unique_topic()
    odd = ["[ab]", "a?", "\\", "[^x]", "[a-c", "a]", "{x}"]
    for part in odd:
        async with peers(lambda: broker(redis.url), patterns=[f"{base}:{part}:*"]) as (one,):
            for other in ["a", "ab", "b", "c", *odd]:
                await one.publish(f"{base}:{other}:x", other.encode())
            await one.expect([(f"{base}:{part}:x", part.encode())])


# -- docs/reference/brokers.md ---------------------------------------------------------------------------------------

BROKERS_MD = (Path(__file__).parents[2] / "docs" / "reference" / "brokers.md").read_text(encoding="utf-8")


def examples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", BROKERS_MD, re.MULTILINE | re.DOTALL)


def test_python_examples_of_the_page_run() -> None:
    brokers = []
    for example in examples("python"):
        namespace: dict[str, Any] = {"__name__": "example"}
        exec(compile(example, "brokers.md", "exec"), namespace)
        brokers.append(namespace["app"].topics.broker.name)
    assert [name.partition(":")[0] for name in brokers] == ["redis", "redis", "amqp", "nats"]


async def test_the_redis_cli_example_of_the_page_reaches_subscribers(redis: Redis) -> None:
    [line] = [example for example in examples("sh") if example.startswith("redis-cli ")]
    program = find_program("redis-tools", "redis-cli", "valkey-cli")
    app = App(port=0, broker=redis.url)
    received: list[tuple[str, str | bytes]] = []
    arrived = anyio.Event()

    @app.on_broadcast("room:*")
    def listen(topic: Topic, message: str | bytes) -> None:
        received.append((topic.name, message))
        arrived.set()

    async with serving(app):
        done = await anyio.run_process(line.replace("redis-cli", f"{program} -p {redis.port}", 1))
        assert done.stdout == b"1\n"
        with anyio.fail_after(GUARD):
            await arrived.wait()
    assert received == [("room:42", "hello")]
