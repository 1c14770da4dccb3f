"""The metrics of an App as instruments of OpenTelemetry, which read its numbers when they are exported."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from pywsapp._metric_table import METRICS, MetricInfo
from pywsapp.stats import WorkerStats
from pywsapp.telemetry.numbers import Numbers

#: Metrics whose names are those of the semantic conventions, or are not made from those for Prometheus.
_NAMES = {
    "pywsapp_cpu_seconds_total": "process.cpu.time",
    "pywsapp_handler_seconds": "pywsapp.handler.duration",
    "pywsapp_memory_bytes": "process.memory.usage",
    "pywsapp_ping_seconds": "pywsapp.ping.duration",
}
#: Numbers of the supervisor, and the version, which the scope of all metrics has.
_LEFT_OUT = {"pywsapp_info", "pywsapp_workers", "pywsapp_workers_missing"}
#: Values whose sum over workers means nothing.
_NOT_ADDITIVE = {"pywsapp_broker_lag_seconds"}
_ATTRIBUTES = {"route": "http.route", "status": "http.response.status_code"}
_UNIT_SUFFIXES = {"_seconds": "s", "_bytes": "By"}
_COUNTED = re.compile(r"(connection|socket|handshake|message|topic|subscription|user|call|session|envelope|task)s")

#: The metrics that an App exports; durations are among them.
EXPORTED: tuple[MetricInfo, ...] = tuple(info for info in METRICS if info.name not in _LEFT_OUT)
#: The metrics that are histograms, which `pywsapp.telemetry.durations` exports.
DURATIONS: tuple[MetricInfo, ...] = tuple(info for info in EXPORTED if info.kind == "histogram")


def name_of(info: MetricInfo) -> str:
    """Return the name of a metric. A collector that writes it for Prometheus makes the name there from it."""
    if info.name in _NAMES:
        return _NAMES[info.name]
    name = info.name.removesuffix("_total")
    for suffix in _UNIT_SUFFIXES:
        name = name.removesuffix(suffix)
    return name.replace("_", ".", 1)


def unit_of(info: MetricInfo) -> str:
    """Return the unit of a metric, as UCUM writes it; "" for a number of what has no usual name."""
    name = info.name.removesuffix("_total")
    for suffix, unit in _UNIT_SUFFIXES.items():
        if name.endswith(suffix):
            return unit
    counted = _COUNTED.search(name)
    return "" if counted is None else f"{{{counted[1]}}}"


def kind_of(info: MetricInfo) -> str:
    """Return the kind of an instrument: "counter", "up-down counter", "gauge" or "histogram"."""
    if info.kind == "gauge" and info.name not in _NOT_ADDITIVE:
        return "up-down counter"
    return info.kind


def attribute_of(label: str) -> str:
    """Return the name of an attribute for a label of Prometheus."""
    return _ATTRIBUTES.get(label, f"pywsapp.{label}")


def values_of(info: MetricInfo, numbers: Numbers, reader: str) -> Iterable[tuple[dict[str, Any], Any]]:
    """Return the values of a metric, each with its attributes; blocks as `Numbers.read` does."""
    stats = numbers.read(reader)
    if stats is None:
        return
    for labels, value in info.values(WorkerStats(stats, 1, 0)):
        if value is not None:
            yield attributes_of(info, labels), value


def attributes_of(info: MetricInfo, labels: Iterable[str]) -> dict[str, Any]:
    """Return the attributes of a value."""
    named = zip(info.labels, labels, strict=True)
    return {attribute_of(name): int(label) if name == "status" else label for name, label in named}


def create_instruments(meter: Meter, numbers: Numbers) -> None:
    """Create the instruments of an App, except those of durations.

    Args:
        meter: creates them.
        numbers: the numbers that they read.
    """
    create: dict[str, Callable[..., Any]] = {
        "counter": meter.create_observable_counter,
        "up-down counter": meter.create_observable_up_down_counter,
        "gauge": meter.create_observable_gauge,
    }
    for info in EXPORTED:
        if info.kind != "histogram":
            create[kind_of(info)](name_of(info), [_callback(info, numbers)], unit_of(info), info.meaning)


def _callback(info: MetricInfo, numbers: Numbers) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_: CallbackOptions) -> Iterable[Observation]:
        for attributes, value in values_of(info, numbers, info.name):
            yield Observation(value, attributes)

    return observe
