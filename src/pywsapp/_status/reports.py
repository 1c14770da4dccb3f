"""What one process reports for the status page: its numbers, and bounded lists of connections, topics and errors."""

from __future__ import annotations

import heapq
import json
import logging
import os
import platform
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

from pywsapp._histogram import BOUNDS
from pywsapp._http_text import one_line
from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp._process.collecting import in_turns
from pywsapp._process.stats_messages import added, read, to_json
from pywsapp._request_state import access_of
from pywsapp._server.server import Server
from pywsapp.auth.user_keys import UserKeys
from pywsapp.brokers.envelope import EnvelopeError
from pywsapp.connection import Connection
from pywsapp.exceptions import ConfigurationError
from pywsapp.stats import RouteStats, Stats
from pywsapp.topics.registry import TopicRegistry

#: The newest connections, and those for which the most bytes wait.
NEWEST_CONNECTIONS = 50
FULLEST_CONNECTIONS = 10
MAX_TOPICS = 50
#: Routes of a process; the numbers of all others are added up. Each has up to 1,000 characters.
MAX_REPORT_ROUTES = 200
_SLOWEST_ROUTES = 20
#: The name of the sum of the routes that a report leaves out. No pattern of a path is the same.
OTHER_ROUTES = "other routes"
MAX_ERRORS = 20
_MAX_CONNECTIONS = NEWEST_CONNECTIONS + FULLEST_CONNECTIONS
#: Characters of a text.
MAX_TEXT = 200
_MAX_ERROR = 400
#: The largest number of a report.
_MAX_NUMBER = 2**63
#: Characters of a report of another process.
_MAX_REPORT = 500_000


class ConnectionRow(NamedTuple):
    """One connection."""

    id: int
    route: str
    path: str
    address: str
    user: str | None
    seconds: float | None  # since it was opened
    topics: int
    buffered: int  # bytes that wait


class TopicRow(NamedTuple):
    """One topic, and the connections that subscribe to it."""

    name: str
    subscribers: int


class ErrorRow(NamedTuple):
    """One line of the log, at level WARNING or above."""

    time: float  # seconds since 1970
    level: str
    event: str
    text: str


class Report(NamedTuple):
    """What one process reports.

    Args:
        pid: the number of the process.
        host: the name of its machine.
        worker: the number of the worker; 0 if it is no worker.
        at: when it was made, in seconds of the monotonic clock of the process.
        stats: the numbers of the process.
        connections: some of its connections.
        topics: the topics with the most subscribers in the process.
        errors: the last lines of its log at level WARNING or above.
    """

    pid: int
    host: str
    worker: int
    at: float
    stats: Stats
    connections: tuple[ConnectionRow, ...]
    topics: tuple[TopicRow, ...]
    errors: tuple[ErrorRow, ...]


class ErrorLog(logging.Handler):
    """Keeps the last lines of the log of the library at level WARNING or above, while it is a handler of the logger.

    In a program without any other handler, Python writes such lines to stderr, but not if a logger has a handler. So
    this one passes them on.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._rows: deque[ErrorRow] = deque(maxlen=MAX_ERRORS)

    @property
    def rows(self) -> tuple[ErrorRow, ...]:
        """The lines, the oldest first."""
        return tuple(self._rows)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line; of an exception its class and its text."""
        event = getattr(record, "event", "")
        text = _short(_text_of(record), _MAX_ERROR)
        self._rows.append(ErrorRow(record.created, record.levelname, _short(str(event)), text))
        if logging.lastResort is not None and self._is_alone(logging.getLogger(record.name)):
            logging.lastResort.handle(record)

    def _is_alone(self, logger: logging.Logger | None) -> bool:
        """Return whether no other handler gets the records of a logger, except for one of the same kind."""
        kept = []
        while logger is not None:
            kept += logger.handlers
            logger = logger.parent if logger.propagate else None
        return kept[0] is self and all(isinstance(one, ErrorLog) for one in kept) if kept else False


