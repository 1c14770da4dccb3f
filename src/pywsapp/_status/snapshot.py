"""The content of the status page: the sums of the reports of all processes, and rates per second."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pywsapp._histogram import BOUNDS, HistogramStats
from pywsapp._process.stats_messages import added
from pywsapp._status.reports import (
    FULLEST_CONNECTIONS,
    MAX_ERRORS,
    MAX_TOPICS,
    NEWEST_CONNECTIONS,
    OTHER_ROUTES,
    Report,
    mean_seconds,
)
from pywsapp.stats import RouteStats, Stats

MAX_HANDLERS = 20
MAX_ROUTES = 50
_MAX_CONNECTIONS = NEWEST_CONNECTIONS + FULLEST_CONNECTIONS
_OF_ROUTES = ("handshakes", "messages_received", "bytes_received", "messages_sent", "bytes_sent")
#: The shortest time between two reports; another process could report any.
_MIN_SECONDS = 0.001
_Rates = dict[str, float]


class RateMeter:
    """Computes the rates of each process from two reports. Counters of a process never decrease while it runs."""

    def __init__(self) -> None:
        self._last: dict[str, Report] = {}
        self._found: dict[str, tuple[_Rates, dict[str, _Rates], float | None]] = {}

    def update(self, reports: Mapping[str, Report]) -> None:
        """Note the newest report of each process; a process that has none any more is dropped."""
        for process, report in reports.items():
            last = self._last.get(process)
            if last is None or report.at > last.at:
                self._found[process] = ({}, {}, None) if last is None else _compared(last, report)
        self._last = dict(reports)
        self._found = {process: found for process, found in self._found.items() if process in reports}

    def of_process(self, process: str) -> _Rates:
        """Return the rates of a process per second; empty after its first report."""
        return self._found[process][0]

    def lag_of(self, process: str) -> float | None:
        """Return by how much the event loop of a process was late between two reports, in seconds; None if unknown."""
        return self._found[process][2]

    def total(self) -> _Rates:
        """Return the rates of all processes together."""
        return _summed(found[0] for found in self._found.values())

    def of_route(self, pattern: str) -> _Rates:
        """Return the rates of a route in all processes together."""
        return _summed(found[1].get(pattern, {}) for found in self._found.values())


def _summed(rates: Iterable[_Rates]) -> _Rates:
    total: Counter[str] = Counter()
    for one in rates:
        total.update(one)
    return dict(total)


def _compared(last: Report, new: Report) -> tuple[_Rates, dict[str, _Rates], float | None]:
    """Return the rates between two reports of one process: its own and those of its routes; and the lag of its loop."""
    seconds, before = max(new.at - last.at, _MIN_SECONDS), last.stats.routes

    def rate(pattern: str, route: RouteStats, name: str) -> float:
        from_others = pattern == OTHER_ROUTES or OTHER_ROUTES in before  # with all that it has counted
        known = before.get(pattern, route if from_others else None)
        new_count: int = getattr(route, name) - getattr(known, name, 0)
        return max(0.0, new_count / seconds)

    routes = {
        pattern: {name: rate(pattern, route, name) for name in _OF_ROUTES}
        for pattern, route in new.stats.routes.items()
    }
    cpu = max(0.0, (new.stats.process.cpu_seconds - last.stats.process.cpu_seconds) / seconds)
    return {**_summed(routes.values()), "cpu": cpu}, routes, _longest(last.stats.loop_lag, new.stats.loop_lag)


def _longest(last: HistogramStats | None, new: HistogramStats | None) -> float | None:
    """Return the upper bound of the longest duration between two histograms."""
    if last is None or new is None:
        return None
    added_since = [one > other for one, other in zip(new.buckets, last.buckets, strict=True)]
    longest = max((number for number, is_added in enumerate(added_since) if is_added), default=None)
    return None if longest is None else _bound(longest)


def _bound(bucket: int) -> float:
    return BOUNDS[min(bucket, len(BOUNDS) - 1)]


def snapshot_of(reports: Mapping[str, Report], rates: RateMeter, late: Mapping[str, float]) -> dict[str, Any]:
    """Return what a page shows, as values for JSON.

    Args:
        reports: the newest report of each process.
        rates: the rates, which have these reports.
        late: the processes that have not answered, with the seconds since their last report.
    """
    total: Stats = added(report.stats for report in reports.values())
    routes = sorted(
        total.routes.items(), key=lambda item: (item[0] == OTHER_ROUTES, -item[1].open_connections, item[0])
    )
    shown = routes[:MAX_ROUTES] + [item for item in routes[MAX_ROUTES:] if item[0] == OTHER_ROUTES]
    broker = total.topics.broker
    return {
        "type": "snapshot",
        "time": time.time(),
        "total": _totals(total),
        "rates": rates.total(),
        "lag": max((lag for lag in map(rates.lag_of, reports) if lag is not None), default=None),
        "workers": [_worker(process, report, rates, late) for process, report in sorted(reports.items(), key=_place)],
        "routes": [_route(pattern, route, rates.of_route(pattern)) for pattern, route in shown],
        "handlers": _handlers(total.routes),
        "topics": _topics(reports.values()),
        "connections": _connections(reports),
        "broker": None if broker is None else broker._asdict(),
        "limits": {name: count for name, count in total.limits.items() if count},
        "rate_limits": {name: limit._asdict() for name, limit in total.rate_limits.items()},
        "refused": {str(status): count for status, count in total.refused.items()},
        "closed": dict(added(route.closed for route in total.routes.values()) or {}),
        "errors": _errors(reports),
    }


def _totals(total: Stats) -> dict[str, Any]:
    routes = total.routes.values()
    return {
        "connections": sum(route.open_connections for route in routes),
        "pending": total.pending_connections,
        "routes": len(total.routes),
        "handshakes": total.handshakes,
        "accepted": total.accepted_connections,
        "messages_received": sum(route.messages_received for route in routes),
        "messages_sent": sum(route.messages_sent for route in routes),
        "messages_dropped": sum(route.messages_dropped for route in routes),
        "topics": total.topics.topics,
        "subscriptions": total.topics.subscriptions,
        "queued_messages": total.queued_messages,
        "outbox_bytes": total.outbox_bytes,
        "slow_connections": total.slow_connections,
        "memory": total.process.memory,
        "tasks": total.process.tasks,
    }


def _place(item: tuple[str, Report]) -> tuple[str, int, int]:
    """Return what orders the processes: the machine, the number of the worker, the number of the process."""
    return item[1].host, item[1].worker, item[1].pid


def _worker(process: str, report: Report, rates: RateMeter, late: Mapping[str, float]) -> dict[str, Any]:
    stats, own = report.stats, rates.of_process(process)
    return {
        "process": process,
        "pid": report.pid,
        "host": report.host,
        "worker": report.worker,
        "connections": sum(route.open_connections for route in stats.routes.values()),
        "memory": stats.process.memory,
        "cpu": own.get("cpu"),
        "lag": rates.lag_of(process),
        "late": late.get(process),
    }


def _route(pattern: str, route: RouteStats, rates: _Rates) -> dict[str, Any]:
    return {
        "route": pattern,
        "connections": route.open_connections,
        "handshakes": route.handshakes,
        "received": route.messages_received,
        "sent": route.messages_sent,
        "dropped": route.messages_dropped,
        "receiving": rates.get("messages_received", 0.0),
        "sending": rates.get("messages_sent", 0.0),
    }


def _handlers(routes: Mapping[str, RouteStats]) -> list[dict[str, Any]]:
    """Return the routes whose handlers take the longest on average, the slowest first."""
    found: list[dict[str, Any]] = [
        {
            "route": pattern,
            "calls": sum(times.buckets),
            "mean": mean_seconds(route),
            "p99": _percentile(times, 0.99),
        }
        for pattern, route in routes.items()
        if (times := route.handler_seconds) is not None and any(times.buckets)
    ]
    return sorted(found, key=lambda one: -one["mean"])[:MAX_HANDLERS]


def _percentile(times: HistogramStats, share: float) -> float:
    """Return the upper bound of the bucket below which a share of the durations is."""
    count, wanted = 0, share * sum(times.buckets)
    for bucket, number in enumerate(times.buckets):
        count += number
        if count >= wanted:
            return _bound(bucket)
    return BOUNDS[-1]


def _topics(reports: Iterable[Report]) -> list[list[Any]]:
    """Return the topics with the most subscribers in all processes, with how many they are."""
    counts: Counter[str] = Counter()
    for report in reports:
        for name, subscribers in report.topics:
            counts[name] += subscribers
    return [[name, count] for name, count in counts.most_common(MAX_TOPICS)]


def _connections(reports: Mapping[str, Report]) -> list[dict[str, Any]]:
    """Return connections of all processes, the newest first, as far as their age is known."""
    rows = [
        {"process": process, "worker": report.worker, "pid": report.pid, **row._asdict()}
        for process, report in reports.items()
        for row in report.connections
    ]
    fullest = sorted((row for row in rows if row["buffered"]), key=lambda row: -row["buffered"])[:FULLEST_CONNECTIONS]
    rows.sort(key=lambda row: (row["seconds"] or 0.0, -row["id"]))
    chosen = rows[:NEWEST_CONNECTIONS]
    return (chosen + [row for row in fullest if row not in chosen])[:_MAX_CONNECTIONS]


def _errors(reports: Mapping[str, Report]) -> list[dict[str, Any]]:
    """Return the last lines of the logs of all processes, the newest first."""
    rows = [{"pid": report.pid, **row._asdict()} for report in reports.values() for row in report.errors]
    return sorted(rows, key=lambda row: -row["time"])[:MAX_ERRORS]
