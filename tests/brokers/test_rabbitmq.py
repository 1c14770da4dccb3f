"""The RabbitMQ broker on a real server, and an app whose server fails."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aio_pika
import aiormq
import anyio
import anyio.to_thread
import pytest
from support.outages import check_freeze, check_refused_login, check_restart, check_slow_reader
from support.services import Rabbit, free_port
from support.serving import GUARD

from pywsapp.brokers.base import Broker, Outgoing, PartlyRefused
from pywsapp.brokers.rabbitmq import RabbitBroker, broker_from_url
from pywsapp.brokers.urls import broker_for
from pywsapp.exceptions import BrokerUnavailable, ConfigurationError
from pywsapp.testing.broker import BROKER_CHECKS
from pywsapp.testing.broker_peers import Check, peers, unique_topic

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.mark.parametrize("check", BROKER_CHECKS.values(), ids=BROKER_CHECKS)
async def test_rabbitmq_passes(check: Check, rabbit: Rabbit) -> None:
    await check(lambda: broker_from_url(rabbit.url))


async def test_overlapping_patterns_bring_a_message_once(rabbit: Rabbit) -> None:
    topic = unique_topic("a:b")
    async with peers(lambda: broker_from_url(rabbit.url), 1, ["*", "a:*", "a:b:*"]) as (peer,):
        await peer.connection.subscribe([topic])
        await peer.publish(topic, b"1", b"2")
        await peer.expect([(topic, b"1"), (topic, b"2")])
        await peer.publish("a", b"3")
        await peer.expect([("a", b"3")])


async def test_exchanges_separate_apps(rabbit: Rabbit) -> None:
    topic = unique_topic()
    async with (
        peers(lambda: RabbitBroker(rabbit.url, exchange="one")) as (one,),
        peers(lambda: RabbitBroker(rabbit.url, exchange="two")) as (two,),
    ):
        for peer in (one, two):
            await peer.connection.subscribe([topic])
        await one.publish(topic, b"1")
        await two.publish(topic, b"2")
        await one.expect([(topic, b"1")])
        await two.expect([(topic, b"2")])


# -- URLs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["amqp://me:secret@host:port/", "amqp://me:secret@[host/", "http://me:secret@host/"])
def test_an_invalid_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        broker_from_url(url)
    assert "amqps://user:password@host:port/vhost" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("amqp://me:secret@localhost/v", "amqp://localhost/v"),
        ("amqps://me:secret@rabbit.example?heartbeat=9", "amqps://rabbit.example"),
        ("amqp://[::1]:99/", "amqp://[::1]:99/"),
    ],
)
def test_the_name_for_logs_has_no_password(url: str, name: str) -> None:
    broker = broker_for(url)
    assert isinstance(broker, RabbitBroker)
    assert broker.name == name


async def test_tls_certificates_are_verified(rabbit: Rabbit, rabbit_tls: tuple[int, Path]) -> None:
    port, directory = rabbit_tls
    trusting = f"cafile={quote(str(directory / 'authority.pem'))}"
    topic = unique_topic()
    async with peers(lambda: broker_from_url(f"amqps://localhost:{port}?{trusting}"), 2) as (one, two):
        await two.connection.subscribe([topic])
        await one.publish(topic, b"1")
        await two.expect([(topic, b"1")])
    for url in [f"amqps://localhost:{port}", f"amqps://127.0.0.1:{port}?{trusting}"]:
        with pytest.raises(Exception, match=r"(?i)certificate"):
            await broker_from_url(url).connect(lambda *message: None, [])


# -- failures --------------------------------------------------------------------------------------------------------


async def test_a_failed_connect_closes_its_connection() -> None:
    """aio-pika would close it in a task when it is deleted, also outside of an event loop, and then warn."""
    with pytest.raises(aiormq.AMQPConnectionError) as caught:
        await broker_from_url(f"amqp://127.0.0.1:{free_port()}").connect(lambda *message: None, [])
    found = [each for each in gc.get_objects() if isinstance(each, aio_pika.Connection)]
    assert found, f"the traceback of {caught.value!r} has it"
    assert [each for each in found if not each.is_closed] == []


@pytest.mark.usefixtures("short_pauses")
async def test_an_app_survives_a_restart_of_rabbitmq(rabbit: Rabbit, caplog: pytest.LogCaptureFixture) -> None:
    await check_restart(rabbit, lambda: broker_from_url(rabbit.url), caplog)


@pytest.mark.usefixtures("short_pauses")
async def test_a_frozen_rabbitmq_is_noticed(
    rabbit: Rabbit, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aiormq.Connection, "HEARTBEAT_GRACE_MULTIPLIER", 1.5)  # 3 seconds instead of 6
    await check_freeze(rabbit, lambda: RabbitBroker(rabbit.url, heartbeat=1), "the server does not answer", caplog)


async def test_a_wrong_password_is_reported_but_not_logged(rabbit: Rabbit, caplog: pytest.LogCaptureFixture) -> None:
    url = rabbit.url.replace("guest@", "battery-staple@")
    await check_refused_login(lambda: broker_from_url(url), "ACCESS_REFUSED", "battery", caplog)


async def test_a_slow_reader_loses_its_connection(rabbit: Rabbit, anyio_backend: tuple[str, dict[str, bool]]) -> None:
    def make() -> Broker:
        return RabbitBroker(rabbit.url, heartbeat=60, max_queued=100)

    backend, options = anyio_backend
    await check_slow_reader(make, {"backend": backend, "backend_options": options}, "reads too slowly")


async def test_a_memory_alarm_blocks_publishers(rabbit: Rabbit, caplog: pytest.LogCaptureFixture) -> None:
    topic, over = unique_topic(), anyio.Event()

    async def alarm() -> None:
        await anyio.to_thread.run_sync(
            rabbit.evaluate,
            "vm_memory_monitor:set_vm_memory_high_watermark(0.00001), timer:sleep(700),"
            "vm_memory_monitor:set_vm_memory_high_watermark(0.9).",
        )
        over.set()

    async with peers(lambda: broker_from_url(rabbit.url), 2) as (one, two), anyio.create_task_group() as tasks:
        await two.connection.subscribe([topic])
        tasks.start_soon(alarm)
        count, longest = 0, 0.0
        while not over.is_set():
            began = anyio.current_time()
            await one.publish(topic, b"%d" % count)
            longest = max(longest, anyio.current_time() - began)
            count += 1
            await anyio.sleep(0.02)
        assert longest > 0.3
        assert "was blocked" in caplog.text
        await two.expect([(topic, b"%d" % number) for number in range(count)])


async def test_a_message_that_a_full_queue_of_others_refuses_fails_alone(rabbit: Rabbit) -> None:
    full, other = unique_topic(), unique_topic()

    async def bind_a_full_queue() -> None:
        async with await aio_pika.connect(rabbit.url) as connection:
            channel = await connection.channel()
            arguments: dict[str, Any] = {"x-max-length": 0, "x-overflow": "reject-publish", "x-expires": 60_000}
            queue = await channel.declare_queue(full, arguments=arguments)
            await queue.bind("pywsapp", full.replace(":", "."))

    async with peers(lambda: broker_from_url(rabbit.url), 2) as (one, two):
        await two.connection.subscribe([other, full])
        await anyio.to_thread.run_sync(lambda: asyncio.run(bind_a_full_queue()))
        with pytest.raises(PartlyRefused, match="does not take it") as caught:
            await one.connection.publish([Outgoing(other, b"1"), Outgoing(full, b"x"), Outgoing(other, b"2")])
        assert (list(caught.value.reasons), caught.value.is_certain) == ([1], False), "the other queues have it"
        await one.publish(other, b"3")
        await two.wait_for(4)
        assert [data for topic, data, _ in two.received if topic == other] == [b"1", b"2", b"3"]


async def test_the_loss_of_a_channel_is_noticed(rabbit: Rabbit) -> None:
    async with peers(lambda: RabbitBroker(rabbit.url, exchange="doomed")) as (peer,):
        delete = 'rabbit_exchange:delete(rabbit_misc:r(<<"/">>, exchange, <<"doomed">>), false, <<"me">>).'
        assert "ok" in await anyio.to_thread.run_sync(rabbit.evaluate, delete)
        with pytest.raises(Exception, match="NOT_FOUND - no exchange 'doomed'"):
            await peer.publish(unique_topic(), b"1")
        with anyio.fail_after(GUARD), pytest.raises(BrokerUnavailable, match="NOT_FOUND - no exchange 'doomed'"):
            await peer.connection.wait_lost()


async def test_a_topic_without_rights_fails_alone(rabbit: Rabbit) -> None:
    permit = (
        'rabbit_auth_backend_internal:set_topic_permissions(<<"pywsapp">>, <<"/">>, <<"pywsapp">>, '
        '<<"^(?!secret)">>, <<"^(?!secret)">>, <<"me">>).'
    )
    assert "ok" in await anyio.to_thread.run_sync(rabbit.evaluate, permit)
    url = rabbit.url.replace("guest:guest", "pywsapp:secret")
    good, secret = [unique_topic() for _ in range(9)], [unique_topic("secret") for _ in range(3)]
    received: dict[str, list[bytes]] = {topic: [] for topic in good}
    async with peers(lambda: broker_from_url(url), 2) as (one, two):
        with pytest.raises(PartlyRefused, match="access to topic") as caught:
            await two.connection.subscribe([secret[0], *good, *secret[1:]])
        assert sorted(caught.value.reasons) == [0, 10, 11]
        for rounds in range(3):  # also when it is known that there is no right
            batch = [(topic, f"{rounds} {topic}".encode()) for topic in [*good[:4], secret[0], *good[4:], *secret[:2]]]
            with pytest.raises(PartlyRefused, match=r"access to topic|no right|before it confirmed") as caught:
                await one.connection.publish([Outgoing(topic, data) for topic, data in batch])
            assert {4, 10, 11} <= set(caught.value.reasons) <= {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}
            assert caught.value.is_certain is (rounds > 0 or set(caught.value.reasons) == {4, 10, 11})
            for topic, data in batch:
                if not topic.startswith("secret"):
                    received[topic].append(data)
        await one.publish(good[0], b"last")
        received[good[0]].append(b"last")
        await two.wait_for(3 * len(good) + 1)
        assert {topic: [data for name, data, _ in two.received if name == topic] for topic in good} == received
        for peer in (one, two):
            with anyio.move_on_after(0.1) as scope:
                await peer.connection.wait_lost()
            assert scope.cancelled_caught, "the connection is not lost"


async def test_the_documented_rights_suffice_and_others_are_refused(rabbit: Rabbit) -> None:
    url, topic = rabbit.url.replace("guest:guest", "pywsapp:secret"), unique_topic()
    async with peers(lambda: broker_from_url(url), 2, ["room:*"]) as (one, two):
        await two.connection.subscribe([topic])
        await one.publish(topic, b"1")
        await two.expect([(topic, b"1")])
        await two.connection.unsubscribe([topic])
    with pytest.raises(Exception, match="ACCESS_REFUSED - access to exchange"):
        await RabbitBroker(url, exchange="another").connect(lambda *message: None, [])
