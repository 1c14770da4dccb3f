"""The lines of one view of `pywsapp top`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from pywsapp.cli.metrics_text import Change, Reading
from pywsapp.cli.tables import safe, table

#: Routes, close codes and limits of a view.
_MAX_ROWS = 15
_COUNTERS = (
    ("handshakes", "pywsapp_handshakes_total", False),
    ("messages in", "pywsapp_messages_received_total", False),
    ("messages out", "pywsapp_messages_sent_total", False),
    ("bytes in", "pywsapp_received_bytes_total", True),
    ("bytes out", "pywsapp_sent_bytes_total", True),
    ("dropped messages", "pywsapp_messages_dropped_total", False),
    ("refused requests", "pywsapp_refused_total", False),
)


def view(url: str, change: Change, *, note: str = "") -> list[str]:
    """Return the lines of a view.

    Args:
        url: where the numbers come from.
        change: the numbers.
        note: what the user must know about them.
    """
    now = change.now
    head = f"{safe(url)}  {time.strftime('%H:%M:%S')}"
    blocks = [[head, *([safe(note)] if note else [])], _summary(now, change), _counters(change), _routes(change)]
    closed = now.by("pywsapp_closed_connections_total", "code")
    blocks.append(
        _counts("CLOSE CODE", closed, lambda code: change.rate("pywsapp_closed_connections_total", code=code))
    )
    limits = {name: value for name, value in now.by("pywsapp_limits_exceeded_total", "limit").items() if value}
    blocks.append(_counts("LIMIT", limits, lambda name: change.rate("pywsapp_limits_exceeded_total", limit=name)))
    lines: list[str] = []
    for block in filter(None, blocks):
        lines += [*([""] if lines else []), *block]
    return lines


def _summary(now: Reading, change: Change) -> list[str]:
    workers, missing = now.sum("pywsapp_workers"), now.sum("pywsapp_workers_missing")
    cpu = change.rate("pywsapp_cpu_seconds_total")
    rows = [
        (
            "connections",
            f"{number(now.sum('pywsapp_connections'))} open, {number(now.sum('pywsapp_pending_connections'))} without "
            f"a request, {number(now.sum('pywsapp_slow_connections'))} slow",
        ),
        ("workers", f"{workers - missing:.0f} of {workers:.0f}"),
        (
            "resources",
            f"{size(now.sum('pywsapp_memory_bytes'))}, {'-' if cpu is None else f'{cpu:.0%}'} of a core, "
            f"{number(now.sum('pywsapp_tasks'))} tasks",
        ),
        ("event loop", _late(change)),
        (
            "topics",
            f"{number(now.sum('pywsapp_topics'))}, {number(now.sum('pywsapp_subscriptions'))} subscriptions",
        ),
        (
            "waiting",
            f"{number(now.sum('pywsapp_queued_messages'))} messages for handlers, "
            f"{size(now.sum('pywsapp_outbox_bytes'))} for clients",
        ),
    ]
    if now.has("pywsapp_broker_connected"):
        rows.append(
            (
                "broker",
                f"{number(now.sum('pywsapp_broker_connected'))} connected, "
                f"{rate(change.rate('pywsapp_broker_published_total'))}/s out, "
                f"{rate(change.rate('pywsapp_broker_received_total'))}/s in, "
                f"{number(now.sum('pywsapp_broker_pending_messages'))} waiting",
            )
        )
    return [f"{name:<12} {text}" for name, text in rows]


def _late(change: Change) -> str:
    longest = change.longest("pywsapp_loop_lag_seconds")
    if longest is None:
        return "-"
    return "late by more than 10 s" if longest == math.inf else f"late by up to {duration(longest)}"


def _counters(change: Change) -> list[str]:
    rows = []
    for name, counter, is_bytes in _COUNTERS:
        show = size if is_bytes else rate
        per_second = change.rate(counter)
        rows.append(
            [
                name,
                "-" if per_second is None else show(per_second),
                (size if is_bytes else number)(change.now.sum(counter)),
            ]
        )
    return table(["", "PER SECOND", "IN ALL"], rows, numbers=[1, 2]).splitlines()


def _routes(change: Change) -> list[str]:
    opened = change.now.by("pywsapp_connections", "route")
    chosen = sorted(opened.items(), key=lambda item: (-item[1], item[0]))[:_MAX_ROWS]
    rows = [
        [
            route,
            number(count),
            rate(change.rate("pywsapp_messages_received_total", route=route)),
            rate(change.rate("pywsapp_messages_sent_total", route=route)),
            _mean(change.now, route),
        ]
        for route, count in chosen
    ]
    return table(["ROUTE", "OPEN", "IN/S", "OUT/S", "HANDLER"], rows, numbers=[1, 2, 3, 4]).splitlines() if rows else []


def _mean(now: Reading, route: str) -> str:
    calls = now.sum("pywsapp_handler_seconds_count", route=route)
    return duration(now.sum("pywsapp_handler_seconds_sum", route=route) / calls) if calls else "-"


def _counts(head: str, counts: dict[str, float], rate_of: Callable[[str], float | None]) -> list[str]:
    chosen = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MAX_ROWS]
    rows = [[name, rate(rate_of(name)), number(count)] for name, count in chosen]
    return table([head, "PER SECOND", "IN ALL"], rows, numbers=[1, 2]).splitlines() if rows else []


# -- numbers as text ---------------------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Return a whole number as text."""
    return f"{value:,.0f}" if math.isfinite(value) else "-"


def rate(value: float | None) -> str:
    """Return a number per second as text; "-" if it is not known."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.1f}" if 0 < value < 100 else f"{value:,.0f}"


def size(value: float) -> str:
    """Return a number of bytes as text."""
    if not math.isfinite(value):
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def duration(seconds: float) -> str:
    """Return a time as text."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1000:.3g} ms"
