"""Metrics and traces of an App over OTLP, as the environment variables of OpenTelemetry say. Needs the extra `otlp`."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import anyio

from pywsapp._event_loop import thread_safe_call_soon
from pywsapp._extras import missing_extra
from pywsapp.exceptions import ConfigurationError

try:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider, set_tracer_provider
except ModuleNotFoundError as exc:
    raise missing_extra(exc, "otlp") from exc

from pywsapp.telemetry.durations import DurationExporter
from pywsapp.telemetry.instrumenting import Instrumentation
from pywsapp.telemetry.numbers import numbers_of

if TYPE_CHECKING:
    from pywsapp.app import App

__all__ = ["export_over_otlp", "with_durations"]

_PROTOCOLS = {"http/protobuf": "http", "grpc": "grpc"}
_INSTANCE = "service.instance.id"
#: Seconds for which the end of an App waits for the last export, if the receiver does not answer.
_LAST_EXPORT_SECONDS = 5.0


def with_durations(exporter: MetricExporter, app: App) -> MetricExporter:
    """Return an exporter that exports the durations of an App too, as histograms.

    Args:
        exporter: the exporter of the program, for a `PeriodicExportingMetricReader`.
        app: the App, which must be instrumented too.

    Raises:
        ConfigurationError: the App runs already.
    """
    return DurationExporter(exporter, numbers_of(app))


class _Exports:
    """The providers of an App in this process, from its start to its end."""

    def __init__(self, app: App, instrumentation: Instrumentation) -> None:
        self._app = app
        self._instrumentation = instrumentation
        self._shutdowns: list[Callable[[], object]] = []
        app.on_startup(self._start)
        app.on_shutdown(self._end)

    def _start(self) -> None:
        resource = resource_of(self._app.worker)
        if is_wanted("metrics"):
            exporter = DurationExporter(make_exporter("metrics"), self._instrumentation.numbers)
            meters = MeterProvider([PeriodicExportingMetricReader(exporter)], resource, shutdown_on_exit=False)
            self._instrumentation.create_instruments(meters)
            self._shutdowns.append(meters.shutdown)
        if is_wanted("traces"):
            tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
            tracers.add_span_processor(BatchSpanProcessor(make_exporter("traces")))
            if isinstance(get_tracer_provider(), ProxyTracerProvider):  # the program has set none
                set_tracer_provider(tracers)
            self._instrumentation.trace(tracers)
            self._shutdowns.append(tracers.shutdown)

    async def _end(self) -> None:
        """Export what is left, and close the exporters; in threads, which may wait for the network."""
        self._instrumentation.numbers.read_last()
        shutdowns, self._shutdowns = self._shutdowns, []
        with anyio.move_on_after(_LAST_EXPORT_SECONDS):
            async with anyio.create_task_group() as tasks:
                for shutdown in shutdowns:
                    tasks.start_soon(_run_in_daemon_thread, shutdown)


async def _run_in_daemon_thread(function: Callable[[], object]) -> None:
    """Call a function in a thread, and wait for its end; a cancelled task leaves the thread alone.

    Python waits for a thread of `anyio.to_thread` when the program ends, also for one that was abandoned.
    """
    call_soon, has_ended = thread_safe_call_soon(), anyio.Event()

    def run() -> None:
        try:
            function()
        finally:
            with suppress(RuntimeError):  # the event loop has ended
                call_soon(has_ended.set)

    threading.Thread(target=run, name="pywsapp telemetry", daemon=True).start()
    await has_ended.wait()


def export_over_otlp(app: App, *, handler_spans: bool = False, trust_clients: bool = False) -> None:
    """Measure and trace an App, and export its metrics and spans over OTLP. Never blocks.

    Each worker makes its providers when it starts, from the environment variables of OpenTelemetry, and exports what
    is left when it shuts down. Unless the program has set a tracer provider, the whole program uses this one from then
    on, so that its own spans are exported too.

    Args:
        app: the App that runs, before it runs.
        handler_spans: as for `pywsapp.telemetry.instrument`.
        trust_clients: as for `pywsapp.telemetry.instrument`.

    Raises:
        ConfigurationError: the App runs already, or is instrumented already. On its start: a variable is not valid, or
            an exporter is not installed.
    """
    _Exports(app, Instrumentation(app, handler_spans=handler_spans, trust_clients=trust_clients))


def resource_of(worker: int | None) -> Resource:
    """Return the resource of this process; a worker has an attribute with its number."""
    attributes: dict[str, Any] = {} if worker is None else {"pywsapp.worker": worker}
    resource = Resource.create(attributes)
    if not resource.attributes.get(_INSTANCE):
        resource = resource.merge(Resource({_INSTANCE: str(uuid.uuid4())}))
    return resource


def is_wanted(signal: str) -> bool:
    """Return whether the environment variables do not disable the export of metrics or traces.

    Raises:
        ConfigurationError: they name another exporter.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    name = os.environ.get(variable, "").strip() or "otlp"
    if name not in ("otlp", "none"):
        raise ConfigurationError(f"{variable} is {name!r}: export_over_otlp knows otlp and none")
    return name == "otlp"


def make_exporter(signal: str) -> Any:
    """Return the exporter of "metrics" or "traces", for the protocol that the environment variables name.

    Raises:
        ConfigurationError: the protocol is not known, or its exporter is not installed.
    """
    variables = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    name = next(filter(None, (os.environ.get(variable, "").strip() for variable in variables)), "http/protobuf")
    if name not in _PROTOCOLS:
        raise ConfigurationError(f"{variables[1]} is {name!r}: write http/protobuf or grpc")
    package = f"opentelemetry.exporter.otlp.proto.{_PROTOCOLS[name]}"
    if find_spec(package) is None:  # that for gRPC belongs to no extra, because grpcio is large
        raise ConfigurationError(f"the exporter for {name} is not installed: pip install {package.replace('.', '-')}")
    kind = "metric" if signal == "metrics" else "trace"
    module = import_module(f"{package}.{kind}_exporter")
    return module.OTLPMetricExporter() if signal == "metrics" else module.OTLPSpanExporter()
