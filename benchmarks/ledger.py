"""What was said and what arrived in a fault run, and whether that is what was promised.

Theory

Each publisher counts its messages, and says the next one only when the last one was accepted. What is not accepted it
says again, with the same number, as another *attempt*. The first attempt may have been published all the same; so two
attempts may arrive, and that is a second publication, not a doubled delivery. One attempt that arrives twice is.

A number that a listener never got, under any attempt, is *missing*, unless the listener was told. It was told if
there is a break between what came before that number and what came behind: where topics keep a history, only the
server's word that messages are lost; where they do not, that a connection was away, its own or its server's to the
broker.

With a history there is more to be held: positions count up by one from message to message, or there is a break; and
all listeners have seen the same attempt in the same position.

In order means: an attempt that was accepted is before all attempts of what was said after that. Without a history that
is promised for what came from one process, so the `ways` on which something was said are apart; and over a break it
need not be, for a client may come back to a process that is behind the one that it comes from.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple


class Attempt(NamedTuple):
    """One try to publish one message."""

    publisher: str
    number: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.publisher} {self.number} {self.attempt}"

    @classmethod
    def parse(cls, text: str) -> Attempt:
        publisher, number, attempt = text.split(" ")
        return cls(publisher, int(number), int(attempt))


class Got(NamedTuple):
    """What a listener was given, with its place in the history if there is one."""

    attempt: Attempt
    epoch: str = ""
    offset: int = 0


class Break(NamedTuple):
    """That a listener knows it may have missed something.

    Args:
        why: for people.
        anew: whether it came anew, or the history began anew: then something may come twice, or late.
    """

    why: str
    anew: bool = True


@dataclass
class Counts:
    """What came of a run; those from `missing` to `forked` have to be 0.

    Args:
        said: messages, each counted once however often it was tried.
        attempts: tries to publish.
        accepted: messages of which a publisher knows that they were taken.
        due: deliveries that there are if nobody misses anything.
        delivered: deliveries of messages, each counted once for each listener.
        missing: deliveries that did not happen, unannounced.
        doubled: deliveries of an attempt that the listener had already.
        disordered: deliveries behind what was said later.
        skipped: positions that were left out between two messages, unannounced.
        forked: positions in which listeners saw different messages.
        told: deliveries that did not happen, and the listener was told.
        doubled_over_break: deliveries twice, with the word between them that the history was lost.
        published_again: deliveries of a second attempt.
        breaks: words to listeners that they may have missed something.
    """

    said: int = 0
    attempts: int = 0
    accepted: int = 0
    due: int = 0
    delivered: int = 0
    missing: int = 0
    doubled: int = 0
    disordered: int = 0
    skipped: int = 0
    forked: int = 0
    told: int = 0
    doubled_over_break: int = 0
    published_again: int = 0
    breaks: int = 0

    @property
    def kept(self) -> bool:
        """Whether what was promised was kept."""
        return not (self.missing or self.doubled or self.disordered or self.skipped or self.forked)


@dataclass
class Ledger:
    """Takes down what happens in one topic.

    Attributes:
        tried: all attempts.
        accepted: those that were accepted.
        ways: on which something was said, if there is no order between them.
        heard: what each listener was given, in its order.
        examples: some of what should not be, for people.
    """

    tried: list[Attempt] = field(default_factory=list)
    accepted: set[Attempt] = field(default_factory=set)
    ways: dict[Attempt, int] = field(default_factory=dict)
    heard: dict[str, list[Got | Break]] = field(default_factory=lambda: defaultdict(list))
    examples: list[str] = field(default_factory=list)

    def counts(self) -> Counts:
        """Count it all, and collect examples."""
        numbers = {(one.publisher, one.number) for one in self.accepted}
        counts = Counts(
            said=len({(one.publisher, one.number) for one in self.tried}),
            attempts=len(self.tried),
            accepted=len(numbers),
            due=len(numbers) * len(self.heard),
        )
        places: dict[tuple[str, int], Attempt] = {}
        for listener, events in self.heard.items():
            counts.breaks += sum(isinstance(event, Break) for event in events)
            self._count_missing(counts, listener, events)
            self._count_doubled(counts, listener, events)
            self._count_disordered(counts, listener, events)
            self._count_places(counts, listener, events, places)
        return counts

    def _note(self, text: str) -> None:
        if len(self.examples) < 20:
            self.examples.append(text)

    def _count_missing(self, counts: Counts, listener: str, events: list[Got | Break]) -> None:
        breaks = [index for index, event in enumerate(events) if isinstance(event, Break)]
        first: dict[str, dict[int, int]] = defaultdict(dict)  # by publisher, by number: where it came first
        sure: dict[str, dict[int, int]] = defaultdict(dict)  # the same of attempts that were accepted
        for index, event in enumerate(events):
            if isinstance(event, Got):
                first[event.attempt.publisher].setdefault(event.attempt.number, index)
                if event.attempt in self.accepted:
                    sure[event.attempt.publisher].setdefault(event.attempt.number, index)
        said: dict[str, set[int]] = defaultdict(set)
        for one in self.accepted:
            said[one.publisher].add(one.number)
        for publisher, numbers in said.items():
            came = first[publisher]
            counts.delivered += len(numbers & came.keys())
            for number in sorted(numbers - came.keys()):
                # an attempt that nobody accepted may have come late, so it bounds nothing from below
                before, behind = sorted(
                    (_neighbour(sure[publisher], number, -1, -1), _neighbour(came, number, 0, len(events)))
                )
                if any(before < index < behind for index in breaks):
                    counts.told += 1
                else:
                    counts.missing += 1
                    self._note(f"{listener} misses {publisher} {number}, between its events {before} and {behind}")

    def _count_doubled(self, counts: Counts, listener: str, events: list[Got | Break]) -> None:
        seen: dict[Attempt, int] = {}
        numbers: set[tuple[str, int]] = set()
        breaks = 0
        for event in events:
            if isinstance(event, Break):
                breaks += event.anew
                continue
            one = event.attempt
            if one not in seen:
                counts.published_again += (one.publisher, one.number) in numbers
            elif seen[one] < breaks:
                counts.doubled_over_break += 1
            else:
                counts.doubled += 1
                self._note(f"{listener} got {one} twice, the second time at {event.offset}-{event.epoch}")
            seen[one] = breaks
            numbers.add((one.publisher, one.number))

    def _count_disordered(self, counts: Counts, listener: str, events: list[Got | Break]) -> None:
        latest: dict[tuple[str, int], int] = {}
        seen: set[Attempt] = set()
        for event in events:
            if isinstance(event, Break):
                if event.anew:
                    latest.clear()
                continue
            one = event.attempt
            if one in seen:
                continue
            seen.add(one)
            way = (one.publisher, self.ways.get(one, 0))
            if one in self.accepted and one.number < latest.get(way, 0):
                counts.disordered += 1
                self._note(f"{listener} got {one} behind {latest[way]}")
            latest[way] = max(one.number, latest.get(way, 0))

    def _count_places(
        self, counts: Counts, listener: str, events: list[Got | Break], places: dict[tuple[str, int], Attempt]
    ) -> None:
        for event in events:
            if not isinstance(event, Got) or not event.epoch:
                continue
            if places.setdefault((event.epoch, event.offset), event.attempt) != event.attempt:
                counts.forked += 1
                self._note(f"{listener} has another message at {event.offset}-{event.epoch} than others")
        for one, other in pairwise(events):
            if not isinstance(one, Got) or not isinstance(other, Got) or not one.epoch:
                continue
            if (other.epoch, other.offset) != (one.epoch, one.offset + 1):
                counts.skipped += 1
                place = f"{other.offset}-{other.epoch} behind {one.offset}-{one.epoch}"
                self._note(f"{listener} got {place} without a word")


def _neighbour(places: dict[int, int], number: int, step: int, otherwise: int) -> int:
    """Give the place of the next lower number (-1) or the next higher one (0), of those that have one."""
    known = sorted(places)
    at = bisect_left(known, number) + step
    return places[known[at]] if 0 <= at < len(known) else otherwise
