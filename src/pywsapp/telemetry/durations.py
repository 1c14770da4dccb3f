"""The durations of an App as histograms of OpenTelemetry, with the buckets that the App has counted.

OpenTelemetry has no histogram that reads its buckets when it is exported, only one that records each value, which takes
several microseconds. An exporter of metrics therefore adds the histograms to what it exports.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from operator import sub
from typing import Any

from opentelemetry.sdk.metrics import Histogram as HistogramInstrument
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    ResourceMetrics,
)

from pywsapp._histogram import BOUNDS, HistogramStats
from pywsapp.telemetry.instrumenting import SCOPE
from pywsapp.telemetry.metrics import DURATIONS, name_of, unit_of, values_of
from pywsapp.telemetry.numbers import Numbers

_NONE = HistogramStats((0,) * (len(BOUNDS) + 1), 0.0)


class DurationExporter(MetricExporter):
    """Export what another exporter does, and the durations of an App, in the temporality that the other one prefers.

    Args:
        inner: the other exporter.
        numbers: the numbers of the App.
    """

    def __init__(self, inner: MetricExporter, numbers: Numbers) -> None:
        super().__init__(inner._preferred_temporality, inner._preferred_aggregation)
        self._inner = inner
        self._numbers = numbers
        preferred = inner._preferred_temporality or {}
        self._temporality = preferred.get(HistogramInstrument, AggregationTemporality.CUMULATIVE)
        self._began = time.time_ns()
        self._last: dict[tuple[str, ...], HistogramStats] = {}  # for the differences

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        """Export metrics with the durations; the reader of the metrics calls this."""
        now = time.time_ns()
        metrics = list(self._metrics(now))
        if self._temporality is AggregationTemporality.DELTA:
            self._began = now
        if metrics:
            found = [_with_metrics(one, metrics) for one in metrics_data.resource_metrics]
            metrics_data = replace(metrics_data, resource_metrics=found)
        return self._inner.export(metrics_data, timeout_millis=timeout_millis, **kwargs)

    def _metrics(self, now: int) -> Iterable[Metric]:
        for info in DURATIONS:
            points = [
                self._point(info.name, attributes, stats, now)
                for attributes, stats in values_of(info, self._numbers, info.name)
            ]
            if points:
                yield Metric(name_of(info), info.meaning, unit_of(info), Histogram(points, self._temporality))

    def _point(self, name: str, attributes: dict[str, Any], stats: HistogramStats, now: int) -> HistogramDataPoint:
        buckets, seconds = stats
        if self._temporality is AggregationTemporality.DELTA:
            key = (name, *map(str, attributes.values()))
            last = self._last.get(key, _NONE)
            self._last[key] = stats
            buckets, seconds = tuple(map(sub, buckets, last.buckets)), seconds - last.seconds
        return HistogramDataPoint(
            attributes=attributes,
            start_time_unix_nano=self._began,
            time_unix_nano=now,
            count=sum(buckets),
            sum=seconds,
            bucket_counts=buckets,
            explicit_bounds=BOUNDS,
            min=None,  # type: ignore[arg-type] # it is optional in OTLP, and not known
            max=None,  # type: ignore[arg-type]
        )

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Have the other exporter send what it still has."""
        return self._inner.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Shut the other exporter down."""
        self._inner.shutdown(timeout_millis=timeout_millis, **kwargs)


def _with_metrics(found: ResourceMetrics, metrics: list[Metric]) -> ResourceMetrics:
    """Return the metrics of a resource with more metrics in the scope of pywsapp, if it has this scope."""
    scopes = [
        replace(scope, metrics=[*scope.metrics, *metrics]) if scope.scope.name == SCOPE else scope
        for scope in found.scope_metrics
    ]
    return replace(found, scope_metrics=scopes)
