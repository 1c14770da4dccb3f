"""Signed envelopes that were received before are recognised by their publisher and number.

A program that can write to the broker, and does not have the key, can repeat a signed envelope. Each envelope has a
number under its signature that grows with each envelope of its publisher. The envelopes of one publisher on one topic
arrive in their order, so one whose number is not larger than the last one's was received before.

The first envelope of a publisher on a topic has no number before it. It must be new: its number is the time at its
publisher, which must not be more than `TOLERANCE_SECONDS` behind. Such an envelope can be a repetition from before this
process has listened to the topic. Its position in a history is therefore not believed: the history is read instead.
"""

from __future__ import annotations

import time
from enum import Enum, auto

from pywsapp.brokers.envelope import Envelope, EnvelopeError

#: By how many seconds the clock of a publisher may be behind.
TOLERANCE_SECONDS = 300
#: Pairs of a topic and a publisher whose last number is remembered; the pair that was silent longest is forgotten.
MAX_REMEMBERED = 50_000
#: Publishers in a history whose last number is remembered while messages are read from it.
_MAX_PUBLISHERS = 1000


class Novelty(Enum):
    """The relation of the number of an envelope to earlier ones."""

    NEXT = auto()  #: it is larger than the last number of its publisher
    FIRST = auto()  #: it is the first one of its publisher, and new
    OLD = auto()  #: it is the first one of its publisher, and not new
    REPEATED = auto()  #: it was received before


class GrowingNumbers:
    """The last numbers of publishers; a history that is read has one, to recognise messages that are in it twice."""

    def __init__(self, size: int = _MAX_PUBLISHERS) -> None:
        self._size = size
        self._last: dict[str, int] = {}

    def add(self, publisher: str, number: int) -> int | None:
        """Remember a number if it is larger than the last one; return that one, None if there is none."""
        last = self._last.pop(publisher, None)
        self._last[publisher] = number if last is None else max(number, last)  # at the end of the dict
        if len(self._last) > self._size:
            del self._last[next(iter(self._last))]
        return last


class ReplayGuard:
    """The last numbers of the signed envelopes that one process has received. The codec creates one."""

    def __init__(self) -> None:
        self._numbers = GrowingNumbers(MAX_REMEMBERED)

    def check_new(self, envelope: Envelope) -> None:
        """Check that a verified envelope is neither repeated nor old, and remember its number.

        Raises:
            EnvelopeError: it is.
        """
        novelty = self.novelty_of(envelope)
        if novelty is Novelty.REPEATED:
            raise EnvelopeError("it was received before")
        if novelty is Novelty.OLD:
            raise EnvelopeError("it is old, or the clock of its publisher is more than five minutes behind")

    def novelty_of(self, envelope: Envelope) -> Novelty:
        """Return how the number of a verified envelope relates to earlier ones, and remember it."""
        number = envelope.number
        last = self._numbers.add(f"{envelope.topic} {envelope.origin}", number)
        if last is not None:
            return Novelty.NEXT if number > last else Novelty.REPEATED
        return Novelty.FIRST if number > (time.time() - TOLERANCE_SECONDS) * 1e6 else Novelty.OLD
