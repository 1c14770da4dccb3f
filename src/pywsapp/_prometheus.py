"""The numbers of an App as metrics of Prometheus. Needs the extra `prometheus`.

The numbers are read when Prometheus asks for them. `METRICS` is the list of all metrics; their labels have few values:
patterns of routes, registered close codes, names of limits. No user, topic or address is in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from pywsapp._histogram import BOUNDS, HistogramStats
from pywsapp._limits.message_counts import RateLimitStats
from pywsapp._version import __version__
from pywsapp.stats import RouteStats, Stats, WorkerStats

#: A value with the values of its labels.
Value = tuple[tuple[str, ...], Any]
_LAST_BOUND = "+Inf"


class MetricInfo(NamedTuple):
    """One metric.

    Args:
        name: its name; that of a counter ends in `_total`.
        kind: its type.
        labels: the names of its labels.
        meaning: what it counts.
        values: returns its values with those of its labels.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    meaning: str
    values: Callable[[WorkerStats], Iterable[Value]]


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
    """What the encoders take in place of a registry."""

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


def _buckets(histogram: HistogramStats) -> list[tuple[str, float]]:
    """Return the upper bounds of the buckets, each with how many durations were at most so long."""
    number, found = 0, []
    for bound, added in zip((*map(str, BOUNDS), _LAST_BOUND), histogram.buckets, strict=True):
        number += added
        found.append((bound, number))
    return found


# -- where values come from --------------------------------------------------------------------------------------------


def _one(value: Callable[[Stats], Any]) -> Callable[[WorkerStats], Iterable[Value]]:
    """Return a function for a metric without labels."""
    return lambda stats: [((), value(stats.total))]


def _by_key(value: Callable[[Stats], Mapping[Any, int]]) -> Callable[[WorkerStats], Iterable[Value]]:
    """Return a function for a metric whose label is the key of a mapping."""
    return lambda stats: [((str(key),), number) for key, number in value(stats.total).items()]


def _by_route(value: Callable[[RouteStats], Any]) -> Callable[[WorkerStats], Iterable[Value]]:
    """Return a function for a metric whose label is the pattern of a route."""
    return lambda stats: [((pattern,), value(route)) for pattern, route in stats.total.routes.items()]


def _of_broker(name: str) -> Callable[[WorkerStats], Iterable[Value]]:
    """Return a function for a number of the broker, which an App need not have."""

    def value(stats: WorkerStats) -> list[Value]:
        broker = stats.total.topics.broker
        return [] if broker is None else [((), getattr(broker, name))]

    return value


def _closed(stats: WorkerStats) -> list[Value]:
    return [
        ((pattern, code), number)
        for pattern, route in stats.total.routes.items()
        for code, number in route.closed.items()
    ]


def _session_calls(stats: WorkerStats) -> list[Value]:
    return [
        value
        for name, store in stats.total.sessions.items()
        for value in (((name, "ok"), store.calls), ((name, "failed"), store.failures))
    ]


def _rate_limited(stats: WorkerStats) -> list[Value]:
    return [
        ((name, action), getattr(limit, action))
        for name, limit in stats.total.rate_limits.items()
        for action in RateLimitStats._fields
    ]


