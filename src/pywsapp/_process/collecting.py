"""Collecting the numbers of `App.stats`, at once or in turns of the event loop."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import anyio.lowlevel

from pywsapp._event_loop import count_tasks
from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp._limits.message_counts import AllMessageCounts
from pywsapp._process.stats_messages import added
from pywsapp._process.worker_limits import memory_used
from pywsapp._protocol.traffic import Traffic
from pywsapp._server.counts import ServerCounts
from pywsapp._server.server import Server
from pywsapp.sessions.base import SessionStore
from pywsapp.stats import ProcessStats, RouteStats, SessionStats, Stats
from pywsapp.topics.registry import TopicRegistry

if TYPE_CHECKING:
    from collections.abc import Iterable

ItemT = TypeVar("ItemT")
#: Connections, or topics, that are looked at before the clock is read.
_A_PART = 500
#: Seconds of a turn of the event loop. In a busy one, each further turn makes the answer later.
_TURN_SECONDS = 0.004


def collect_stats(
    server: Server | None, topics: TopicRegistry, limits: AllMessageCounts, stores: Iterable[SessionStore]
) -> Stats:
    """Return the numbers of an App. It looks at each connection, which takes about 0.4 ms for 1,000 connections.

    Args:
        server: its server; None while it does not run.
        topics: its topics.
        limits: its limits of messages.
        stores: its stores of sessions.
    """
    waiting = waiting_of(() if server is None else server.runtime.connections)
    return _stats_of(server, topics, limits, stores, waiting)


async def collect_in_turns(
    server: Server | None,
    topics: TopicRegistry,
    limits: AllMessageCounts,
    stores: Iterable[SessionStore],
    look: Callable[[Sequence[Any]], None] | None = None,
) -> Stats:
    """Return the same as `collect_stats`, while other tasks run: connections that open or end meanwhile can be missing.

    Args:
        server: as for `collect_stats`.
        topics: as for `collect_stats`.
        limits: as for `collect_stats`.
        stores: as for `collect_stats`.
        look: called with some connections after the other.
    """
    waiting = Counter(waiting_of(()))
    async for some in in_turns(() if server is None else tuple(server.runtime.connections)):
        waiting.update(waiting_of(some))
        if look is not None:
            look(some)
    return _stats_of(server, topics, limits, stores, waiting)


async def in_turns(items: Sequence[ItemT]) -> AsyncIterator[Sequence[ItemT]]:
    """Yield the items in parts. Other tasks run at the beginning, at the end, and when a turn has taken long enough."""
    turn_ends = 0.0
    for start in range(0, len(items), _A_PART):
        if time.monotonic() >= turn_ends:
            await anyio.lowlevel.checkpoint()
            turn_ends = time.monotonic() + _TURN_SECONDS
        yield items[start : start + _A_PART]
    await anyio.lowlevel.checkpoint()


def _stats_of(
    server: Server | None,
    topics: TopicRegistry,
    limits: AllMessageCounts,
    stores: Iterable[SessionStore],
    waiting: Mapping[str, int],
) -> Stats:
    counts = ServerCounts() if server is None else server.counts
    return Stats(
        open_connections=0 if server is None else server.pending.admitted,
        pending_connections=0 if server is None else len(server.pending),
        accepted_connections=0 if server is None else server.accepted,
        evicted_connections=0 if server is None else server.pending.total_evicted,
        handshakes=counts.handshakes,
        refused=dict(counts.refused),
        limits={}
        if server is None
        else {name: report.count for name, report in server.reports.items()} | counts.closed_by_limit,
        rate_limits=limits.stats,
        topics=topics.stats,
        routes={pattern: route_stats(route) for pattern, route in counts.routes.items()},
        sessions=session_stats(stores),
        loop_lag=None if counts.loop_lag is None else counts.loop_lag.stats,
        process=ProcessStats(memory_used(), time.process_time(), count_tasks()),
        **waiting,
    )


def route_stats(counts: Traffic) -> RouteStats:
    """Return the numbers of a route."""
    measures = counts.measures
    return RouteStats(
        open_connections=counts.open_connections,
        handshakes=counts.handshakes,
        closed=dict(counts.closed),
        messages_received=counts.messages_received,
        bytes_received=counts.bytes_received,
        messages_sent=counts.messages_sent,
        bytes_sent=counts.bytes_sent,
        messages_dropped=counts.messages_dropped,
        handler_seconds=None if measures is None else measures.handler_seconds.stats,
        ping_seconds=None if measures is None else measures.ping_seconds.stats,
    )


def session_stats(stores: Iterable[SessionStore]) -> dict[str, SessionStats]:
    """Return the numbers of stores by their names."""
    found: dict[str, SessionStats] = {}
    for store in dict.fromkeys(stores):
        log = store.outage
        numbers = SessionStats(log.calls, log.failures, log.unreadable)
        found[store.name] = added([found.get(store.name), numbers])
    return found


def waiting_of(connections: Iterable[Any]) -> dict[str, int]:
    """Return what waits in connections, as arguments of `Stats`."""
    messages = queued = outbox_bytes = slow = 0
    for connection in connections:
        if isinstance(connection, Lifecycle):
            outbox = connection.machine.outbox
            outbox_bytes += outbox.size
            slow += not outbox.is_writable
            queue = connection._queue
            if queue is not None:
                messages += len(queue)
                queued += queue.size
    return {
        "queued_messages": messages,
        "queued_bytes": queued,
        "outbox_bytes": outbox_bytes,
        "slow_connections": slow,
    }
