"""Metrics over OTLP: a real receiver decodes what an App exports."""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from queue import Queue
from typing import Any

import anyio
import anyio.to_thread
import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from support.otlp_receiver import OtlpReceiver, receiving_over_grpc, receiving_over_http
from support.outages import until
from support.serving import GUARD, serving

from pywsapp import App, ConfigurationError, EchoServer, Options, RateLimit, telemetry
from pywsapp.brokers.memory import MemoryBroker
from pywsapp.sessions.memory import MemorySessionStore
from pywsapp.telemetry.metrics import EXPORTED, attribute_of, name_of, unit_of
from pywsapp.telemetry.numbers import numbers_of
from pywsapp.telemetry.otlp import export_over_otlp
from pywsapp.testing import TestClient

pytestmark = [pytest.mark.anyio, pytest.mark.once]

#: For tests of what does not depend on the event loop.
one_loop = pytest.mark.parametrize("anyio_backend", ["trio"])
ROUTE = {"http.route": "/rooms/{name}"}
CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
DELTA = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
Receiving = Callable[[], AbstractContextManager[OtlpReceiver]]


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for the last export also on a busy machine."""
    monkeypatch.setattr("pywsapp.telemetry.otlp._LAST_EXPORT_SECONDS", GUARD)


def use(monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver, **variables: str) -> None:
    """Export to a receiver, when the App ends unless an interval is given."""
    variables = {"OTEL_METRIC_EXPORT_INTERVAL": "60000", "OTEL_SERVICE_NAME": "chat", **variables}
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def app_with_echo(**arguments: Any) -> App:
    app = App(port=0, **arguments)
    app.route("/rooms/{name}", RateLimit(EchoServer(), messages_per_second=1000, name="rooms"))
    return app


@pytest.mark.parametrize(
    ("protocol", "receiving"), [("http/protobuf", receiving_over_http), ("grpc", receiving_over_grpc)]
)
async def test_a_receiver_decodes_the_metrics(
    protocol: str, receiving: Receiving, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_with_echo()
    export_over_otlp(app)
    with receiving() as receiver:
        use(monkeypatch, receiver, OTEL_EXPORTER_OTLP_PROTOCOL=protocol, OTEL_EXPORTER_OTLP_HEADERS="api-key=secret")
        async with serving(app) as server, server.client("/rooms/a") as client:
            await client.send("hello")
            await client.receive()
        assert receiver.headers["api-key"] == "secret"
        (resource,) = receiver.resources
        assert resource["service.name"] == "chat"
        assert resource["service.instance.id"]
        assert receiver.values("pywsapp.messages_received") == [(ROUTE, 1)]
        ((attributes, point),) = receiver.points("pywsapp.handler.duration")
        assert (attributes, point.count, sum(point.bucket_counts)) == (ROUTE, 1, 1)
        assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
        assert 0 < point.sum < 20


@pytest.mark.parametrize(("preference", "temporality"), [("cumulative", CUMULATIVE), ("delta", DELTA)])
async def test_exports_have_the_temporality_that_is_asked_for(
    preference: str, temporality: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_with_echo()
    export_over_otlp(app)
    with receiving_over_http() as receiver:
        variables = {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": preference}
        use(monkeypatch, receiver, OTEL_METRIC_EXPORT_INTERVAL="50", **variables)
        async with serving(app) as server, server.client("/rooms/a") as client:
            for number in (1, 2, 3):
                await client.send("hello")
                await client.receive()

                def has_arrived(number: int = number) -> bool:
                    found = [value for _, value in receiver.values("pywsapp.messages_received")]
                    return (sum(found) if temporality == DELTA else max(found, default=0)) == number

                await anyio.to_thread.run_sync(receiver.wait_for, has_arrived)
        for name in ("pywsapp.messages_received", "pywsapp.handler.duration"):
            for metric in receiver.metrics(name):
                assert getattr(metric, metric.WhichOneof("data")).aggregation_temporality == temporality
        for metric in receiver.metrics("pywsapp.connections"):
            assert metric.sum.aggregation_temporality == CUMULATIVE  # a difference of what is open now says nothing
            assert not metric.sum.is_monotonic
        points = [point for _, point in receiver.points("pywsapp.handler.duration")]
        counts = [point.count for point in points]
        assert (sum(counts) if temporality == DELTA else counts[-1]) == 3
        starts = [point.start_time_unix_nano for point in points]
        assert len(set(starts)) == (len(points) if temporality == DELTA else 1)
        assert all(point.start_time_unix_nano < point.time_unix_nano for point in points)


@one_loop
async def test_all_metrics_are_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_with_echo(broker=MemoryBroker())
    app.http("/page", lambda request: "text", sessions=MemorySessionStore())
    export_over_otlp(app)
    with receiving_over_http() as receiver:
        use(monkeypatch, receiver)
        async with TestClient(app) as client:
            async with client.connect("/rooms/a") as ws:
                ws.send("hello")
            await client.get("/nothing")
            await client.get("/page")
        assert receiver.names == {name_of(info) for info in EXPORTED}
        for info in EXPORTED:
            (metric,) = receiver.metrics(name_of(info))
            assert (metric.description, metric.unit) == (info.meaning, unit_of(info))
            for attributes, _ in receiver.points(metric.name):
                assert {*attributes} == {attribute_of(label) for label in info.labels}
        assert ({"http.response.status_code": 404}, 1) in receiver.values("pywsapp.refused")


def numbers_in(reader: InMemoryMetricReader, name: str) -> list[Any]:
    data = reader.get_metrics_data()
    if data is None:
        return []
    scopes = [scope for part in data.resource_metrics for scope in part.scope_metrics]
    metrics = [metric for scope in scopes for metric in scope.metrics if metric.name == name]
    return [getattr(point, "value", None) for metric in metrics for point in metric.data.data_points]


async def test_a_program_has_providers_of_its_own() -> None:
    app, reader = app_with_echo(), InMemoryMetricReader()
    telemetry.instrument(app, meter_provider=MeterProvider([reader], shutdown_on_exit=False))
    name = "pywsapp.connections"
    async with TestClient(app) as client, client.connect("/rooms/a"):
        assert numbers_in(reader, name) == [1]  # in the thread of the event loop
        async with client.connect("/rooms/b"):
            assert await anyio.to_thread.run_sync(numbers_in, reader, name) == [2]
    assert numbers_in(reader, name) == [0]
    async with TestClient(app) as client, client.connect("/rooms/a"):
        assert numbers_in(reader, name) == [1]


async def test_a_blocked_event_loop_does_not_block_an_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pywsapp.telemetry.numbers.WAIT_SECONDS", 0.01)
    app, reader = app_with_echo(), InMemoryMetricReader()
    telemetry.instrument(app, meter_provider=MeterProvider([reader], shutdown_on_exit=False))
    async with TestClient(app) as client, client.connect("/rooms/a"):
        assert numbers_in(reader, "pywsapp.connections") == [1]
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.extend(numbers_in(reader, "pywsapp.connections")))
        thread.start()
        thread.join()
        assert found == [1]


@one_loop
async def test_an_export_in_another_thread_does_not_block_the_end_of_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pywsapp.telemetry.numbers.WAIT_SECONDS", GUARD)
    app, questions = app_with_echo(), Queue[Callable[[], object]]()
    telemetry.instrument(app)
    numbers = numbers_of(app)
    async with TestClient(app) as client, client.connect("/rooms/a"):
        await until(lambda: numbers._call_soon)
        numbers._call_soon = questions.put_nowait
        thread = threading.Thread(target=numbers.read, args=("other",))
        thread.start()
        answer = questions.get(timeout=GUARD)
        numbers.read_last()  # as the App does when it ends, in the thread of the event loop
        assert thread.is_alive()
        last = numbers.read("another")
        answer()
        thread.join()
        assert numbers.read("other") is last


@one_loop
@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "write http/protobuf or grpc"),
        ("OTEL_METRICS_EXPORTER", "console", "knows otlp and none"),
    ],
)
async def test_invalid_variables_are_refused_at_start(
    variable: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_with_echo()
    export_over_otlp(app)
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=message):
        await app.serve()


async def test_a_receiver_that_does_not_answer_does_not_keep_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pywsapp.telemetry.otlp._LAST_EXPORT_SECONDS", 0.05)
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # its threads log when the test has ended
    app = app_with_echo(options=Options(drain_timeout=3 * GUARD))
    export_over_otlp(app)
    before = {*threading.enumerate()}
    with socket.create_server(("127.0.0.1", 0)) as silent, anyio.fail_after(GUARD) as scope:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", str(3 * GUARD))
        async with TestClient(app) as client, client.connect("/rooms/a"):
            pass
        assert not scope.cancel_called
        assert all(thread.daemon for thread in {*threading.enumerate()} - before)  # Python waits for others at its end
        answer_until_threads_end(silent)


def answer_until_threads_end(listener: socket.socket) -> None:
    """Answer the requests of exporters until their threads, which would disturb later tests, have ended."""
    exporting = [thread for thread in threading.enumerate() if thread.name.startswith(("Otel", "pywsapp telemetry"))]
    assert exporting
    listener.settimeout(0.1)
    while any(thread.is_alive() for thread in exporting):
        with suppress(TimeoutError):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@one_loop
async def test_a_missing_exporter_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_with_echo()
    export_over_otlp(app)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc", None)
    with pytest.raises(ConfigurationError, match="pip install opentelemetry-exporter-otlp-proto-grpc"):
        await app.serve()


@one_loop
@pytest.mark.parametrize(("variable", "value"), [("OTEL_SDK_DISABLED", "true"), ("OTEL_METRICS_EXPORTER", "none")])
async def test_variables_disable_the_export(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_with_echo()
    export_over_otlp(app)
    with receiving_over_http() as receiver:
        use(monkeypatch, receiver, **{variable: value})
        async with TestClient(app) as client, client.connect("/rooms/a"):
            pass
        assert receiver.names == set()


def test_an_app_is_instrumented_once() -> None:
    app = App()
    telemetry.instrument(app)
    with pytest.raises(ConfigurationError, match="instrumented already"):
        telemetry.instrument(app)
    with pytest.raises(ConfigurationError, match="instrumented already"):
        export_over_otlp(app)


async def test_the_app_that_runs_is_instrumented() -> None:
    app, inner = App(port=0), App()
    telemetry.instrument(inner)
    app.mount("/inner", inner)
    with pytest.raises(ConfigurationError, match="mounted"):
        await app.serve()


def test_names_and_units_follow_the_conventions() -> None:
    for info in EXPORTED:
        assert name_of(info).startswith(("pywsapp.", "process."))
        assert not name_of(info).endswith(("_total", "_seconds", "_bytes"))
        assert unit_of(info) in {"s", "By", ""} or unit_of(info).startswith("{")
    assert len({name_of(info) for info in EXPORTED}) == len(EXPORTED)
