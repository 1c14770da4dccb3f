"""The result of `App.stats`: the activity of one process of an App as plain numbers, and that of all workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pywsapp._histogram import HistogramStats
from pywsapp._limits.message_counts import RateLimitStats
from pywsapp.topics.topic_stats import TopicStats

__all__ = [
    "HistogramStats",
    "ProcessStats",
    "RateLimitStats",
    "RouteStats",
    "SessionStats",
    "Stats",
    "TopicStats",
    "WorkerStats",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteStats:
    """The numbers of one route: of its WebSockets and event streams.

    Args:
        open_connections: connections now.
        handshakes: handshakes and event streams that were accepted.
        closed: connections that have ended, by their close code; "other" stands for codes that are not registered.
        messages_received: messages that have arrived.
        bytes_received: bytes that have arrived after the handshakes, in frames of all kinds.
        messages_sent: messages that were queued to be sent. A broadcast counts once for each receiver.
        bytes_sent: the bytes of their frames.
        messages_dropped: messages that were dropped because their client reads too slowly.
        handler_seconds: how long calls of `on_message` took, until an async def had ended; None without `App(metrics)`.
            The time for which a `RateLimit` delays a message does not count.
        ping_seconds: how long clients took to answer the pings of the keepalive; None without `App(metrics)`.
    """

    open_connections: int
    handshakes: int
    closed: Mapping[str, int]
    messages_received: int
    bytes_received: int
    messages_sent: int
    bytes_sent: int
    messages_dropped: int
    handler_seconds: HistogramStats | None
    ping_seconds: HistogramStats | None


class ProcessStats(NamedTuple):
    """The resources that a process uses.

    Args:
        memory: bytes of memory now; elsewhere than on Linux, the most that it has used.
        cpu_seconds: seconds of processor time since its start.
        tasks: tasks of its event loop now, those of other code included; 0 outside of the event loop.
    """

    memory: int
    cpu_seconds: float
    tasks: int


class SessionStats(NamedTuple):
    """The calls of a store of sessions, counted from the start of the process.

    Args:
        calls: calls of the store that worked.
        failures: calls that failed, so that the request was answered with 503.
        unreadable: sessions that the store has and that cannot be read, so they count as empty.
    """

    calls: int
    failures: int
    unreadable: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The numbers of one process of an App at one moment. With workers, each of them has its own.

    Numbers of what happened are counted from the start of `App.run` or `App.serve`, those of rate limits, topics and
    sessions from the start of the process. All others are 0 while the App does not run, except those of `process`.

    Args:
        open_connections: connections whose request was admitted, now: WebSockets, and plain requests that are answered.
        pending_connections: accepted connections without an admitted request, now.
        accepted_connections: sockets that were accepted.
        evicted_connections: pending connections that made place for others; see `App(max_pending=...)`.
        handshakes: handshakes and event streams that were accepted.
        refused: handshakes and requests that were refused, by the HTTP status of the answer.
        limits: how often each limit of connections was exceeded, by the name of the option: the limits of `App`,
            "max_connection_age", "idle_timeout", "max_topics", "control_frames_per_second", "max_message_size",
            "max_frame_size", "max_fragments", "message_timeout", and "max_outbox" with `SlowConsumer.CLOSE`;
            "max_waiting" of `FirstMessage`. "invalid_messages" counts messages that typed handlers do not accept, and
            "untrusted_proxy" handshakes that were refused to what looks like a proxy.
        rate_limits: what each `RateLimit` has done, by its name.
        topics: the numbers of `app.topics.stats`, with those of the broker.
        routes: the numbers of each route that had a connection, by its pattern with the mounts around it.
        sessions: what the stores of sessions have done, by their names.
        queued_messages: messages that wait for a busy handler, now.
        queued_bytes: the bytes of these messages; characters of text count as one.
        outbox_bytes: bytes of frames that wait in the outboxes of connections, now.
        slow_connections: connections whose client does not read fast enough, now: more than `Options.high_water` bytes
            wait for the network.
        loop_lag: by how much the event loop was late, measured four times a second; None without `App(metrics)`.
        process: the resources that the process uses.
    """

    open_connections: int
    pending_connections: int
    accepted_connections: int
    evicted_connections: int
    handshakes: int
    refused: Mapping[int, int]
    limits: Mapping[str, int]
    rate_limits: Mapping[str, RateLimitStats]
    topics: TopicStats
    routes: Mapping[str, RouteStats] = field(default_factory=dict)
    sessions: Mapping[str, SessionStats] = field(default_factory=dict)
    queued_messages: int = 0
    queued_bytes: int = 0
    outbox_bytes: int = 0
    slow_connections: int = 0
    loop_lag: HistogramStats | None = None
    process: ProcessStats = ProcessStats(0, 0.0, 0)  # noqa: RUF009 - a tuple, never changed


class WorkerStats(NamedTuple):
    """The numbers of all workers of an App together; see `App.worker_stats`.

    Args:
        total: the sums of the numbers of all workers, those that have ended included for what is counted.
        workers: how many workers there should be; 1 without workers.
        missing: workers whose newest numbers are not in `total`, because they did not answer in time or do not run.
            What they have reported last is in it.
    """

    total: Stats
    workers: int
    missing: int
