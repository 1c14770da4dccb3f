"""A `Transport` over a non-blocking stream socket, for event loops that have none of their own (trio).

One task, `SocketTransport.run`, owns the socket from the first byte to the closing of the file descriptor. Every other
method that ends the connection only sets a flag and wakes that task. Therefore `connection_lost` is called exactly once
and never from inside a call of the protocol, and no file descriptor is reused while a task still waits for it.

    run:  connection_made -> reading -> flushing -> lingering -> the socket is closed -> connection_lost
                               |           |            |             ^
                               +-----------+------------+-------------+   abort, an error, cancellation

`write` sends at once as long as nothing is queued, which costs no task switch. It queues what the kernel does not
accept, and a second task lives as long as anything is queued. An idle connection is therefore one task in
`wait_readable`, and no buffer.

Lingering: when a socket with unread input is closed, the kernel sends an RST, and the RST can overtake bytes that the
peer has not read yet. The transport therefore sends the end of the stream, and discards input until the peer ends its
stream too.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import anyio
from anyio.abc import TaskGroup, TaskStatus

from pywsapp._log_fields import log_fields
from pywsapp._transports.base import TransportProtocol

READ_SIZE = 66 * 1024
"""Bytes of one read: a message of 64 KiB, its frame and the records of TLS around it.

From 128 KiB on, every read would cost an mmap, five times as much as the rest of the read.
"""

LINGER_SECONDS = 1.0
"""How long a closed connection waits for the end of the peer's stream."""

LINGER_BYTES = 1024 * 1024
"""How many bytes of input a closed connection discards before it stops waiting."""

_HIGH_WATER = 65536

_logger = logging.getLogger("pywsapp")


class QueueingTransport:
    """The base of the transports of this package: a protocol, and a queue whose limits it reports to the protocol.

    Args:
        protocol: the receiver of the events.
    """

    __slots__ = ("_closing", "_high", "_low", "_protocol", "_reading_paused", "_writing_paused")

    def __init__(self, protocol: TransportProtocol) -> None:
        self._protocol = protocol
        self._closing = False
        self._reading_paused = False
        self._writing_paused = False
        self._high = _HIGH_WATER
        self._low = _HIGH_WATER // 4

    def is_closing(self) -> bool:
        return self._closing

    def set_protocol(self, protocol: TransportProtocol) -> None:
        self._protocol = protocol

    def write(self, data: bytes) -> None:
        raise NotImplementedError

    def writelines(self, pieces: Iterable[bytes]) -> None:
        self.write(b"".join(pieces))

    def get_write_buffer_size(self) -> int:
        raise NotImplementedError

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the limits in bytes.

        The defaults are asyncio's: `high` is 64 KiB, or four times `low`; `low` is a quarter of `high`.

        Raises:
            ValueError: the limits are not high >= low >= 0.
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

    def _report_loss(self, exc: Exception | None) -> None:
        try:
            self._protocol.connection_lost(exc)
        except Exception:
            _logger.exception("a protocol failed in connection_lost", extra=log_fields("connection.transport_failed"))
        # Protocol and transport refer to each other; without this both would wait for the garbage collector.
        del self._protocol

    def _report_pressure(self) -> None:
        size = self.get_write_buffer_size()
        if self._writing_paused:
            if size <= self._low:
                self._writing_paused = False
                self._protocol.resume_writing()
        elif size > self._high:
            self._writing_paused = True
            self._protocol.pause_writing()


class SocketTransport(QueueingTransport):
    """The transport of one connected stream socket; it works while `run` is running.

    Args:
        sock: a connected, non-blocking socket; the transport owns it from now on.
        protocol: the receiver of the events.
        task_group: the task group of `run`; the task that sends queued bytes starts in it.
        received: bytes that were read from the socket before, which the protocol gets first.
    """

    __slots__ = ("_aborted", "_eof", "_exc", "_peername", "_queue", "_received", "_sock", "_tasks", "_wake", "_writing")

    def __init__(
        self, sock: socket.socket, protocol: TransportProtocol, task_group: TaskGroup, received: bytes = b""
    ) -> None:
        super().__init__(protocol)
        self._sock = sock
        self._tasks = task_group
        self._received = received
        self._queue: bytearray | None = None
        self._writing = False
        self._eof = False
        self._aborted = False
        self._exc: Exception | None = None
        self._wake: anyio.Event | None = None
        self._peername: Any = None
        # If the peer is gone already, the first read reports it.
        with suppress(OSError):
            self._peername = sock.getpeername()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve the protocol from `connection_made` to `connection_lost`; return when the socket is closed.

        Args:
            task_status: reports that `connection_made` has returned.
        """
        try:
            self._protocol.connection_made(self)
            task_status.started()
            await self._read()
            while self._queue:
                await self._wait()
            if not self._aborted:
                await self._linger()
        except OSError as exc:
            self._exc = self._exc or exc
        except Exception as exc:
            # A fault in a protocol ends its own connection, not the task group with all the others.
            _logger.exception(
                "a connection is aborted because its protocol failed", extra=log_fields("connection.transport_failed")
            )
            self._exc = exc
        finally:
            self._closing = self._aborted = True
            self._queue = None
            anyio.notify_closing(self._sock)
            self._sock.close()
            self._report_loss(self._exc)

    def write(self, data: bytes) -> None:
        """Send bytes at once if nothing is queued, else queue them; does nothing after `close`."""
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
            self._wake_run()

    def abort(self) -> None:
        """Drop what is queued and close; `connection_lost` follows after this call has returned."""
        if not self._aborted:
            self._closing = True
            self._aborted = True
            self._queue = None
            self._wake_run()

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self) -> None:
        self._reading_paused = False
        if self._wake is not None:
            self._wake.set()

    def get_write_buffer_size(self) -> int:
        return len(self._queue) if self._queue else 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the `"peername"`, the `"sockname"` (until the socket is closed) or the `"socket"`."""
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
        while self._received and not self._closing:
            if self._reading_paused:
                await self._wait()
            else:
                received, self._received = self._received, b""
                self._protocol.data_received(received)
        while not self._closing:
            if self._reading_paused or self._eof:
                await self._wait()
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
                self._protocol.data_received(data)
            else:
                self._eof = True
                if not self._protocol.eof_received():
                    self.close()

    async def _write_queued(self) -> None:
        try:
            while self._queue:
                try:
                    await anyio.wait_writable(self._sock)
                except anyio.ClosedResourceError:
                    # `notify_closing` wakes this task too, when it only has to wake the reader.
                    continue
                if self._queue:
                    try:
                        sent = self._sock.send(self._queue)
                    except (BlockingIOError, InterruptedError):
                        continue  # the kernel had memory again, and another socket took it
                    del self._queue[:sent]
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
            # Everything was sent and the connection is to end, so an error changes nothing.
            pass

    def _fail(self, exc: OSError) -> None:
        if not self._aborted:
            self._exc = exc
            self.abort()

    async def _wait(self) -> None:
        self._wake = anyio.Event()
        try:
            await self._wake.wait()
        finally:
            self._wake = None

    def _wake_run(self) -> None:
        """Wake `run` from any wait, so that it checks the flags."""
        if self._wake is not None:
            self._wake.set()
        else:
            anyio.notify_closing(self._sock)