def _text_of(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
    except Exception:  # the arguments do not fit the text, or one of them has no text
        text = record.msg if isinstance(record.msg, str) else f"a {type(record.msg).__name__} without a text"
    return text


#: Returns the numbers of this process; calls a function with some of its connections after the other.
Collect = Callable[[Callable[[Sequence[Any]], None]], Awaitable[Stats]]


async def make_report(
    worker: int | None, server: Server | None, collect: Collect, topics: TopicRegistry, log: ErrorLog
) -> Report:
    """Return the report of this process. It looks at each connection and each topic, while other tasks run.

    Args:
        worker: the number of the worker, if this process is one.
        server: its server; None while it does not run.
        collect: returns its numbers.
        topics: its topics.
        log: the last lines of its log.
    """
    shown = _ShownConnections()
    stats = await collect(shown.look)
    largest = await _largest_topics(topics)
    return Report(
        os.getpid(),
        _short(platform.node()),
        worker or 0,
        time.monotonic(),
        with_fewer_routes(stats),
        () if server is None else tuple(_row_of(conn, server, topics) for conn in shown.open()),
        largest,
        log.rows,
    )


class _ShownConnections:
    """The connections that a report shows: the newest, and those for which the most bytes wait."""

    def __init__(self) -> None:
        self._newest: list[Connection] = []
        self._fullest: list[tuple[int, int, Connection]] = []

    def look(self, some: Sequence[Any]) -> None:
        """Look at some of the connections."""
        oldest = self._newest[-1].id if len(self._newest) == NEWEST_CONNECTIONS else 0
        lifecycles = [one for one in some if isinstance(one, Lifecycle)]
        newer = [one.conn for one in lifecycles if one.conn.id > oldest and one.conn.is_open]
        self._newest = heapq.nlargest(NEWEST_CONNECTIONS, [*self._newest, *newer], key=attrgetter("id"))
        full = [(size, one.conn.id, one.conn) for one in lifecycles if (size := one.machine.outbox.buffered)]
        self._fullest = heapq.nlargest(FULLEST_CONNECTIONS, [*self._fullest, *full])

    def open(self) -> list[Connection]:
        """Return those that are open, each once."""
        found = dict.fromkeys([*self._newest, *(conn for _, _, conn in self._fullest)])
        return [conn for conn in found if conn.is_open]


def with_fewer_routes(stats: Stats) -> Stats:
    """Return the numbers of a process with those routes that have the most connections or the slowest handlers.

    The numbers of all others are added up as `OTHER_ROUTES`, so a report of many routes is not too long, and its sums
    are right.
    """
    routes = stats.routes
    if len(routes) <= MAX_REPORT_ROUTES:
        return stats
    slowest = heapq.nlargest(_SLOWEST_ROUTES, routes, key=lambda pattern: mean_seconds(routes[pattern]))
    largest = heapq.nlargest(MAX_REPORT_ROUTES, routes, key=lambda pattern: routes[pattern].open_connections)
    kept = {pattern: routes[pattern] for pattern in list(dict.fromkeys([*slowest, *largest]))[:MAX_REPORT_ROUTES]}
    others = added(route for pattern, route in routes.items() if pattern not in kept)
    return replace(stats, routes={**kept, OTHER_ROUTES: others})


def mean_seconds(route: RouteStats) -> float:
    """Return how long the handlers of a route take on average; 0 if that is not known."""
    times = route.handler_seconds
    calls = 0 if times is None else sum(times.buckets)
    return times.seconds / calls if times is not None and calls else 0.0


async def _largest_topics(topics: TopicRegistry) -> tuple[TopicRow, ...]:
    largest: list[TopicRow] = []
    async for some in in_turns(list(topics.subscribed.values())):
        rows = [TopicRow(topic.name, len(subscribers)) for topic, subscribers in some]
        largest = heapq.nlargest(MAX_TOPICS, [*largest, *rows], key=itemgetter(1))
    return tuple(largest)


def _row_of(conn: Connection, server: Server, topics: TopicRegistry) -> ConnectionRow:
    request, opened_at = conn.request, server.connection_log.opened_at(conn.request)
    key = key_of(conn, topics)
    return ConnectionRow(
        conn.id,
        _short(request.route),
        _short(request.path),
        conn.remote_address or "local",
        None if key is None else _short(key),
        None if opened_at is None else time.monotonic() - opened_at,
        len(conn.topics),
        conn.buffered,
    )


def key_of(conn: Connection, topics: TopicRegistry) -> str | None:
    """Return the key of the user of a connection; None without a user, or if the user has no key or a very long one."""
    access = access_of(conn.request)
    if access is None or access.user is None:
        return None
    try:
        key = access.user_key or topics.users.keys.of_access(access)
    except Exception:  # of the `user_key` of the App; `app.users` reports it
        return None
    return key if len(key) <= MAX_TEXT else None


def name_of(conn: Connection, topics: TopicRegistry) -> str | None:
    """Return what names the user of a page in the log: its key, or what its guard calls it; None if nothing does.

    The users of the page can be others than those of the App, which `App(user_key=...)` knows.
    """
    access = access_of(conn.request)
    if access is None or access.user is None:
        return None
    with suppress(ConfigurationError):
        return key_of(conn, topics) or UserKeys().of_access(access)[:MAX_TEXT]
    return None


def _short(text: str, limit: int = MAX_TEXT) -> str:
    """Return text without control characters, cut at a number of characters."""
    found = text if text.isprintable() else "".join(one if one.isprintable() else " " for one in text[: 2 * limit])
    return found if len(found) <= limit else f"{found[: limit - 1]}…"


def encode_report(report: Report) -> list[Any]:
    """Return a report in the form in which it is sent to another process."""
    return [to_json(one) if isinstance(one, Stats) else one for one in report]


def decode_report(value: Any) -> Report:
    """Return a report of another process.

    Raises:
        EnvelopeError: it is no report that a process could have sent.
    """
    try:
        if len(json.dumps(value)) > _MAX_REPORT:
            raise EnvelopeError("its report is too long")
        report: Report = read(Report, value)
        _check_numbers(encode_report(report))  # not of the value, in which a number can be a text such as "nan"
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise EnvelopeError(f"its report is invalid: {one_line(str(exc))}") from None
    lists: Iterable[tuple[Any, int]] = (
        (report.connections, _MAX_CONNECTIONS),
        (report.topics, MAX_TOPICS),
        (report.errors, MAX_ERRORS),
    )
    if any(len(found) > limit for found, limit in lists):
        raise EnvelopeError("its report has too many rows")
    stats = report.stats
    times = [
        stats.loop_lag,
        *(time for one in stats.routes.values() for time in (one.handler_seconds, one.ping_seconds)),
    ]
    if any(one is not None and len(one.buckets) != len(BOUNDS) + 1 for one in times):
        raise EnvelopeError("a histogram of its report has other buckets")
    return report


def _check_numbers(value: Any) -> None:
    """Check that the numbers of a report can be added and divided.

    Raises:
        ValueError: one is negative, too large or not a number.
    """
    if isinstance(value, (int, float)):
        if not 0 <= value <= _MAX_NUMBER:
            raise ValueError("a number is negative or too large")
    elif isinstance(value, (list, tuple, dict)):
        for one in value.values() if isinstance(value, dict) else value:
            _check_numbers(one)