METRICS: tuple[MetricInfo, ...] = (
    MetricInfo(
        "pywsapp_info", "gauge", ("version",), "The version of pywsapp; always 1", lambda _: [((__version__,), 1)]
    ),
    MetricInfo("pywsapp_workers", "gauge", (), "Workers that there should be", lambda stats: [((), stats.workers)]),
    MetricInfo(
        "pywsapp_workers_missing",
        "gauge",
        (),
        "Workers that have not answered in time, or do not run",
        lambda stats: [((), stats.missing)],
    ),
    MetricInfo(
        "pywsapp_connections",
        "gauge",
        ("route",),
        "Open WebSockets and event streams",
        _by_route(lambda route: route.open_connections),
    ),
    MetricInfo(
        "pywsapp_admitted_connections",
        "gauge",
        (),
        "Connections that count against max_connections, plain requests included",
        _one(lambda stats: stats.open_connections),
    ),
    MetricInfo(
        "pywsapp_pending_connections",
        "gauge",
        (),
        "Accepted sockets without a complete request",
        _one(lambda stats: stats.pending_connections),
    ),
    MetricInfo(
        "pywsapp_accepted_sockets_total",
        "counter",
        (),
        "Accepted sockets",
        _one(lambda stats: stats.accepted_connections),
    ),
    MetricInfo(
        "pywsapp_evicted_sockets_total",
        "counter",
        (),
        "Pending connections that made place for others",
        _one(lambda stats: stats.evicted_connections),
    ),
    MetricInfo(
        "pywsapp_handshakes_total",
        "counter",
        ("route",),
        "Accepted handshakes and event streams",
        _by_route(lambda route: route.handshakes),
    ),
    MetricInfo(
        "pywsapp_refused_total",
        "counter",
        ("status",),
        "Refused handshakes and requests by the HTTP status of the answer",
        _by_key(lambda stats: stats.refused),
    ),
    MetricInfo(
        "pywsapp_closed_connections_total",
        "counter",
        ("route", "code"),
        "Ended connections by their close code",
        _closed,
    ),
    MetricInfo(
        "pywsapp_messages_received_total",
        "counter",
        ("route",),
        "Messages that have arrived",
        _by_route(lambda route: route.messages_received),
    ),
    MetricInfo(
        "pywsapp_received_bytes_total",
        "counter",
        ("route",),
        "Bytes that have arrived after the handshakes, in frames of all kinds",
        _by_route(lambda route: route.bytes_received),
    ),
    MetricInfo(
        "pywsapp_messages_sent_total",
        "counter",
        ("route",),
        "Messages that were queued to be sent, a broadcast once for each receiver",
        _by_route(lambda route: route.messages_sent),
    ),
    MetricInfo(
        "pywsapp_sent_bytes_total",
        "counter",
        ("route",),
        "Bytes of the frames of sent messages",
        _by_route(lambda route: route.bytes_sent),
    ),
    MetricInfo(
        "pywsapp_messages_dropped_total",
        "counter",
        ("route",),
        "Messages that were dropped because their client reads too slowly",
        _by_route(lambda route: route.messages_dropped),
    ),
    MetricInfo(
        "pywsapp_handler_seconds",
        "histogram",
        ("route",),
        "Time of on_message, until an async def has ended",
        _by_route(lambda route: route.handler_seconds),
    ),
    MetricInfo(
        "pywsapp_ping_seconds",
        "histogram",
        ("route",),
        "Time until clients answered a ping of the keepalive",
        _by_route(lambda route: route.ping_seconds),
    ),
    MetricInfo(
        "pywsapp_loop_lag_seconds",
        "histogram",
        (),
        "By how much the event loop was late, measured four times a second",
        _one(lambda stats: stats.loop_lag),
    ),
    MetricInfo(
        "pywsapp_queued_messages",
        "gauge",
        (),
        "Messages that wait for a busy handler",
        _one(lambda stats: stats.queued_messages),
    ),
    MetricInfo("pywsapp_queued_bytes", "gauge", (), "Bytes of these messages", _one(lambda stats: stats.queued_bytes)),
    MetricInfo(
        "pywsapp_outbox_bytes",
        "gauge",
        (),
        "Bytes of frames that wait in the outboxes of connections",
        _one(lambda stats: stats.outbox_bytes),
    ),
    MetricInfo(
        "pywsapp_slow_connections",
        "gauge",
        (),
        "Connections whose client does not read fast enough now",
        _one(lambda stats: stats.slow_connections),
    ),
    MetricInfo(
        "pywsapp_limits_exceeded_total",
        "counter",
        ("limit",),
        "How often a limit was exceeded, by the name of the option",
        _by_key(lambda stats: stats.limits),
    ),
    MetricInfo(
        "pywsapp_rate_limited_total",
        "counter",
        ("name", "action"),
        "What each RateLimit has done: delayed, dropped, closed, dropped_control_frames",
        _rate_limited,
    ),
    MetricInfo(
        "pywsapp_topics",
        "gauge",
        (),
        "Topics with subscribers, counted once in each worker",
        _one(lambda stats: stats.topics.topics),
    ),
    MetricInfo(
        "pywsapp_subscriptions",
        "gauge",
        (),
        "Subscriptions of connections",
        _one(lambda stats: stats.topics.subscriptions),
    ),
    MetricInfo(
        "pywsapp_present_users",
        "gauge",
        (),
        "Users that are present in topics, once in each topic and worker",
        _one(lambda stats: stats.topics.present),
    ),
    MetricInfo(
        "pywsapp_histories",
        "gauge",
        (),
        "Topics whose messages the workers or the supervisor keep",
        _one(lambda stats: stats.topics.histories),
    ),
    MetricInfo(
        "pywsapp_history_bytes",
        "gauge",
        (),
        "Bytes of these messages",
        _one(lambda stats: stats.topics.history_bytes),
    ),
    MetricInfo(
        "pywsapp_session_calls_total",
        "counter",
        ("store", "result"),
        "Calls of the stores of sessions: ok, or failed",
        _session_calls,
    ),
    MetricInfo(
        "pywsapp_unreadable_sessions_total",
        "counter",
        ("store",),
        "Sessions that could not be read, and counted as empty",
        _by_key(lambda stats: {name: store.unreadable for name, store in stats.sessions.items()}),
    ),
    MetricInfo(
        "pywsapp_envelopes_dropped_total",
        "counter",
        (),
        "Envelopes from the broker that could not be decoded",
        _one(lambda stats: stats.topics.dropped),
    ),
    MetricInfo(
        "pywsapp_history_losses_total",
        "counter",
        (),
        "How often messages of a topic with a history were lost",
        _one(lambda stats: stats.topics.lost),
    ),
    MetricInfo(
        "pywsapp_skipped_calls_total",
        "counter",
        (),
        "Calls of listeners and watchers of topics that were skipped, because their queue was full",
        _one(lambda stats: stats.topics.skipped),
    ),
    MetricInfo(
        "pywsapp_broker_connected", "gauge", (), "Workers that are connected to the broker", _of_broker("connected")
    ),
    MetricInfo(
        "pywsapp_broker_connects_total",
        "counter",
        (),
        "Connections to the broker that were made",
        _of_broker("connects"),
    ),
    MetricInfo(
        "pywsapp_broker_published_total",
        "counter",
        (),
        "Messages that the broker has accepted",
        _of_broker("published"),
    ),
    MetricInfo(
        "pywsapp_broker_failed_total", "counter", (), "Messages that the broker has not accepted", _of_broker("failed")
    ),
    MetricInfo(
        "pywsapp_broker_received_total",
        "counter",
        (),
        "Messages that the broker has delivered, own ones included",
        _of_broker("received"),
    ),
    MetricInfo(
        "pywsapp_broker_pending_messages", "gauge", (), "Messages that wait for the broker", _of_broker("pending")
    ),
    MetricInfo(
        "pywsapp_broker_lag_seconds",
        "gauge",
        (),
        "How long the oldest message has waited for the broker, in steps of 0.25 seconds",
        _of_broker("lag"),
    ),
    MetricInfo("pywsapp_memory_bytes", "gauge", (), "Memory of all workers", _one(lambda stats: stats.process.memory)),
    MetricInfo(
        "pywsapp_cpu_seconds_total",
        "counter",
        (),
        "Processor time of all workers",
        _one(lambda stats: stats.process.cpu_seconds),
    ),
    MetricInfo("pywsapp_tasks", "gauge", (), "Tasks of the event loops", _one(lambda stats: stats.process.tasks)),
)
