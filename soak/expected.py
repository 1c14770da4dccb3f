"""The log lines from WARNING on that a soak run expects, each with what explains it; all others are problems."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from benchmarks.fault_kinds import KINDS

from soak.world import OUTAGES


class Expected(NamedTuple):
    """Log lines that a fault or a kind of visits explains.

    Args:
        pattern: a regular expression for the text.
        faults: the faults that explain it, one of which must have been injected; none for what visitors do.
        reason: why it is logged.
    """

    pattern: str
    faults: tuple[str, ...]
    reason: str


EXPECTED = (
    Expected("reads too slowly: .*; closing it", (), "`read_too_slowly` and RST of a client with unread messages"),
    Expected(r"RateLimit '[\w/]+' (dropped a message|closed a connection)", (), "`be_dropped`, `be_closed`"),
    Expected("has been blocking the event loop for more than", (), "other programs use the processors"),
    Expected(
        r"is unavailable \(TimeoutError\); RateLimit", (), "the same: a limit waits for Redis for one second only"
    ),
    Expected("is available again for RateLimit", (), "the end of both"),
    Expected("connections did not end in time and are aborted", ("reload",), "clients that read slowly, at a shutdown"),
    Expected("is unavailable|has been unavailable for", OUTAGES, "the broker, sessions and limits"),
    Expected("connected to .* again; this process received nothing", OUTAGES, "the broker is back"),
    Expected("is available again", OUTAGES, "sessions and limits are back"),
    Expected("the ticket store .* failed", OUTAGES, "tickets"),
    Expected("messages were not published to .*, because the app has stopped", OUTAGES, "a shutdown without a broker"),
)


def patterns(injected: Iterable[str]) -> list[str]:
    """Return the patterns of what is expected after some faults, by their names."""
    names = set(injected)
    return [
        *(each.pattern for each in EXPECTED if not each.faults or names.intersection(each.faults)),
        *(KINDS[name].explains for name in names),
    ]
