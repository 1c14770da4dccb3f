"""When a client of topics comes back: as the protocol says, with the pauses of `reconnecting`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pywsapp._connecting.backoff import Backoff, ReconnectRules
from pywsapp.close_codes import CloseCode, ComeBack, come_back

#: Seconds over which clients come back at random when the server has told them to, or restarts.
SPREAD = 5.0
#: Seconds before which no client comes back to a server that has too much to do.
_BUSY = 5.0


class Order(NamedTuple):
    """The meaning of the end of a connection, if the close code does not say it.

    Args:
        come_back: whether the client comes back, and how.
        least: seconds to wait at least.
        spread: the bound of the random time on top; None is that of `Backoff`, which grows with each failure.
    """

    come_back: ComeBack
    least: float = 0
    spread: float | None = None


class TopicsRules(ReconnectRules):
    """The next step of a client of topics after each event; the arguments are those of `ReconnectRules`.

    Attributes:
        order: what the end of the current connection means; None if its close code decides.
        reason: why the last connection has ended, or the last attempt failed; the driver sets it for connections.
    """

    def __init__(self, backoff: Backoff, *, renews: bool, uniform: Callable[[float, float], float]) -> None:
        super().__init__(backoff, renews=renews, uniform=uniform)
        self.order: Order | None = None
        self.reason: Exception | None = None

    def accepted(self) -> None:
        """Note that the server has accepted the credentials of the connection."""
        self._has_renewed = False

    def lost(self, code: int | None, now: float) -> float | None:
        """Return the seconds to wait after a connection has ended; see `ReconnectRules.lost`."""
        order, self.order = self.order, None
        self._count_end(now)
        if order is None or code == CloseCode.UNAUTHENTICATED:
            order = _order_of(code)
        if order.come_back is ComeBack.NEVER:
            return None
        if order.come_back is ComeBack.WITH_CREDENTIALS and not self._renew():
            return None
        return self._pause(now, min(order.least, self._backoff.max_retry_after), order.spread)

    def failed(self, exc: Exception, now: float, wall_clock: float) -> float | None:
        """Return the seconds to wait after a failed attempt; see `ReconnectRules.failed`."""
        self.reason = exc
        return super().failed(exc, now, wall_clock)


def _order_of(code: int | None) -> Order:
    """Return what a close code means; None is a connection that this side has ended."""
    if code == CloseCode.SERVICE_RESTART:
        return Order(ComeBack.LATER, 0, SPREAD)
    if code == CloseCode.TRY_AGAIN_LATER:
        return Order(ComeBack.LATER, _BUSY, SPREAD)
    if code is None or code == CloseCode.NORMAL:  # a server that wants no further connection sends `disconnect`
        return Order(ComeBack.LATER)
    return Order(come_back(code))
