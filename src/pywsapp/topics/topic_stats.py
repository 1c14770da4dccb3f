"""The topics of a process and their activity, as numbers."""

from __future__ import annotations

from typing import NamedTuple

from pywsapp.brokers.relay_stats import RelayStats


class TopicStats(NamedTuple):
    """Numbers about the topics of one process, counted from its start.

    Args:
        topics: topics that have subscribers in this process now.
        dropped: envelopes from the broker that could not be decoded.
        lost: how often messages of a topic with a history were lost, which its subscribers get a report of.
        skipped: calls of async functions of the App, such as those of `on_broadcast`, that were skipped because their
            queue was full.
        broker: what the relay to the broker has done, in the last run if the app does not run; None without a broker.
        subscriptions: subscriptions of connections in this process now.
        present: users that are present by connections of this process now; a user counts once in each topic.
        histories: topics whose messages this process keeps now; Redis keeps those of its topics itself.
        history_bytes: bytes of these messages.
    """

    topics: int
    dropped: int
    lost: int
    skipped: int
    broker: RelayStats | None
    subscriptions: int = 0
    present: int = 0
    histories: int = 0
    history_bytes: int = 0
