"""The record of a fault run: what was published and received in a topic, and how many promises were broken.

Theory

Each publisher numbers its messages, and publishes the next one only after the last one was accepted. It repeats a
message that was not accepted under the same number, as another *attempt*. The server may have published the first
attempt all the same, so both attempts may arrive. That is a second publication, not a duplicate. A duplicate is one
attempt that a listener receives twice.

A number is *missing* for a listener that received none of its attempts, unless the loss was reported to the listener.
It was reported if there is an interruption between the messages before that number and those after it. In a topic with
a history, an interruption is a `lost` message of the server. In a topic without a history, it is a lost connection: the
listener's own, or the one between its server and the broker.

An attempt that the server reported as failed, without doubt (`refused`), must never arrive. Without a history this is
not recorded, because such a message is delivered in its own process.

A history promises more: positions count up by one from message to message, unless there is an interruption, and all
listeners receive the same attempt at the same position.

Messages are in order if an accepted attempt comes before all attempts of later messages. Without a history, this is
promised only for messages that one process publishes. Therefore the attempts that a publisher sent on different
connections (`connections`) are not compared. It is not promised across an interruption either, because a client can
reconnect to a process that is behind the one before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple


class Attempt(NamedTuple):
    """One attempt to publish one message."""

    publisher: str
    number: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.publisher} {self.number} {self.attempt}"

    @classmethod
    def parse(cls, text: str) -> Attempt:
        publisher, number, attempt = text.split(" ")
        return cls(publisher, int(number), int(attempt))


class Received(NamedTuple):
    """A message that a listener received, with its position in the history if there is one."""

    attempt: Attempt
    epoch: str = ""
    offset: int = 0


class Interruption(NamedTuple):
    """A report to a listener that it may have missed messages.

    Args:
        reason: a text for the reader of the record.
        restarts: whether the listener or the history started again; messages can then be repeated or late.
    """

    reason: str
    restarts: bool = True


@dataclass
class Counts:
    """The result of a run; the counts from `missing` to `refused_but_delivered` must be 0.

    Args:
        messages: messages, each counted once for all its attempts.
        attempts: attempts to publish.
        accepted: messages that the server accepted, as far as the publisher knows.
        expected: deliveries if no listener misses a message.
        delivered: deliveries of messages, each counted once for each listener.
        missing: messages that did not reach a listener, without a report.
        duplicated: deliveries of an attempt that the listener had received before.
        out_of_order: deliveries after a later message.
        skipped: positions that were skipped between two messages, without a report.
        conflicting: positions at which listeners received different messages.
        refused_but_delivered: deliveries of attempts that had been reported as failed.
        refused: attempts that were reported as failed.
        unanswered: attempts without an answer in time, on connections that stayed open.
        reported_lost: messages that did not reach a listener, with a report.
        duplicated_after_interruption: repeated deliveries of an attempt, with an interruption in between.
        published_again: deliveries of a second attempt.
        interruptions: reports to listeners that they may have missed messages.
    """

    messages: int = 0
    attempts: int = 0
    accepted: int = 0
    expected: int = 0
    delivered: int = 0
    missing: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    skipped: int = 0
    conflicting: int = 0
    refused_but_delivered: int = 0
    refused: int = 0
    unanswered: int = 0
    reported_lost: int = 0
    duplicated_after_interruption: int = 0
    published_again: int = 0
    interruptions: int = 0

    @property
    def no_promise_broken(self) -> bool:
        broken = (self.missing, self.duplicated, self.out_of_order, self.skipped, self.conflicting)
        return not any(broken) and not self.refused_but_delivered


Event = Received | Interruption


@dataclass
class TopicRecord:
    """All events in one topic.

    Attributes:
        attempts: all attempts.
        accepted: the attempts that were accepted.
        refused: with a history, the attempts that were reported as failed, without doubt.
        unanswered: the number of attempts without an answer in time.
        connections: without a history, the number of the publisher's connection that an attempt was sent on.
        received: the events of each listener, in the order of their arrival.
        examples: some of the broken promises, as texts.
    """

    attempts: list[Attempt] = field(default_factory=list)
    accepted: set[Attempt] = field(default_factory=set)
    refused: set[Attempt] = field(default_factory=set)
    unanswered: int = 0
    connections: dict[Attempt, int] = field(default_factory=dict)
    received: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    examples: list[str] = field(default_factory=list)

    def counts(self) -> Counts:
        """Count all events, and collect examples of broken promises."""
        numbers = {(attempt.publisher, attempt.number) for attempt in self.accepted}
        counts = Counts(
            messages=len({(attempt.publisher, attempt.number) for attempt in self.attempts}),
            attempts=len(self.attempts),
            accepted=len(numbers),
            expected=len(numbers) * len(self.received),
            refused=len(self.refused),
            unanswered=self.unanswered,
        )
        at_position: dict[tuple[str, int], Attempt] = {}
        for listener, events in self.received.items():
            counts.interruptions += sum(isinstance(event, Interruption) for event in events)
            self._count_missing(counts, listener, events)
            self._count_duplicated(counts, listener, events)
            self._count_out_of_order(counts, listener, events)
            self._count_positions(counts, listener, events, at_position)
            self._count_refused(counts, listener, events)
        return counts

    def is_complete(self) -> bool:
        """Return whether every listener received every accepted message."""
        numbers = {(attempt.publisher, attempt.number) for attempt in self.accepted}
        return all(
            numbers <= {event.attempt[:2] for event in events if isinstance(event, Received)}
            for events in self.received.values()
        )

    def _add_example(self, text: str) -> None:
        if len(self.examples) < 20:
            self.examples.append(text)

    def _count_missing(self, counts: Counts, listener: str, events: list[Event]) -> None:
        interruptions = [index for index, event in enumerate(events) if isinstance(event, Interruption)]
        # for each publisher and number: the index of its first arrival
        first: dict[str, dict[int, int]] = defaultdict(dict)
        first_accepted: dict[str, dict[int, int]] = defaultdict(dict)
        for index, event in enumerate(events):
            if isinstance(event, Received):
                first[event.attempt.publisher].setdefault(event.attempt.number, index)
                if event.attempt in self.accepted:
                    first_accepted[event.attempt.publisher].setdefault(event.attempt.number, index)
        accepted: dict[str, set[int]] = defaultdict(set)
        for attempt in self.accepted:
            accepted[attempt.publisher].add(attempt.number)
        for publisher, numbers in accepted.items():
            arrived = first[publisher]
            counts.delivered += len(numbers & arrived.keys())
            for number in sorted(numbers - arrived.keys()):
                # An attempt that was not accepted can arrive late, so it is no lower bound.
                lower, upper = sorted(
                    (
                        _index_of_neighbour(first_accepted[publisher], number, -1, -1),
                        _index_of_neighbour(arrived, number, 0, len(events)),
                    )
                )
                if any(lower < index < upper for index in interruptions):
                    counts.reported_lost += 1
                else:
                    counts.missing += 1
                    self._add_example(f"{listener} misses {publisher} {number}, between its events {lower} and {upper}")

    def _count_duplicated(self, counts: Counts, listener: str, events: list[Event]) -> None:
        seen: dict[Attempt, int] = {}  # with the number of restarts before
        numbers: set[tuple[str, int]] = set()
        restarts = 0
        for event in events:
            if isinstance(event, Interruption):
                restarts += event.restarts
                continue
            attempt = event.attempt
            if attempt not in seen:
                counts.published_again += (attempt.publisher, attempt.number) in numbers
            elif seen[attempt] < restarts:
                counts.duplicated_after_interruption += 1
            else:
                counts.duplicated += 1
                position = f"{event.offset}-{event.epoch}"
                self._add_example(f"{listener} received {attempt} twice, the second time at {position}")
            seen[attempt] = restarts
            numbers.add((attempt.publisher, attempt.number))

    def _count_out_of_order(self, counts: Counts, listener: str, events: list[Event]) -> None:
        latest: dict[tuple[str, int], int] = {}
        seen: set[Attempt] = set()
        for event in events:
            if isinstance(event, Interruption):
                if event.restarts:
                    latest.clear()
                continue
            attempt = event.attempt
            if attempt in seen:
                continue
            seen.add(attempt)
            key = (attempt.publisher, self.connections.get(attempt, 0))
            if attempt in self.accepted and attempt.number < latest.get(key, 0):
                counts.out_of_order += 1
                self._add_example(f"{listener} received {attempt} after {latest[key]}")
            latest[key] = max(attempt.number, latest.get(key, 0))

    def _count_positions(
        self, counts: Counts, listener: str, events: list[Event], at_position: dict[tuple[str, int], Attempt]
    ) -> None:
        for event in events:
            if not isinstance(event, Received) or not event.epoch:
                continue
            if at_position.setdefault((event.epoch, event.offset), event.attempt) != event.attempt:
                counts.conflicting += 1
                position = f"{event.offset}-{event.epoch}"
                self._add_example(f"{listener} received another message at {position} than other listeners")
        for event, following in pairwise(events):
            if not isinstance(event, Received) or not isinstance(following, Received) or not event.epoch:
                continue
            if (following.epoch, following.offset) != (event.epoch, event.offset + 1):
                counts.skipped += 1
                positions = f"{following.offset}-{following.epoch} after {event.offset}-{event.epoch}"
                self._add_example(f"{listener} received {positions} without a report")

    def _count_refused(self, counts: Counts, listener: str, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Received) and event.attempt in self.refused:
                counts.refused_but_delivered += 1
                self._add_example(f"{listener} received {event.attempt}, which was reported as failed")


def _index_of_neighbour(indices: dict[int, int], number: int, step: int, default: int) -> int:
    """Return the index of the next lower number (step -1) or of the next higher one (step 0) among these numbers."""
    known = sorted(indices)
    at = bisect_left(known, number) + step
    return indices[known[at]] if 0 <= at < len(known) else default
