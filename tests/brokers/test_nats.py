"""The NATS broker on a real server, and an app whose server fails."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
import trustme
from support.outages import check_freeze, check_refused_login, check_restart, check_slow_reader, until
from support.services import Nats, free_port, nats_server

from pywsapp.brokers.base import PartlyRefused
from pywsapp.brokers.nats import NatsBroker, broker_from_url
from pywsapp.brokers.urls import broker_for
from pywsapp.exceptions import BrokerUnavailable, ConfigurationError
from pywsapp.testing.broker import BROKER_CHECKS
from pywsapp.testing.broker_peers import Check, peers, unique_topic

pytestmark = pytest.mark.anyio

BROKERS_MD = Path(__file__).parents[2] / "docs" / "reference" / "brokers.md"


@pytest.fixture(scope="module")
def nats() -> Iterator[Nats]:
    with nats_server() as server:
        yield server


@pytest.mark.parametrize("check", BROKER_CHECKS.values(), ids=BROKER_CHECKS)
async def test_nats_passes(check: Check, nats: Nats) -> None:
    await check(lambda: broker_from_url(nats.url))


async def test_overlapping_patterns_bring_a_message_once(nats: Nats) -> None:
    topic = unique_topic("a:b")
    async with peers(lambda: broker_from_url(nats.url), 1, ["a:*", "a:*", "*", "a:b", "a:b:*"]) as (peer,):
        await peer.connection.subscribe([topic])
        await peer.publish(topic, b"1", b"2")
        await peer.expect([(topic, b"1"), (topic, b"2")])
        await peer.publish("a:b", b"3")
        await peer.publish("a", b"4")
        await peer.expect([("a:b", b"3"), ("a", b"4")])


async def test_prefixes_separate_apps(nats: Nats) -> None:
    topic = unique_topic()
    async with (
        peers(lambda: NatsBroker(nats.url, prefix="one"), 1, ["*"]) as (one,),
        peers(lambda: NatsBroker(nats.url, prefix="two.three")) as (two,),
    ):
        await two.connection.subscribe([topic])
        await one.publish(topic, b"1")
        await two.publish(topic, b"2")
        await one.expect([(topic, b"1")])
        await two.expect([(topic, b"2")])


async def test_the_server_limits_the_size_of_a_message() -> None:
    with nats_server("max_payload: 1000") as server:
        broker = NatsBroker(server.url)
        assert broker.max_size == 1024 * 1024
        async with peers(lambda: broker):
            assert broker.max_size == 1000


async def test_one_of_several_servers_is_enough(nats: Nats) -> None:
    topic = unique_topic()
    async with peers(lambda: broker_from_url(f"nats://127.0.0.1:{free_port()},{nats.url}"), 5) as (one, *others):
        for other in others:
            await other.connection.subscribe([topic])
        await one.publish(topic, b"hello")
        for other in others:
            await other.expect([(topic, b"hello")])


# -- URLs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["nats://me:secret@host:port", "nats://me:secret@[host", "http://me:secret@host", "nats://one,me:secret@two"]
)
def test_an_invalid_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        broker_from_url(url)
    assert "nats:// or tls://user:password@host:port" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("nats://me:secret@localhost", "nats://localhost"),
        ("tls://token@nats.example:99,tls://token@other.example", "tls://nats.example:99,tls://other.example"),
    ],
)
def test_the_name_for_logs_has_no_password(url: str, name: str) -> None:
    broker = broker_for(url)
    assert isinstance(broker, NatsBroker)
    assert broker.name == name


@pytest.mark.parametrize("prefix", ["", "a b", "*", "a.>", "a..b", "a\n"])
def test_an_invalid_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a valid prefix"):
        NatsBroker("nats://localhost", prefix=prefix)


async def test_tls_certificates_are_verified(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    topic = unique_topic()
    with nats_server(f"tls {{ cert_file: {tmp_path}/server.pem, key_file: {tmp_path}/server.pem }}") as server:
        url = f"tls://localhost:{server.port}"
        async with peers(lambda: NatsBroker(url, ssl_context=trusting), 2) as (one, two):
            await two.connection.subscribe([topic])
            await one.publish(topic, b"1")
            await two.expect([(topic, b"1")])
        for broker in (NatsBroker(url), NatsBroker(url.replace("localhost", "127.0.0.1"), ssl_context=trusting)):
            with pytest.raises(Exception, match=r"(?i)certificate"):
                await broker.connect(lambda *message: None, [])


@pytest.mark.parametrize("user", ["", "me:battery-staple@", "battery-staple@"])
async def test_no_password_is_sent_without_tls_when_the_url_requires_tls(user: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sent: list[bytes] = []

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.sendall(b'INFO {"server_id":"x","version":"2.9.0","max_payload":1000,"auth_required":true}\r\n')
                while data := client.recv(4096):
                    sent.append(data)
                    if b"PING" in data:
                        client.sendall(b"PONG\r\n")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, serve)
            broker = broker_from_url(f"tls://{user}127.0.0.1:{listener.getsockname()[1]}")
            with pytest.raises(BrokerUnavailable, match="does not ask for TLS"):
                await broker.connect(lambda *message: None, [])
    assert b"staple" not in b"".join(sent)


# -- failures --------------------------------------------------------------------------------------------------------


async def test_an_app_survives_a_restart_of_nats(caplog: pytest.LogCaptureFixture) -> None:
    with nats_server() as server:
        await check_restart(server, lambda: broker_from_url(server.url), caplog)


async def test_a_frozen_nats_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    with nats_server() as server:
        make = lambda: NatsBroker(server.url, ping_seconds=1)  # noqa: E731
        await check_freeze(server, make, "StaleConnection", caplog)


async def test_a_wrong_password_is_reported_but_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with nats_server('authorization { user: me, password: "correct horse" }') as server:
        url = server.url.replace("//", "//me:battery-staple@")
        await check_refused_login(lambda: broker_from_url(url), "Authorization Violation", "battery", caplog)
        async with peers(lambda: broker_from_url(server.url.replace("//", "//me:correct%20horse@"))):
            pass


async def test_a_slow_reader_loses_its_connection(anyio_backend: tuple[str, dict[str, bool]]) -> None:
    backend, options = anyio_backend
    with nats_server('max_pending: 1048576, write_deadline: "500ms"') as server:
        await check_slow_reader(
            lambda: broker_from_url(server.url), {"backend": backend, "backend_options": options}, "UnexpectedEOF"
        )


async def test_the_documented_rights_suffice_and_others_are_refused() -> None:
    example = re.search(r"```\n(authorization \{.*?\n\})\n```", BROKERS_MD.read_text(), re.DOTALL)
    assert example is not None
    with nats_server(example[1]) as server:
        url, topic = server.url.replace("//", "//pywsapp:secret@"), unique_topic()
        async with peers(lambda: broker_from_url(url), 2, ["room:*"]) as (one, two):
            await two.connection.subscribe([topic])
            await one.publish(topic, b"1")
            await two.expect([(topic, b"1")])
        async with peers(lambda: NatsBroker(url, prefix="other"), 2) as (one, two):
            with pytest.raises(PartlyRefused, match=r"(?i)permissions violation for publish"):
                await one.publish(topic, b"1")
            with pytest.raises(PartlyRefused, match=r"(?i)permissions violation for subscription"):
                await two.connection.subscribe([topic])
        with pytest.raises(BrokerUnavailable, match=r"(?i)permissions violation for subscription"):
            await NatsBroker(url, prefix="other").connect(lambda *message: None, ["room:*"])


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
async def test_connecting_that_is_given_up_leaves_no_socket(nats: Nats) -> None:
    def sockets() -> int:
        return sum(path.is_socket() for path in Path("/proc/self/fd").iterdir())

    async with peers(lambda: broker_from_url(nats.url)):
        pass
    before = sockets()
    nats.freeze()
    try:
        for _ in range(5):
            with anyio.move_on_after(0.05) as given_up:
                await broker_from_url(nats.url).connect(lambda *message: None, ["room:*"])
            assert given_up.cancelled_caught
        await until(lambda: sockets() <= before)
    finally:
        nats.thaw()
