"""A plain response on its way to the peer: how fast the peer takes it, and the pieces and the end of its body."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import anyio

from pywsapp._log_fields import log_fields
from pywsapp._transports.large_write import PIECE

logger = logging.getLogger("pywsapp")

#: Bytes of a request that are discarded after its response; then the connection is closed.
LINGER_BYTES = 8 * 1024 * 1024
_ACLOSE_SECONDS = 2.0


class ResponseProgress:
    """How many bytes of a response the peer has taken, and since when it is measured.

    Args:
        written: bytes of the response that were passed to the transport already.

    Attributes:
        written: bytes of the response that were passed to the transport.
    """

    __slots__ = ("_since", "_taken", "written")

    def __init__(self, written: int = 0) -> None:
        self.written = written
        self._taken = 0
        self._since: float | None = None

    def restart(self) -> None:
        """Measure from the next call of `seconds` on."""
        self._since = None

    def seconds(self, now: float, unsent: int, *, steady: bool = False) -> float:
        """Return the seconds since the measurement began.

        Args:
            now: seconds of a monotonic clock.
            unsent: bytes that the transport has not sent yet.
            steady: whether the measurement begins again when the peer has taken any bytes.
        """
        if self._since is None or (steady and self.written - unsent != self._taken):
            self._since, self._taken = now, self.written - unsent
        return now - self._since

    def is_too_slow(self, now: float, unsent: int, period: float, rate: float | None) -> bool:
        """Return whether the peer took less than `rate` bytes per second, or nothing, during a whole period.

        Args:
            now: seconds of a monotonic clock.
            unsent: bytes that the transport has not sent yet.
            period: seconds after which the measurement has a result and begins again.
            rate: bytes per second; None for any progress.
        """
        seconds = self.seconds(now, unsent)
        if seconds < period:
            return False
        taken = self.written - unsent - self._taken
        self.restart()
        return taken < max(1, (rate or 0) * seconds)


async def in_pieces(body: bytes) -> AsyncIterator[Any]:
    """Yield a large body in pieces, which are views of it."""
    view = memoryview(body)
    for start in range(0, len(view), PIECE):
        yield view[start : start + PIECE]


async def close_body(body: AsyncIterator[bytes]) -> None:
    """Close an async generator that did not reach its end; works in a cancelled task too."""
    aclose = getattr(body, "aclose", None)
    if aclose is None:
        return
    with anyio.move_on_after(_ACLOSE_SECONDS, shield=True):
        try:
            await aclose()
        except Exception:
            logger.exception("closing the body of a response failed", extra=log_fields("response.close_failed"))
