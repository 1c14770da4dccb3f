"""`pywsapp bench`: measure a server, and report what distorts the numbers."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pywsapp.cli.connect import add_client_options, headers_of, keywords_of, shown, url_of
from pywsapp.cli.numbers import bytes_number, count, positive, seconds
from pywsapp.cli.output import folded, width_of_terminal, write
from pywsapp.cli.parser import add_command
from pywsapp.cli.tables import safe, table

if TYPE_CHECKING:
    from pywsapp.cli.latencies import Latencies
    from pywsapp.cli.load import Plan, Progress, Result

_PERCENTILES = (50, 75, 90, 95, 99, 99.9)
#: The share of a core from which on the load generator itself counts as the bottleneck.
_BUSY = 0.85
#: Its event loop is too late if 1 % of the delays exceed this, in nanoseconds, and this share of the latencies.
_LATE, _LATE_SHARE = 2_000_000, 0.25
#: The share of the messages of a rate that must have been sent.
_KEPT_RATE = 0.95
_BAR = 20  # characters
_INDENT = 13  # of further lines of the sums


def add_to(commands: Any) -> None:
    """Add the command to the command line."""
    command = add_command(
        commands,
        "bench",
        _act,
        help="measure the latency and the throughput of a server",
        description="Send messages to a server that answers or broadcasts them, and measure the latency and the "
        "throughput. Without --rate each connection sends its next message when its reply has come",
        epilog="Test only servers that are yours. Size and rate have limits where the load generator becomes the "
        "bottleneck; the result says so then.",
    )
    add_client_options(command)
    command.add_argument("--connections", type=count, default=10, metavar="NUMBER", help="how many connections (10)")
    command.add_argument("--rate", type=positive, metavar="NUMBER", help="messages per second, of all connections")
    command.add_argument("--broadcast", action="store_true", help="one connection sends, and all get each message")
    command.add_argument("--duration", type=positive, default=10.0, metavar="SECONDS", help="how long to measure (10)")
    command.add_argument(
        "--warm-up", type=seconds, default=2.0, metavar="SECONDS", help="how long to send before the measurement (2)"
    )
    command.add_argument(
        "--size", type=bytes_number, default=64, metavar="BYTES", help="the size of a message, from 18 on (64)"
    )
    command.add_argument("--message", metavar="TEXT", help="the message, in which %%s stands for the mark of bench")
    command.add_argument("--binary", action="store_true", help="send binary messages")
    command.add_argument("--json", action="store_true", help="write JSON")


def _act(chosen: argparse.Namespace) -> int:
    import anyio

    from pywsapp._event_loop import loop_options
    from pywsapp.cli.load import Load

    plan = _plan(chosen)
    load = Load(plan, _progress_bar(plan))
    previous = signal.signal(signal.SIGINT, lambda *_: load.stop())
    try:
        result = anyio.run(load.run, backend="asyncio", backend_options=loop_options("asyncio", None))
    finally:
        signal.signal(signal.SIGINT, previous)
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
    if chosen.json:
        write(json.dumps(_as_json(plan, result), indent=2) + "\n")
    else:
        write(_text(plan, result))
    return 130 if result.is_interrupted else int(not result.answered or bool(result.failures) or bool(result.closed))


def _plan(chosen: argparse.Namespace) -> Plan:
    from dataclasses import replace

    from pywsapp.cli.load import MARK_SIZE, Plan
    from pywsapp.options import Options

    if chosen.size < MARK_SIZE:
        chosen.parser.error(f"argument --size: must be {MARK_SIZE} or more, for the mark that finds the reply")
    if chosen.message is not None and chosen.message.count("%s") != 1:
        chosen.parser.error("argument --message: must have %s once, for the mark that finds the reply")
    if chosen.message is not None and any("\ud800" <= char <= "\udfff" for char in chosen.message):
        chosen.parser.error("argument --message: must be text in UTF-8")
    connect = keywords_of(chosen)
    # A server that reads too slowly must show as late replies, not as an end of the connection.
    options = replace(connect.get("options") or Options(), max_outbox=256 << 20)
    return Plan(
        url=url_of(chosen),
        connect={**connect, "options": options},
        headers=headers_of(chosen),
        connections=chosen.connections,
        rate=(chosen.rate or 10.0) if chosen.broadcast else chosen.rate,
        broadcast=chosen.broadcast,
        template=chosen.message,
        size=chosen.size,
        is_binary=chosen.binary,
        duration=chosen.duration,
        warm_up=chosen.warm_up,
    )


def _progress_bar(plan: Plan) -> Callable[[Progress], None]:
    def show(progress: Progress) -> None:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80  # 0 if the terminal has no size
        sys.stderr.write(f"\r\x1b[K{_progress_text(plan, progress)[: columns - 1]}")
        sys.stderr.flush()

    return show if sys.stderr.isatty() else lambda progress: None


def _progress_text(plan: Plan, progress: Progress) -> str:
    if progress.passed is None:
        failed = f", {progress.failed:,} failed" if progress.failed else ""
        return f"opening connections: {progress.opened:,} of {plan.connections:,}{failed}"
    total = plan.warm_up + plan.duration
    done = min(int(progress.passed / total * _BAR), _BAR)
    phase = "warm-up" if progress.passed < plan.warm_up else f"{progress.answered:,} replies"
    return f"[{'#' * done}{'.' * (_BAR - done)}] {min(progress.passed, total):.1f}/{total:g} s  {phase}"


def _expected(plan: Plan, result: Result) -> int:
    return result.sent * (plan.connections if plan.broadcast else 1)


def _size(plan: Plan) -> int:
    message = plan.message(0)
    return len(message.encode() if isinstance(message, str) else message)


def _text(plan: Plan, result: Result) -> str:
    width = width_of_terminal()
    lines = [folded(_head(plan, result), width), "\n"]
    if result.latencies.count:
        rows = [[f"p{percent:g}", _ms(result.latencies.percentile(percent))] for percent in _PERCENTILES]
        rows.append(["max", _ms(result.latencies.max)])
        lines += [table(["LATENCY", "MS"], rows, numbers=[1]), "\n"]
    lines += [folded(text, width, indent=_INDENT) for text in _sums(plan, result)]
    reasons = [f"{number:,} x {safe(reason)}" for reason, number in result.failures.most_common(5)]
    reasons += [f"{number:,} x {_close_name(code)}" for code, number in result.closed.most_common(5)]
    lines += [folded(f"    {text}", width, indent=8) for text in reasons]
    generator = (
        f"generator    {_share(result):.0%} of one core, its event loop late by {_ms(result.lags.percentile(99))} ms "
        f"(p99), {_ms(result.lags.max)} ms (max)"
    )
    lines.append(folded(generator, width, indent=_INDENT))
    lines += [folded(f"warning: {safe(text)}", width, indent=4) for text in _warnings(plan, result)]
    lines += [folded(f"note: {safe(text)}", width, indent=4) for text in _notes(plan, result)]
    return "".join(lines)


def _head(plan: Plan, result: Result) -> str:
    if plan.broadcast:
        how = f"{plan.rate:g} broadcasts per second"
    elif plan.rate is None:
        how = "one message after the other on each"
    else:
        how = f"{plan.rate:g} messages per second together"
    return (
        f"{shown(plan.url)}: {_number(plan.connections, 'connection')}, {how}, {_size(plan):,} bytes each, "
        f"{result.seconds:.1f} s after {plan.warm_up:g} s of warm-up"
    )


def _sums(plan: Plan, result: Result) -> list[str]:
    per_second = result.answered / result.seconds if result.seconds else 0
    unanswered = _expected(plan, result) - result.answered
    opened = result.handshakes
    return [
        f"throughput   {per_second:,.0f} {'deliveries' if plan.broadcast else 'replies'}/s, "
        f"{per_second * _size(plan) / 1e6:,.1f} MB/s of content",
        f"messages     {result.sent:,} sent, {result.answered:,} {'delivered' if plan.broadcast else 'answered'}, "
        f"{unanswered:,} missing after {_grace():g} s, {result.others:,} others received",
        f"connections  {opened.count:,} opened (p50 {_ms(opened.percentile(50))} ms, max {_ms(opened.max)} ms), "
        f"{sum(result.failures.values()):,} failed, {sum(result.closed.values()):,} closed by the server",
    ]


def _warnings(plan: Plan, result: Result) -> list[str]:
    """Return why the numbers can be wrong."""
    found = []
    if _share(result) >= _BUSY:
        found.append(
            f"the load generator used {_share(result):.0%} of one core, so it was the bottleneck: "
            "the server can do more, and several load generators on other machines show it"
        )
    late = result.lags.percentile(99)
    if late > max(_LATE, _LATE_SHARE * result.latencies.percentile(99)):
        found.append(
            f"the event loop of the load generator was late by {_ms(late)} ms (p99), and the latencies contain this: "
            "lower the rate or the connections, or give it a processor of its own"
        )
    if plan.rate is not None and not result.is_interrupted and result.sent < _KEPT_RATE * plan.rate * result.seconds:
        found.append(
            f"only {result.sent / max(result.seconds, 1e-9):,.0f} of {plan.rate:g} messages per second were sent"
        )
    if result.handshakes.count and not result.seconds and not result.is_interrupted:
        found.append("nothing was measured, because the server closed all connections before the end of the warm-up")
    if result.sent and not result.answered:
        found.append("no reply had the mark of a message: the server must send messages back, or use --broadcast")
    return found


def _notes(plan: Plan, result: Result) -> list[str]:
    """Return what the numbers do not show."""
    found = []
    if plan.rate is None and result.answered:
        found.append(
            "without --rate a connection waits for its reply, so a server that stalls gets fewer messages, and the "
            "percentiles look better than what users see"
        )
    if any(f"//{host}" in plan.url for host in ("localhost", "127.", "[::1]")):
        found.append(f"the server shares the {os.cpu_count()} cores of this machine with the load generator")
    if result.is_interrupted:
        found.append("the test was interrupted, so the numbers are those of a shorter time")
    return found


def _as_json(plan: Plan, result: Result) -> dict[str, Any]:
    return {
        "url": shown(plan.url),
        "connections": plan.connections,
        "rate": plan.rate,
        "broadcast": plan.broadcast,
        "size": _size(plan),
        "seconds": round(result.seconds, 3),
        "sent": result.sent,
        "answered": result.answered,
        "missing": _expected(plan, result) - result.answered,
        "others": result.others,
        "per_second": round(result.answered / result.seconds, 1) if result.seconds else 0,
        "latency_ms": _percentiles(result.latencies),
        "handshake_ms": _percentiles(result.handshakes),
        "failures": dict(result.failures),
        "closed": {str(code): number for code, number in result.closed.items()},
        "generator": {"cores": round(_share(result), 3), "late_ms": _percentiles(result.lags)},
        "warnings": _warnings(plan, result),
        "notes": _notes(plan, result),
    }


def _percentiles(durations: Latencies) -> dict[str, float]:
    found = {f"p{percent:g}": round(durations.percentile(percent) / 1e6, 4) for percent in _PERCENTILES}
    return {**found, "max": round(durations.max / 1e6, 4)}


def _share(result: Result) -> float:
    """Return the share of one core that the load generator used."""
    return result.processor / result.seconds if result.seconds else 0.0


def _grace() -> float:
    from pywsapp.cli.load import GRACE

    return GRACE


def _close_name(code: int | None) -> str:
    from pywsapp.cli.close_texts import close_name

    return close_name(code)


def _ms(nanoseconds: float) -> str:
    return f"{nanoseconds / 1e6:,.3f}"


def _number(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
