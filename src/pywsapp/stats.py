"""What `App.stats` returns: what one process of an App does, as plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pywsapp._limits.message_counts import RateLimitStats
from pywsapp.topics.registry import TopicStats

__all__ = ["RateLimitStats", "Stats", "TopicStats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The numbers of one process of an App at one moment. With workers, each of them has its own.

    Numbers of what happened are counted from the start of `App.run` or `App.serve`, those of rate limits and topics
    from the start of the process. All are 0 while the App does not run, except those of rate limits and topics.

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
