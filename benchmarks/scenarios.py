"""The scenarios: the load of each one, and the figures that are read from its runs."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Run = dict[str, Any]  # one run: the output of wsload with some additions, or {"failure": the reason}

PLAIN = "plain"
DEFLATE = "deflate"  # with permessage-deflate
TLS = "tls"
FRESH = "fresh"  # a new server for each scenario


@dataclass(frozen=True)
class Metric:
    """One figure of a run.

    Args:
        suffix: distinguishes the figures of one scenario; empty for the first.
        title: the head of its column, with the unit.
        read: returns the figure of a run that did not fail.
        less_is_better: true for times and memory.
    """

    suffix: str
    title: str
    read: Callable[[Run], float | None]
    less_is_better: bool = False

    def of(self, run: Run) -> float | None:
        """Return the figure; None if the run failed or the server declined compression."""
        if "failure" in run or run.get("deflate") == "declined":
            return None
        return self.read(run)


def _rate(run: Run) -> float:
    return float(run["rate"])


def cpu_per_message(run: Run) -> float:
    """Return the processor time of the server for each message, or each delivery of a broadcast, in µs."""
    return float(run["server_cpu_pct"]) * 1e4 / float(run["rate"])


def _rss(run: Run) -> float:
    return float(run["rss_bytes_per_conn"]) / 1024


def _quantile(histogram: str, quantile: str) -> Callable[[Run], float | None]:
    def read(run: Run) -> float | None:
        value = run.get(histogram, {}).get(quantile)
        return None if value is None else float(value)

    return read


@dataclass(frozen=True)
class Scenario:
    """One load on a server.

    Args:
        name: its name in the command line and in the results.
        section: the table that it belongs to.
        options: the options of wsload.
        metrics: the figures; budgets and the chart refer to the first one by the name of the scenario.
        instance: the state of the server that it needs.
        longer: a factor for the measured time, for scenarios with few events in a second.
    """

    name: str
    section: str
    options: str
    metrics: tuple[Metric, ...]
    instance: str = PLAIN
    longer: float = 1

    @property
    def arguments(self) -> list[str]:
        return shlex.split(self.options)


ECHO = "Echo of small messages, messages/s"
LARGE = "Echo of large messages, messages/s"
FIXED = "Echo of 64 B at a fixed 5,000 messages/s"
BROADCAST = "Broadcast, deliveries/s"
FANOUT = "Broadcast at a fixed 10,000 deliveries/s: the time to the last delivery, µs"
COMPRESSION = "Compression (permessage-deflate)"
HANDSHAKES = "Handshakes/s"
MEMORY = "Memory of an idle connection, of 2,000"

_FAN = "--mode broadcast --path /chat"
_DEFLATED = f"{_FAN} --size 256 --window 8 --deflate"


def _rates(name: str, section: str, title: str, options: str, instance: str = PLAIN) -> Scenario:
    return Scenario(name, section, options, (Metric("", title, _rate),), instance)


def _fanout(name: str, title: str, options: str) -> Scenario:
    metrics = tuple(
        Metric(suffix, f"{title}, {quantile}", _quantile("fanout_us", quantile), less_is_better=True)
        for suffix, quantile in (("", "p50"), ("p99", "p99"))
    )
    return Scenario(name, FANOUT, options, metrics, longer=2)


def _memory(name: str, title: str, options: str) -> Scenario:
    return Scenario(name, MEMORY, options, (Metric("", title, _rss, less_is_better=True),), FRESH)


ALL = (
    _rates("echo16", ECHO, "16 B", "--size 16 --conns 64"),
    _rates("echo16x16", ECHO, "16 B, 16 in flight", "--size 16 --conns 64 --pipeline 16"),
    _rates("echo1k", ECHO, "1 KiB", "--size 1024 --conns 64"),
    _rates("echo1k-utf8", ECHO, "1 KiB, not ASCII", "--size 1024 --conns 64 --utf8"),
    _rates("echo64k", LARGE, "64 KiB", "--size 65536 --conns 16 --binary"),
    _rates("echo1m", LARGE, "1 MiB", "--size 1048576 --conns 4 --binary"),
    Scenario(
        "rate5k",
        FIXED,
        "--size 64 --conns 64 --rate 5000",
        (
            Metric("", "CPU, µs/message", cpu_per_message, less_is_better=True),
            Metric("p50", "p50, µs", _quantile("latency_us", "p50"), less_is_better=True),
            Metric("p99", "p99, µs", _quantile("latency_us", "p99"), less_is_better=True),
            Metric("p999", "p99.9, µs", _quantile("latency_us", "p999"), less_is_better=True),
        ),
    ),
    _rates("bcast500", BROADCAST, "to 500", f"{_FAN} --size 64 --conns 500 --window 8"),
    _rates("bcast2000", BROADCAST, "to 2,000", f"{_FAN} --size 64 --conns 2000 --window 8"),
    _rates("bcast500-deflate", BROADCAST, "to 500, deflate", f"{_DEFLATED} --conns 500", DEFLATE),
    _rates(
        "bcast2000-deflate",
        BROADCAST,
        "to 2,000, deflate",
        f"{_DEFLATED} --conns 2000",
        DEFLATE,
    ),
    _fanout("bcastlat500", "to 500", f"{_FAN} --size 64 --conns 500 --rate 20"),
    _fanout("bcastlat2000", "to 2,000", f"{_FAN} --size 64 --conns 2000 --rate 5"),
    _rates("deflate1k", COMPRESSION, "echo 1 KiB, messages/s", "--size 1024 --conns 64 --deflate", DEFLATE),
    _rates(
        "deflate1k-takeover",
        COMPRESSION,
        "with context takeover",
        "--size 1024 --conns 64 --deflate-takeover",
        DEFLATE,
    ),
    _rates("connect", HANDSHAKES, "plain", "--mode connect --concurrency 32"),
    _rates("connect-tls", HANDSHAKES, "TLS", "--mode connect --concurrency 32 --tls", TLS),
    _memory("idle2000", "fresh, KiB", "--mode idle --conns 2000"),
    _memory("idle2000-used", "after an echo of 1 KiB, KiB", "--mode idle --conns 2000 --touch --size 1024"),
)
BY_NAME = {scenario.name: scenario for scenario in ALL}

QUICK = ("echo16", "echo16x16", "echo1k", "echo64k", "rate5k", "bcast500", "connect", "idle2000")
MEDIUM = tuple(name for name in BY_NAME if name not in ("bcast2000-deflate", "deflate1k-takeover", "idle2000-used"))
LONG = tuple(BY_NAME)


def metric_key(scenario: Scenario, metric: Metric) -> str:
    """Return the name of a figure, such as "echo16" or "rate5k.p99"."""
    return f"{scenario.name}.{metric.suffix}" if metric.suffix else scenario.name


METRICS = {metric_key(scenario, metric): (scenario, metric) for scenario in ALL for metric in scenario.metrics}
