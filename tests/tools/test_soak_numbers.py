"""What a soak run counts as a leak, as a loss, and as an unexplained line in a log."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

pytest.importorskip("fcntl", reason="the soak test runs on Linux only")
sys.path.insert(0, str(Path(__file__).parent.parent.parent))
from benchmarks.fault_log import unexplained
from benchmarks.fault_record import Counts
from soak.expected import patterns
from soak.measuring import GROWTH, LEVEL, ZERO, IdlePoint, Levels, Process, RedisNumbers, grown
from soak.rounds import broken, is_kept
from soak.world import Kind, Problems, Violation, Visitor, World

from pywsapp import ConnectionClosed, HandshakeError

LEVELS = ("WARNING", "ERROR", "CRITICAL")
WORKER = {"tasks": 20, "threads": 3, "files": 18, "broker_subscriptions": 2, "settled_blocks": 200_000, "rss": 50 << 20}
SUPERVISOR = {"threads": 3, "files": 10, "rss": 50 << 20}


def point(*, redis: Any = None, **changes: Any) -> IdlePoint:
    """Return an idle point of a server with two workers, the first of which has other numbers."""
    processes = [
        Process(0, "supervisor", 100, SUPERVISOR),
        Process(0, "worker", 101, {**WORKER, **changes}),
        Process(0, "worker", 102, {**WORKER, "files": 20}),
    ]
    return IdlePoint(processes, redis)


def of_redis(**changes: Any) -> RedisNumbers:
    return RedisNumbers(**{"clients": 9, "channels": 2, "subscriptions": 8, "keys": {}, "eternal": [], **changes})


@pytest.mark.parametrize("key", ZERO)
def test_what_must_not_remain_without_clients(key: str) -> None:
    levels = Levels(2, 20)
    assert levels.faults(point()) == []
    assert levels.faults(point(**{key: 1})) == [f"{key}: worker of server 0 has 1 without clients"]


@pytest.mark.parametrize("key", LEVEL)
def test_what_must_not_exceed_the_first_idle_point(key: str) -> None:
    levels = Levels(2, 20, [point(**{key: 30})])
    assert levels.faults(point(**{key: 30})) == []
    most = 30 + LEVEL[key]
    assert levels.faults(point(**{key: most})) == []
    (fault,) = levels.faults(point(**{key: most + 1}))
    assert fault.startswith(f"{key}: worker of server 0 has {most + 1}, more than 30 at the first idle point")


def test_the_names_of_surplus_tasks() -> None:
    levels = Levels(2, 20, [point(running={"read": 2, "run": 1})])
    (fault,) = levels.faults(point(tasks=23, running={"read": 3, "run": 1, "ping": 2}))
    assert fault.endswith("more than 20 at the first idle point (read, ping, ping)")


def test_worker_that_used_less_at_first_can_use_as_much_as_the_others() -> None:
    levels = Levels(2, 20, [point()])
    assert levels.faults(point(files=20)) == []
    assert len(levels.faults(point(files=21))) == 1


def test_missing_and_surplus_processes() -> None:
    assert Levels(3, 20).faults(point()) == ["server 0 has 2 processes of the role worker instead of 3"]
    assert Levels(1, 20).faults(point()) == ["server 0 has 2 processes of the role worker instead of 1"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"clients": 21}, "Redis has 21 connections, more than 20"),
        ({"channels": 3}, "Redis has 3 channels, more than 2 at the first idle point"),
        ({"subscriptions": 9}, "Redis has 9 subscriptions, more than 8 at the first idle point"),
        ({"keys": {"other": 2, "session": 5}}, "Redis has 2 keys of no known kind"),
        ({"eternal": ["pywsapp:session:a"]}, "Redis keeps 'pywsapp:session:a' for ever"),
    ],
    ids=["clients", "channels", "subscriptions", "unknown keys", "eternal keys"],
)
def test_what_remains_in_redis(changes: dict[str, Any], text: str) -> None:
    levels = Levels(2, 20, [point(redis=of_redis())])
    assert levels.faults(point(redis=of_redis(clients=20, keys={"session": 5}))) == []
    assert levels.faults(point(redis=of_redis(**changes))) == [text]


@pytest.mark.parametrize("key", GROWTH)
def test_growth_of_a_process(key: str) -> None:
    step = GROWTH[key] / 5
    flat = [point(**{key: WORKER[key] + noise}) for noise in (0, 900, -700, 500, 0, 300)]
    assert Levels(2, 20, flat).faults_of_growth() == []
    leaking = [point(**{key: WORKER[key] + number * 2 * step}) for number in range(6)]
    (fault,) = Levels(2, 20, leaking).faults_of_growth()
    assert fault.startswith(f"{key}: worker of server 0 has grown by {1.2 * GROWTH[key]:,.0f}, ")


def test_cache_that_fills_up_is_no_growth() -> None:
    assert grown([0, 800, 1000, 1000, 1000, 1000]) == 0
    assert grown([0, 100]) == 100
    assert grown([0, 100, 200, 300, 400, 500]) == 300  # the first third is left out


def test_process_that_was_replaced_has_no_growth() -> None:
    later = IdlePoint([Process(0, "worker", 103, WORKER)], None)
    assert Levels(2, 20, [point(), later]).growth() == {}


# -- logs --------------------------------------------------------------------------------------------------------------

SLOW = "2026-11-30 10:12:48,608 worker 1 WARNING <Connection 13 from ::1> reads too slowly: 9 bytes wait; closing it"
LOST = "2026-11-30 10:12:48,609 worker 1 ERROR redis://[::1] is unavailable (OSError: [Errno 1] no); trying again"
AGAIN = "2026-11-30 10:12:49,609 worker 1 WARNING redis://[::1] is available again for RateLimit 'shared'"
ENDED = "2026-11-30 10:12:50,000 worker 2 WARNING 3 connections did not end in time and are aborted"
UNKNOWN = "2026-11-30 10:12:51,000 worker 2 WARNING the SSLContext permits TLS renegotiation"
LOG = "\n".join([SLOW, LOST, AGAIN, ENDED, UNKNOWN])


@pytest.mark.parametrize(
    ("injected", "lines"),
    [((), [LOST, ENDED, UNKNOWN]), (("restart",), [ENDED, UNKNOWN]), (("reload", "cut"), [UNKNOWN])],
    ids=["no fault", "restart", "reload and cut"],
)
def test_faults_explain_lines_of_the_log(injected: tuple[str, ...], lines: list[str]) -> None:
    assert list(unexplained(LOG, patterns(injected), levels=LEVELS)) == lines


@pytest.mark.parametrize(
    "line",
    [
        "Traceback (most recent call last):",
        "/srv/app.py:3: ResourceWarning: unclosed <socket.socket fd=3>",
        "sys:1: RuntimeWarning: coroutine 'f' was never awaited",
    ],
)
def test_nothing_explains_a_traceback_or_a_warning_of_python(line: str) -> None:
    assert list(unexplained(f"{SLOW}\n{line}\n", [*patterns(("restart", "reload")), ".*"], levels=LEVELS)) == [line]


# -- losses ------------------------------------------------------------------------------------------------------------


def test_promises_of_topics() -> None:
    assert is_kept(Counts(published_again=3, refused=2), lossless=True)
    assert is_kept(Counts(reported_lost=1, interruptions=1), lossless=False)
    assert not is_kept(Counts(reported_lost=1), lossless=True)
    assert not is_kept(Counts(missing=1), lossless=False)
    assert broken(Counts(missing=2, out_of_order=1)) == "2 missing, 1 out of order"


class Setup:
    """Two servers, the first of which is spared."""

    servers = ("steady", "replaced")
    spared = ("steady",)


class Faults:
    """Faults that began some seconds ago."""

    def __init__(self, **ago: float) -> None:
        self.latest = {name: time.monotonic() - seconds for name, seconds in ago.items()}


def visit_with(exc: Exception, server: str, faults: Any, *, uses_store: bool) -> list[str]:
    """Return the problems after a visit that ended with an exception."""

    async def visit(visitor: Visitor) -> None:
        raise exc

    problems = Problems()
    setup: Any = Setup()
    world = World(argparse.Namespace(), setup, faults, problems, Counter())
    action: Callable[[Visitor], Awaitable[None]] = visit
    visitor = Visitor(world, Kind("kind", 1, 0.0, action, uses_store=uses_store), random.Random(1))
    visitor.server = server  # type: ignore[assignment]
    anyio.run(visitor.visit)
    return problems.lines()


LOSS = ConnectionClosed("the connection ended with code 1012", code=1012)
BUSY = HandshakeError("refused", 503)


@pytest.mark.parametrize(
    ("exc", "server", "faults", "uses_store", "is_problem"),
    [
        (LOSS, "replaced", {"reload": 5}, False, False),
        (LOSS, "replaced", {"reload": 500}, False, True),
        (LOSS, "replaced", {"restart": 5}, False, True),
        (LOSS, "steady", {"reload": 5}, False, True),
        (ConnectionResetError(), "steady", {"reload": 5, "restart": 5}, True, True),
        (BUSY, "steady", {"restart": 5}, True, False),
        (BUSY, "steady", {"restart": 5}, False, True),
        (BUSY, "steady", {"restart": 500}, True, True),
        (HandshakeError("refused", 500), "steady", {"restart": 5}, True, True),
        (ConnectionClosed("later", code=1013), "steady", {"cut": 5}, True, False),
        (Violation("it came twice"), "replaced", {"reload": 5}, True, True),
    ],
)
def test_what_explains_the_end_of_a_visit(
    exc: Exception, server: str, faults: dict[str, float], uses_store: bool, is_problem: bool
) -> None:
    problems = visit_with(exc, server, Faults(**faults), uses_store=uses_store)
    assert bool(problems) is is_problem
    assert all(line.startswith("kind: ") for line in problems)


def test_problems_are_listed_once_with_their_number() -> None:
    problems = Problems()
    for text in ("a", "b", "a"):
        problems.add(text)
    assert problems.lines() == ["a (2 times)", "b"]
