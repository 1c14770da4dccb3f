"""A `Transport` over a non-blocking stream socket, for event loops that have none of their own (trio).

One task, `SocketTransport.run`, owns the socket from the first byte to the close of the file descriptor. Whatever
ends the connection only leaves a mark and wakes that task; so `connection_lost` can come but once, never from inside
a call of the link, and no file descriptor is reused while somebody still waits on it.

    run:  connection_made -> reading -> flushing -> lingering -> the fd is closed -> connection_lost
                               |           |            |             ^
                               +-----------+------------+-------------+   abort, an error, cancellation

`write` sends at once as long as nothing is queued, which costs no task switch. What the kernel does not take is
queued, and a second task lives for as long as something is. An idle connection is therefore one task parked in
`wait_readable`, and no buffer.

Lingering: a socket that is closed with unread input makes the kernel answer with RST, and a RST may overtake the
bytes the peer has not read yet. So the end of the stream is sent, and input thrown away until the peer ends too.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import anyio
from anyio.abc import TaskGroup, TaskStatus

from pywsapp._transports.base import TransportProtocol

READ_SIZE = 65536
"""Bytes taken from the kernel at once; from 128 KiB up every read would cost an mmap, five times the rest of it."""

LINGER_SECONDS = 1.0
LINGER_BYTES = 1024 * 1024

_HIGH_WATER = 65536

_logger = logging.getLogger("pywsapp")


class QueueingTransport:
    """What the transports of this package share: a link, and a queue whose limits the link is told of.

    Args:
        link: what takes the events.
    """

    __slots__ = ("_closing", "_high", "_link", "_low", "_reading_paused", "_writing_paused")

    def __init__(self, link: TransportProtocol) -> None:
        self._link = link
        self._closing = False
        self._reading_paused = False
        self._writing_paused = False
        self._high = _HIGH_WATER
        self._low = _HIGH_WATER // 4

    def is_closing(self) -> bool:
        return self._closing

    def set_protocol(self, protocol: TransportProtocol) -> None:
        self._link = protocol

    def write(self, data: bytes) -> None:
        raise NotImplementedError

    def writelines(self, pieces: Iterable[bytes]) -> None:
        self.write(b"".join(pieces))

    def get_write_buffer_size(self) -> int:
        raise NotImplementedError

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the limits in bytes; the defaults are those of asyncio (high 64 KiB, or four times low; low a quarter).

        Raises:
            ValueError: unless high >= low >= 0.
        """
        if high is None:
            high = _HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high}) must be at least low ({low}), and low at least 0")
        self._high, self._low = high, low
        if not self._closing:
            self._report_pressure()

    def _say_lost(self, exc: Exception | None) -> None:
        try:
            self._link.connection_lost(exc)
        except Exception:
            _logger.exception("a link failed in connection_lost")
        # TransportProtocol and transport hold each other; without this both would wait for the garbage collector.
        del self._link

    def _report_pressure(self) -> None:
        size = self.get_write_buffer_size()
        if self._writing_paused:
            if size <= self._low:
                self._writing_paused = False
                self._link.resume_writing()
        elif size > self._high:
            self._writing_paused = True
            self._link.pause_writing()


