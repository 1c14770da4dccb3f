"""`App.metrics` answers Prometheus: who may read, in which format, on which port."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterable
from typing import Any

import anyio
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support.serving import serving

from pywsapp import App, ConfigurationError, EchoServer, MessageComponent, RateLimit
from pywsapp._metric_table import METRICS
from pywsapp._prometheus import encode
from pywsapp._server.bind import ListeningSocket
from pywsapp.auth import ApiKeyAuthenticator, public
from pywsapp.brokers.memory import MemoryBroker
from pywsapp.sessions.memory import MemorySessionStore
from pywsapp.testing import TestClient

pytestmark = pytest.mark.anyio

KEY = "a-key-of-more-than-20-characters"


def app_of(component: MessageComponent | None = None, path: str = "/metrics", **arguments: Any) -> App:
    app = App(broker=MemoryBroker())
    app.route("/chat", component or EchoServer())
    app.metrics(path, **arguments)
    return app


def values_of(families: Iterable[Any]) -> dict[tuple[str, ...], float]:
    """Return the values by the name of the sample and the values of its labels, in the order of the names of these."""
    samples = [one for family in families for one in family.samples]
    return {(one.name, *(one.labels[name] for name in sorted(one.labels))): one.value for one in samples}


@pytest.mark.parametrize(
    ("accept", "content_type", "parse"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8", parse_text),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8", parse_text),
        ("text/plain;version=x.y", "text/plain; version=0.0.4; charset=utf-8", parse_text),
        (
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            parse_openmetrics,
        ),
    ],
    ids=["none", "any", "malformed", "openmetrics"],
)
async def test_the_answer_has_the_format_that_the_client_asks_for(accept: str, content_type: str, parse: Any) -> None:
    component = RateLimit(EchoServer(), messages_per_second=1000, name='say "hello"\\\n')
    app = app_of(component, guard=public)
    async with TestClient(app) as client, client.connect("/chat") as ws:
        ws.send("hello")
        await ws.receive()
        response = await client.get("/metrics", headers={"Accept": accept})
        escaping = "; escaping=underscores"  # which newer versions of prometheus-client add
        assert response.headers["content-type"].removesuffix(escaping) == content_type
        assert response.headers["cache-control"] == "no-store"
        found = values_of(parse(response.text))
        assert found["pywsapp_messages_received_total", "/chat"] == 1
        assert found["pywsapp_handler_seconds_count", "/chat"] == 1
        assert found["pywsapp_handler_seconds_bucket", "+Inf", "/chat"] == 1
        assert found["pywsapp_handler_seconds_bucket", "0.0001", "/chat"] <= 1
        assert found["pywsapp_rate_limited_total", "delayed", 'say "hello"\\\n'] == 0
        assert found["pywsapp_broker_connected",] == 1
        assert found["pywsapp_workers",] == 1


@pytest.mark.parametrize(
    ("field", "is_compressed"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("gzip ; q=1.0, identity", True),
        ("", False),
        ("identity", False),
        ("x-gzip", False),
        ("br, gzip;q=0", False),
        ("gzip; q=0.00 , br", False),
    ],
)
async def test_the_answer_is_compressed_if_the_client_asks_for_it(field: str, is_compressed: bool) -> None:
    async with TestClient(app_of(guard=public)) as client:
        answer = await client.get("/metrics", headers={"Accept-Encoding": field})
        assert answer.headers.get("content-encoding") == ("gzip" if is_compressed else None)
        text = gzip.decompress(answer.body) if is_compressed else answer.body
        assert ("pywsapp_workers",) in values_of(parse_text(text.decode()))
        assert answer.headers["content-length"] == str(len(answer.body))


async def test_all_metrics_are_in_an_answer() -> None:
    app = app_of(RateLimit(EchoServer(), messages_per_second=1000, name="chat"), guard=public)
    app.http("/page", lambda request: "text", sessions=MemorySessionStore())
    async with TestClient(app) as client:
        async with client.connect("/chat") as ws:
            ws.send("hello")
        await client.get("/nothing")
        await client.get("/page")
        text = (await client.get("/metrics")).text
    families = {family.name: family for family in parse_text(text)}
    assert list(families) == [info.name.removesuffix("_total") for info in METRICS]
    for info in METRICS:
        family = families[info.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (info.kind, info.meaning)
        assert all({*one.labels} - {"le"} == {*info.labels} for one in family.samples)
        assert info.name.endswith("_total") == (info.kind == "counter")


async def test_a_key_is_needed_if_the_guard_says_so() -> None:
    app = app_of(guard=ApiKeyAuthenticator({"prometheus": KEY}))
    async with TestClient(app) as client:
        assert (await client.get("/metrics")).status == 401
        assert (await client.get("/metrics", headers={"Authorization": f"Bearer {KEY}"})).status == 200


@pytest.mark.parametrize(("address", "status"), [("10.1.2.3", 200), ("192.0.2.1", 403), ("127.0.0.1", 403)])
async def test_only_addresses_of_the_guard_may_read(address: str, status: int) -> None:
    async with TestClient(app_of(guard=["10.0.0.0/8"])) as client:
        assert (await client.get("/metrics", address=address)).status == status


async def test_the_guard_of_the_app_is_not_asked() -> None:
    app = App(authenticate=ApiKeyAuthenticator({"user": KEY}))
    app.metrics(guard=public)
    async with TestClient(app) as client:
        assert (await client.get("/metrics")).status == 200
        assert (await client.get("/other")).status == 401


async def test_metrics_of_a_mounted_app_are_those_of_the_outer_one() -> None:
    app, inner = App(), App()
    app.route("/chat", EchoServer())
    inner.metrics(guard=public)
    app.mount("/inner", inner)
    async with TestClient(app) as client, client.connect("/chat"):
        found = values_of(parse_text((await client.get("/inner/metrics")).text))
        assert found["pywsapp_connections", "/chat"] == 1


async def test_metrics_are_answered_above_max_connections() -> None:
    app = App(port=0, max_connections=1)
    app.route("/", EchoServer())
    app.metrics(guard=public)
    async with serving(app) as server, server.client(), await anyio.connect_tcp("127.0.0.1", server.port) as stream:
        await stream.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await stream.receive()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("host", "status"), [("localhost", b"200"), ("127.0.0.1", b"200"), ("evil.example", b"404")], ids=str
)
async def test_metrics_have_a_port_of_their_own(host: str, status: bytes, caplog: pytest.LogCaptureFixture) -> None:
    app = app_of(path="/numbers", port=0)
    caplog.set_level("INFO", "pywsapp")
    app.rebind(port=0)
    async with serving(app) as server:
        port = int(caplog.text.partition("metrics on http://127.0.0.1:")[2].partition("/")[0])
        for asked, expected in ((port, status), (server.port, b"404")):
            async with await anyio.connect_tcp("127.0.0.1", asked) as stream:
                await stream.send(b"GET /numbers HTTP/1.1\r\nHost: %s\r\n\r\n" % host.encode())
                assert (await stream.receive()).startswith(b"HTTP/1.1 " + expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "write who may read them: guard=ApiKeyAuthenticator"),
        ({"guard": "10.0.0.0/8"}, r"write \['10.0.0.0/8'\]"),
        ({"guard": ["10.0.0.0/8", "example.com"]}, "example.com"),
        ({"port": 0, "address": "0.0.0.0"}, "can be read from other machines"),
        ({"guard": public, "path": "metrics"}, "metrics"),
    ],
    ids=["no guard", "text", "no address", "no guard for other machines", "path"],
)
def test_arguments_that_are_not_possible(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        App().metrics(**arguments)


def test_metrics_can_have_one_port_only() -> None:
    app = App()
    app.metrics(port=0)
    app.metrics(guard=public)
    with pytest.raises(ConfigurationError, match="one only"):
        app.metrics(port=0)


def test_a_guard_allows_another_address() -> None:
    app = App()
    app.metrics(port=9100, address="0.0.0.0", guard=["10.0.0.0/8"])
    port = app._runner.change_listening().metrics
    assert port is not None
    assert port.listener == ListeningSocket(address="0.0.0.0", port=9100)


async def test_an_app_that_does_not_run_has_metrics_too() -> None:
    text, _ = encode(await App().worker_stats(), "")
    assert "pywsapp_admitted_connections 0.0" in text.decode()


async def test_the_text_is_made_in_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def noting(*arguments: Any) -> tuple[bytes, str]:
        threads.append(threading.get_ident())
        return encode(*arguments)

    monkeypatch.setattr("pywsapp._prometheus.encode", noting)
    async with TestClient(app_of(guard=public)) as client:
        assert (await client.get("/metrics")).status == 200
    assert threads
    assert threads[0] != threading.get_ident()
