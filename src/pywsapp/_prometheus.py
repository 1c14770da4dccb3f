"""The numbers of an App as metrics of Prometheus. Needs the extra `prometheus`.

The numbers are read when Prometheus asks for them. `_metric_table.METRICS` is the list of all metrics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from pywsapp._histogram import BOUNDS, HistogramStats
from pywsapp._metric_table import METRICS, MetricInfo, Value
from pywsapp.stats import WorkerStats

_LAST_BOUND = "+Inf"


def encode(stats: WorkerStats, accept: str) -> tuple[bytes, str]:
    """Return the metrics as text, and its content type.

    Args:
        stats: the numbers.
        accept: the Accept field of the request, which chooses between the text formats of Prometheus and OpenMetrics.
    """
    try:
        encoder, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # the field has a version that is no number
        encoder, content_type = choose_encoder("")
    return encoder(_Collected(stats)), content_type


class _Collected:
    """The metrics that the encoders take in place of a registry."""

    def __init__(self, stats: WorkerStats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """Return the metrics."""
        for info in METRICS:
            values = [value for value in info.values(self._stats) if value[1] is not None]
            if values:
                yield _family(info, values)


def _family(info: MetricInfo, values: Iterable[Value]) -> Metric:
    if info.kind == "histogram":
        histogram = HistogramMetricFamily(info.name, info.meaning, labels=info.labels)
        for labels, value in values:
            histogram.add_metric(labels, _buckets(value), value.seconds)
        return histogram
    family = (CounterMetricFamily if info.kind == "counter" else GaugeMetricFamily)(
        info.name, info.meaning, labels=info.labels
    )
    for labels, value in values:
        family.add_metric(labels, value)
    return family


def _buckets(histogram: HistogramStats) -> Sequence[tuple[str, float]]:
    """Return the upper bounds of the buckets, each with how many durations were at most so long."""
    number, found = 0, []
    for bound, added in zip((*map(str, BOUNDS), _LAST_BOUND), histogram.buckets, strict=True):
        number += added
        found.append((bound, number))
    return found
