"""The result of `Relay.publish`: a queued message, and how it ended."""

from __future__ import annotations

import anyio
import anyio.lowlevel

from pywsapp._outbox.awaitables import LazyCoroutine
from pywsapp.brokers.base import Outgoing
from pywsapp.exceptions import BrokerUnavailable, OutcomeUnknown


class Acknowledgement(LazyCoroutine[None]):
    """A queued message; awaiting it waits until the broker has accepted the message. It need not be awaited.

    Attributes:
        message: the message.
        tries: how often a connection was given the message.

    Raises:
        BrokerUnavailable: on awaiting, if the broker has not accepted the message.
        OutcomeUnknown: on awaiting, if the broker may have accepted the message.
    """

    __slots__ = ("_done", "_event", "_failure", "_is_unknown", "message", "tries")

    def __init__(self, message: Outgoing) -> None:
        super().__init__()
        self.message = message
        self.tries = 0
        self._done = False
        self._failure: str | None = None
        self._event: anyio.Event | None = None

    async def _begin(self) -> None:
        if not self._done:
            if self._event is None:
                self._event = anyio.Event()
            await self._event.wait()
        else:  # a task that tries again and again while the broker is unavailable must not block the loop
            await anyio.lowlevel.checkpoint()
        if self._failure is not None:
            raise OutcomeUnknown(self._failure) if self._is_unknown else BrokerUnavailable(self._failure)

    def accept(self) -> None:
        """Note that the broker has accepted the message; only the first call of `accept` or `fail` counts."""
        if not self._done:
            self._end()

    def fail(self, reason: str, *, is_unknown: bool) -> None:
        """Note that the message is not published any more.

        Args:
            reason: why.
            is_unknown: whether it may have been published before.
        """
        if not self._done:
            self._failure, self._is_unknown = reason, is_unknown
            self._end()

    def _end(self) -> None:
        self._done = True
        if self._event is not None:
            self._event.set()
