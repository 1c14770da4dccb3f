"""Collecting the numbers of `App.stats`."""

from __future__ import annotations

from pywsapp._limits.message_counts import AllMessageCounts
from pywsapp._server.counts import ServerCounts
from pywsapp._server.server import Server
from pywsapp.stats import Stats
from pywsapp.topics.registry import TopicRegistry


def collect_stats(server: Server | None, topics: TopicRegistry, limits: AllMessageCounts) -> Stats:
    """Return the numbers of an App.

    Args:
        server: its server; None while it does not run.
        topics: its topics.
        limits: its limits of messages.
    """
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
    )
