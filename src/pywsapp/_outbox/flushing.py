"""One write for each connection and turn of the event loop: what was sent during a turn leaves together at its end.

A broadcast to ten thousand fills ten thousand outboxes in one turn. Most of them have to wait for later turns, so that
the loop does not stand still meanwhile. Those that are filled in a later turn do not wait behind them; and what is sent
to those that wait leaves with the same write. But half of a turn belongs to those that wait, the longest first: where
each turn fills as many as it flushes, as thousands of busy clients do, they would else wait for ever.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pywsapp._outbox.outbox import Flusher

if TYPE_CHECKING:
    from pywsapp.connection import Connection

logger = logging.getLogger("pywsapp")

#: Connections that are flushed in one turn: what takes about a millisecond, most of it in the kernel.
FLUSHES_A_TURN = 250


class TurnFlusher(Flusher):
    """Flushes filled connections at the end of the loop's turn.

    Args:
        at_end: calls what it is given at the end of the turn; asyncio's `loop.call_soon`.
    """

    __slots__ = ("_at_end", "_flush", "_waiting")

    def __init__(self, at_end: Callable[[Callable[[], None]], Any]) -> None:
        super().__init__()
        self._at_end = at_end
        self._flush = self.flush
        self._waiting: deque[Connection] | None = None

    def schedule(self) -> None:
        """Flush at the end of this turn."""
        if self._waiting is None:  # else it will be
            self._at_end(self._flush)

    def flush(self) -> None:
        """Flush what was added in this turn, or as much of it as one turn may take; then some of what has to wait."""
        filled, self.filled = self.filled, []
        if self._waiting is not None or len(filled) > FLUSHES_A_TURN:
            filled = self._share_out(filled)
        for connection in filled:
            try:
                connection.flush()
            except Exception:
                logger.exception("flushing %r failed", connection)
                connection.abort()

    def _share_out(self, filled: list[Connection]) -> list[Connection]:
        """Give the connections whose turn it is, and keep the rest."""
        waiting = self._waiting or deque()
        room = FLUSHES_A_TURN - min(len(waiting), FLUSHES_A_TURN // 2)
        waiting.extend(filled[room:])
        del filled[room:]
        filled += [waiting.popleft() for _ in range(min(len(waiting), FLUSHES_A_TURN - len(filled)))]
        self._waiting = waiting or None
        if waiting:
            self._at_end(self._flush)
        return filled