class SocketTransport(QueueingTransport):
    """Move the bytes of one connected stream socket; `run` must be running for anything to happen.

    Args:
        sock: connected and non-blocking; the transport owns it from now on.
        link: what takes the events.
        task_group: where `run` runs, and where the writer is started when something has to be queued.
    """

    __slots__ = ("_aborted", "_eof", "_exc", "_peername", "_queue", "_sock", "_tasks", "_wake", "_writing")

    def __init__(self, sock: socket.socket, link: TransportProtocol, task_group: TaskGroup) -> None:
        super().__init__(link)
        self._sock = sock
        self._tasks = task_group
        self._queue: bytearray | None = None
        self._writing = False
        self._eof = False
        self._aborted = False
        self._exc: Exception | None = None
        self._wake: anyio.Event | None = None
        self._peername: Any = None
        # The peer may be gone already; then the first read will say so.
        with suppress(OSError):
            self._peername = sock.getpeername()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Bring the link everything from `connection_made` to `connection_lost`; return when the socket is closed.

        Args:
            task_status: told once `connection_made` has returned.
        """
        try:
            self._link.connection_made(self)
            task_status.started()
            await self._read()
            while self._queue:
                await self._park()
            if not self._aborted:
                await self._linger()
        except OSError as exc:
            self._exc = self._exc or exc
        except Exception as exc:
            # A fault in a link ends its own connection, not the task group with all the others.
            _logger.exception("a connection is aborted because its link failed")
            self._exc = exc
        finally:
            self._closing = self._aborted = True
            self._queue = None
            anyio.notify_closing(self._sock)
            self._sock.close()
            self._say_lost(self._exc)

    def write(self, data: bytes) -> None:
        """Send bytes at once if nothing is queued, or queue them; silent after `close`."""
        if self._closing or not data:
            return
        if self._queue:
            self._queue += data
        else:
            try:
                sent = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as exc:
                self._fail(exc)
                return
            if sent == len(data):
                return
            self._queue = bytearray(memoryview(data)[sent:])
            if not self._writing:
                self._writing = True
                self._tasks.start_soon(self._write_queued)
        self._report_pressure()

    def close(self) -> None:
        """Stop reading, send what is queued, then close; `connection_lost` follows."""
        if not self._closing:
            self._closing = True
            self._rouse()

    def abort(self) -> None:
        """Drop what is queued and close; `connection_lost` follows, not from inside this call."""
        if not self._aborted:
            self._closing = True
            self._aborted = True
            self._queue = None
            self._rouse()

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self) -> None:
        self._reading_paused = False
        if self._wake is not None:
            self._wake.set()

    def get_write_buffer_size(self) -> int:
        return len(self._queue) if self._queue else 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Give `"peername"`, `"sockname"` (until the socket is closed) or `"socket"`."""
        if name == "peername":
            return default if self._peername is None else self._peername
        if name == "socket":
            return self._sock
        if name == "sockname":
            try:
                return self._sock.getsockname()
            except OSError:
                return default
        return default

    async def _read(self) -> None:
        sock = self._sock
        while not self._closing:
            if self._reading_paused or self._eof:
                await self._park()
                continue
            try:
                await anyio.wait_readable(sock)
            except anyio.ClosedResourceError:
                continue
            if self._reading_paused or self._closing:
                continue
            try:
                data = sock.recv(READ_SIZE)
            except (BlockingIOError, InterruptedError):
                continue
            if data:
                self._link.data_received(data)
            else:
                self._eof = True
                if not self._link.eof_received():
                    self.close()

    async def _write_queued(self) -> None:
        try:
            while self._queue:
                try:
                    await anyio.wait_writable(self._sock)
                except anyio.ClosedResourceError:
                    # It was the reader that had to be woken; what is queued still has to leave.
                    continue
                if self._queue:
                    del self._queue[: self._sock.send(self._queue)]
                    self._report_pressure()
        except OSError as exc:
            self._fail(exc)
        finally:
            self._writing = False
            self._queue = None
            if self._wake is not None:
                self._wake.set()

    async def _linger(self) -> None:
        budget = LINGER_BYTES
        try:
            self._sock.shutdown(socket.SHUT_WR)
            with anyio.move_on_after(LINGER_SECONDS):
                while budget > 0 and not self._aborted:
                    await anyio.wait_readable(self._sock)
                    try:
                        size = len(self._sock.recv(READ_SIZE))
                    except (BlockingIOError, InterruptedError):
                        continue
                    if not size:
                        return
                    budget -= size
        except (OSError, anyio.ClosedResourceError):
            # Everything was sent and the end is wanted: how the peer goes makes no difference any more.
            pass

    def _fail(self, exc: OSError) -> None:
        if not self._aborted:
            self._exc = exc
            self.abort()

    async def _park(self) -> None:
        self._wake = anyio.Event()
        try:
            await self._wake.wait()
        finally:
            self._wake = None

    def _rouse(self) -> None:
        """Bring `run` out of whatever it waits for, to look at the marks."""
        if self._wake is not None:
            self._wake.set()
        else:
            anyio.notify_closing(self._sock)
