"""One write for each connection and turn of the event loop: frames that were queued during a turn leave at its end.

A broadcast to ten thousand connections fills ten thousand outboxes in one turn. Most of them wait for later turns, so
that the loop does not stand still meanwhile. Outboxes that are filled in a later turn do not wait behind them, and a
message to a connection that waits leaves with the same write. Half of each turn belongs to those that have waited
longest: otherwise they would wait for ever where each turn fills as many outboxes as it flushes, as thousands of busy
clients do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pywsapp._log_fields import log_fields
from pywsapp._outbox.outbox import Flusher

if TYPE_CHECKING:
    from pywsapp._outbox.outbox import Outbox

logger = logging.getLogger("pywsapp")

#: Outboxes that are flushed in one turn; they take about a millisecond, most of it in the kernel.
FLUSHES_A_TURN = 250


class TurnFlusher(Flusher):
    """Flushes outboxes at the end of the loop's turn.

    Args:
        at_end: calls a function at the end of the turn; asyncio's `loop.call_soon`.
    """

    __slots__ = ("_at_end", "_flush", "_waiting")

    def __init__(self, at_end: Callable[[Callable[[], None]], Any]) -> None:
        super().__init__()
        self._at_end = at_end
        self._flush = self.flush
        self._waiting: list[Outbox] | None = None

    def schedule(self) -> None:
        """Flush at the end of this turn."""
        if self._waiting is None:  # else a flush is scheduled already
            self._at_end(self._flush)

    def flush(self) -> None:
        """Flush the outboxes of this turn, as many as one turn may take, then some of those that have to wait."""
        filled, self.filled = self.filled, []
        if self._waiting is not None or len(filled) > FLUSHES_A_TURN:
            filled = self._outboxes_of_turn(filled)
        for outbox in filled:
            try:
                outbox.flush()
            except Exception:
                logger.exception(
                    "flushing a connection failed; it is dropped", extra=log_fields("connection.flush_failed")
                )
                outbox.fail()

    def _outboxes_of_turn(self, filled: list[Outbox]) -> list[Outbox]:
        """Return the outboxes to flush in this turn, and keep the rest."""
        waiting = self._waiting or []
        room = FLUSHES_A_TURN - min(len(waiting), FLUSHES_A_TURN // 2)
        waiting += filled[room:]
        del filled[room:]
        room = FLUSHES_A_TURN - len(filled)
        filled += waiting[:room]
        del waiting[:room]
        self._waiting = waiting or None
        if waiting:
            self._at_end(self._flush)
        return filled
