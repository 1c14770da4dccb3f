"""The limit of the connections of one user: what happens with one more.

With `TooMany.REFUSE` the new connection is refused. With `TooMany.CLOSE_OLDEST` it is accepted, and the oldest
connection of the user is closed, in whichever worker of the machine it is.

Theory

The processes of a machine share the number of connections of each user (`Counting`), but not their times. So a process
that accepts a connection above the limit asks the others. Each process that has connections of the user answers with
their number and the times of the oldest ones. After each answer the process that asked knows some of the connections.
If these are more than the limit, the oldest of them are not among the newest ones of the machine either, whatever the
other processes answer. So they are closed at once, without waiting for all answers. They are never too many, unless a
connection of the user ends, or changes its user, between the question and an answer: it still counts then.

    ask PROCESS NUMBER TOKEN                  which connections do you have of this user?
    answer PROCESS NUMBER OTHER COUNT TIME... OTHER has COUNT connections; these are the times of the oldest ones
    close TOKEN TIME                          close the connection of the user that was opened at this time

A token is a hash of the key of the user. Times are those of the monotonic clock, which all processes of a machine
share. A message that is lost, or a process that does not answer, leaves a connection open until the next one is opened.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pywsapp._limits.key_counts import KeyCounts
from pywsapp._limits.over_limit import OverLimit
from pywsapp._limits.report import LimitReport
from pywsapp._log_fields import log_fields
from pywsapp.close_codes import CloseCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from pywsapp.connection import Connection

logger = logging.getLogger("pywsapp")

#: Times in an answer, and connections that are closed after one answer.
MAX_TIMES = 16
#: Questions whose answers are awaited; the oldest ones are dropped. Answers come within milliseconds.
_MAX_QUESTIONS = 1000
_REASON = "too many connections of this user"


class Peers(Protocol):
    """Carries messages to the other processes of the machine.

    Attributes:
        name: the name of this process.
        receive: called with the words of each message of another process.
    """

    name: str
    receive: Callable[[Sequence[str]], None]

    def send(self, *words: object) -> None:
        """Send a message to all other processes; never blocks."""

    def token(self, key: str) -> str:
        """Return the token of a key, which is the same in all processes and is one word."""


class Place:
    """The address and the user that one connection counts for.

    Args:
        address: its network, or None.

    Attributes:
        conn: the connection; the HTTP connection sets it.
        user: its user; None if it does not count for one.
        since: nanoseconds of the monotonic clock since when it counts for its user.
    """

    __slots__ = ("address", "conn", "since", "user")

    def __init__(self, address: str | None) -> None:
        self.address = address
        self.conn: Connection | None = None
        self.user: str | None = None
        self.since = 0


class _Question(NamedTuple):
    """A question of one process; `answers` are the times by process, the oldest first, and the number."""

    user: str
    token: str
    answers: dict[str, tuple[int, list[int]]]


class UserLimit:
    """The connections of each user in this process, and the limit for those of all processes.

    Args:
        limit: connections of one user.
        counts: their numbers.
        report: the report of the limit.
        closes_oldest: whether a new connection takes the place of the oldest one.
        peers: the other processes; None if this process counts alone.
    """

    def __init__(
        self, limit: int, counts: KeyCounts, report: LimitReport, *, closes_oldest: bool, peers: Peers | None = None
    ) -> None:
        self._limit = limit
        self._counts = counts
        self._report = report
        self._closes_oldest = closes_oldest
        self._peers = peers if closes_oldest else None
        self._places: dict[str, dict[Place, None]] = {}  # the oldest connection first
        self._tokens: dict[str, str] = {}  # the users by their tokens, if there are other processes
        self._questions: dict[str, _Question] = {}
        self._asked = 0
        if self._peers is not None:
            self._peers.receive = self.receive

    def add(self, user: str, place: Place) -> None:
        """Count a connection for a user.

        Raises:
            OverLimit: with 429 if the user has too many connections, and a new one does not take the place of another.
        """
        counts = self._counts
        if not self._closes_oldest:
            counts.add(user)  # before the check, so that two processes never admit too many
            if counts.total(user) > self._limit:
                counts.remove(user)
                self._report.exceeded(user, time.monotonic())
                raise OverLimit(429, body=_REASON)
            place.user = user
            return
        while len(places := self._places.get(user, {})) >= self._limit:
            self._close(next(iter(places)))
        counts.add(user)
        place.user, place.since = user, time.monotonic_ns()
        self._places.setdefault(user, {})[place] = None
        if self._peers is not None:
            token = self._peers.token(user)
            self._tokens[token] = user
            if counts.total(user) > self._limit:
                self._ask(user, token)

    def remove(self, place: Place) -> None:
        """Count a connection no longer; does nothing if it does not count for a user."""
        user, place.user = place.user, None
        if user is None:
            return
        self._counts.remove(user)
        if self._closes_oldest:
            places = self._places[user]
            del places[place]
            if not places:
                del self._places[user]
                if self._peers is not None:
                    del self._tokens[self._peers.token(user)]

    def _close(self, place: Place) -> None:
        user, conn = place.user, place.conn
        self.remove(place)  # first, since it does not count while it waits for the peer's close frame
        self._report.exceeded(user, time.monotonic())
        if conn is not None:
            close_above_limit(conn)

    # -- other processes ---------------------------------------------------------------------------------------------

    def _ask(self, user: str, token: str) -> None:
        assert self._peers is not None
        self._asked += 1
        self._questions[str(self._asked)] = _Question(user, token, {})
        if len(self._questions) > _MAX_QUESTIONS:
            del self._questions[next(iter(self._questions))]
        self._peers.send("ask", self._peers.name, self._asked, token)

    def receive(self, words: Sequence[str]) -> None:
        """Handle a message of another process."""
        kind, *rest = words
        if kind == "ask":
            self._answer(*rest)
        elif kind == "answer":
            process, number, other, count, *times = rest
            assert self._peers is not None
            question = self._questions.get(number)
            if process == self._peers.name and question is not None:
                question.answers[other] = int(count), [int(text) for text in times]
                self._close_oldest(question)
        elif kind == "close":
            token, since = rest
            for place in list(self._places.get(self._tokens.get(token, ""), ())):
                if place.since == int(since):
                    self._close(place)

    def _answer(self, process: str, number: str, token: str) -> None:
        places = self._places.get(self._tokens.get(token, ""))
        if places:
            assert self._peers is not None
            oldest = [place.since for place, _ in zip(places, range(MAX_TIMES), strict=False)]
            self._peers.send("answer", process, number, self._peers.name, len(places), *oldest)

    def _close_oldest(self, question: _Question) -> None:
        """Close the oldest of the known connections of a user that are above the limit."""
        assert self._peers is not None
        own, answers = self._places.get(question.user, {}), question.answers
        excess = len(own) + sum(count for count, _ in answers.values()) - self._limit
        found: list[tuple[int, str | None, Place | None]] = [(place.since, None, place) for place in own]
        found += [(since, process, None) for process, (_, times) in answers.items() for since in times]
        found.sort(key=lambda one: one[0])
        for since, process, place in found[: min(max(excess, 0), MAX_TIMES)]:
            if place is not None:
                self._close(place)
            elif process is not None:
                count, times = answers[process]
                times.remove(since)
                answers[process] = count - 1, times
                self._peers.send("close", question.token, since)


def close_above_limit(conn: Connection) -> None:
    """Close a connection of a user that has too many."""
    try:
        conn.close(CloseCode.POLICY_VIOLATION, _REASON)
    except Exception:  # of its transport; the new connection must not fail for it
        logger.exception("closing %r failed", conn, extra=log_fields("connection.close_failed", conn))
        conn.abort()
