"""The counts of a relay."""

from __future__ import annotations

from typing import NamedTuple


class RelayStats(NamedTuple):
    """The activity of a relay, counted from the start of the process.

    Args:
        connected: 1 if there is a connection now, else 0; with workers, how many of them have one.
        connects: connections that were made.
        published: messages that the broker has accepted.
        failed: messages that it has not accepted.
        received: messages that the broker has delivered, own ones that it sent back included.
        pending: messages that are queued now.
        lag: seconds for which the oldest of these has waited, in steps of a quarter; 0 without `App(metrics=True)`.
            With workers, the longest of them.
    """

    connected: int
    connects: int
    published: int
    failed: int
    received: int
    pending: int
    lag: float = 0.0
