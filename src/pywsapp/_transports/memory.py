"""Two connected transports without I/O and without an event loop, for tests that must run the same way each time.

Writing delivers nothing. `pump` delivers in turns until both sides are idle. The bytes that one side has queued at its
turn are delivered as one piece, as TCP can do, unless `cut` divides them, as TCP also can. `close` delivers the queued
bytes and then an end of stream to the peer; `abort` drops the queued bytes and resets the peer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pywsapp._transports.base import TransportProtocol
from pywsapp._transports.socket import QueueingTransport

Cut = Callable[[bytes], Iterable[bytes]]


def memory_pipe(
    left: TransportProtocol, right: TransportProtocol, *, cut: Cut | None = None, extra: Mapping[str, Any] | None = None
) -> tuple[MemoryTransport, MemoryTransport]:
    """Connect two protocols; calls `connection_made` of both, the left one first.

    Args:
        left: the protocol of the transport that is returned first.
        right: the other protocol.
        cut: divides bytes into the pieces to deliver; joined, the pieces must be the same bytes.
        extra: the values for `get_extra_info` of both transports.
    """
    ends = MemoryTransport(left, cut, extra or {}), MemoryTransport(right, cut, extra or {})
    for end, peer in (ends, ends[::-1]):
        end._peer = peer
    for end in ends:
        end._protocol.connection_made(end)
    return ends


class MemoryTransport(QueueingTransport):
    """One end of a `memory_pipe`; bytes count as queued until they are delivered."""

    __slots__ = ("_aborted", "_cut", "_eof", "_exc", "_extra", "_lost", "_peer", "_pumping", "_queue")

    _peer: MemoryTransport

    def __init__(self, protocol: TransportProtocol, cut: Cut | None, extra: Mapping[str, Any]) -> None:
        super().__init__(protocol)
        self._cut = cut
        self._extra = extra
        self._queue = bytearray()
        self._aborted = False
        self._eof = False
        self._lost = False
        self._exc: Exception | None = None
        self._pumping = False

    def pump(self) -> None:
        """Deliver in both directions until both sides are idle; does nothing when called from inside a delivery."""
        if self._pumping or self._peer._pumping:
            return
        self._pumping = True
        try:
            while self._step() | self._peer._step():
                pass
        finally:
            self._pumping = False

    def write(self, data: bytes) -> None:
        if not self._closing and data:
            self._queue += data
            self._report_pressure()

    def close(self) -> None:
        self._closing = True

    def abort(self) -> None:
        self._closing = self._aborted = True
        self._queue.clear()

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self) -> None:
        self._reading_paused = False

    def get_write_buffer_size(self) -> int:
        return len(self._queue)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._extra.get(name, default)

    def _step(self) -> bool:
        moved = self._deliver()
        if self._closing and not self._queue and not self._lost:
            self._lost = moved = True
            self._report_loss(self._exc)
        if self._peer._lost and not (self._eof or self._closing or self._reading_paused):
            self._eof = moved = True
            if self._peer._aborted:
                self._exc = ConnectionResetError("the peer aborted")
                self.abort()
            elif not self._protocol.eof_received():
                self.close()
        return moved

    def _deliver(self) -> bool:
        peer = self._peer
        if not self._queue or (peer._reading_paused and not peer._closing):
            return False
        data = bytes(self._queue)
        for piece in self._cut(data) if self._cut else (data,):
            if peer._closing:
                self._queue.clear()
            if peer._reading_paused or not self._queue:
                break
            if piece:
                del self._queue[: len(piece)]
                peer._protocol.data_received(piece)
        self._report_pressure()
        return True
