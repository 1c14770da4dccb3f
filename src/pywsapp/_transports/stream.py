"""A `Transport` over any anyio `ByteStream`, for TLS where the event loop has no transport of its own (trio).

A stream can only be awaited, so two tasks serve it: one receives, and one sends what is queued. `close` cancels the
receiver and lets the sender finish; `abort` cancels both. `StreamTransport.run` alone closes the stream and calls
`connection_lost`.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import anyio
from anyio.abc import AnyByteStream, ByteStream, SocketAttribute, SocketStream, TaskStatus
from anyio.streams.tls import TLSAttribute, TLSStream

from pywsapp._transports.base import TransportProtocol
from pywsapp._transports.socket import LINGER_BYTES, LINGER_SECONDS, READ_SIZE, QueueingTransport

_SEND_SIZE = 262144
_ATTRIBUTES = {
    "peername": SocketAttribute.remote_address,
    "sockname": SocketAttribute.local_address,
    "socket": SocketAttribute.raw_socket,
    "ssl_object": TLSAttribute.ssl_object,
}
# Sending raises EndOfStream too, when a TLS peer closed without a close_notify. BusyResourceError is raised when the
# receiver and the sender of a TLS stream collide, because the peer requests new keys while we send.
_STREAM_ERRORS = (
    OSError,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.BusyResourceError,
    anyio.EndOfStream,
)

_logger = logging.getLogger("pywsapp")


class StreamTransport(QueueingTransport):
    """The transport of one anyio stream; it works while `run` is running.

    Args:
        stream: the stream; the transport owns it from now on.
        protocol: the receiver of the events.
        extra: values for `get_extra_info`; they override those of the stream.
    """

    __slots__ = ("_exc", "_extra", "_filled", "_queue", "_reading", "_resumed", "_sending", "_stream", "_working")

    def __init__(
        self, stream: ByteStream, protocol: TransportProtocol, *, extra: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(protocol)
        self._stream = stream
        # Read now, because a closed stream raises errors.
        known = {name: stream.extra(attribute, None) for name, attribute in _ATTRIBUTES.items()}
        self._extra: dict[str, Any] = {**known, **(extra or {})}
        self._queue = bytearray()
        self._sending = 0
        self._exc: Exception | None = None
        self._working = anyio.CancelScope()
        self._reading = anyio.CancelScope()
        self._resumed: anyio.Event | None = None
        self._filled: anyio.Event | None = None

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve the protocol from `connection_made` to `connection_lost`; return when the stream is closed.

        Args:
            task_status: reports that `connection_made` has returned.
        """
        try:
            with self._working:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._write_queued)
                    with self._reading:
                        await self._read(task_status)
                await self._linger()
        finally:
            self._closing = True
            self._queue.clear()
            self._sending = 0
            try:
                with anyio.move_on_after(LINGER_SECONDS, shield=True), suppress(Exception):
                    await anyio.aclose_forcefully(self._stream)
            finally:
                self._report_loss(self._exc)

    def write(self, data: bytes) -> None:
        """Queue bytes for the sender; does nothing after `close`."""
        if self._closing or not data:
            return
        self._queue += data
        if self._filled is not None:
            self._filled.set()
        self._report_pressure()

    def close(self) -> None:
        """Stop reading, send what is queued, then close; `connection_lost` follows."""
        if not self._closing:
            self._closing = True
            self._reading.cancel()
            if self._filled is not None:
                self._filled.set()

    def abort(self) -> None:
        """Drop what is queued and close; `connection_lost` follows after this call has returned."""
        self._closing = True
        self._queue.clear()
        self._working.cancel()

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self) -> None:
        self._reading_paused = False
        if self._resumed is not None:
            self._resumed.set()

    def get_write_buffer_size(self) -> int:
        return len(self._queue) + self._sending

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the `"peername"`, `"sockname"`, `"socket"` or `"ssl_object"` from `extra` or the stream."""
        value = self._extra.get(name)
        return default if value is None else value

    async def _read(self, task_status: TaskStatus[None]) -> None:
        try:
            self._protocol.connection_made(self)
            task_status.started()
            while not self._closing:
                try:
                    data = await self._stream.receive(READ_SIZE)
                except anyio.EndOfStream:
                    break
                while self._reading_paused:
                    self._resumed = anyio.Event()
                    await self._resumed.wait()
                if not self._closing:
                    self._protocol.data_received(data)
            if not self._closing and self._protocol.eof_received():
                await anyio.sleep_forever()
            self.close()
        except Exception as exc:
            self._fail(exc)

    async def _write_queued(self) -> None:
        try:
            while True:
                if self._queue:
                    piece = bytes(self._queue[:_SEND_SIZE])
                    del self._queue[:_SEND_SIZE]
                    self._sending = len(piece)
                    await self._stream.send(piece)
                    self._sending = 0
                    self._report_pressure()
                elif self._closing:
                    return
                else:
                    self._filled = anyio.Event()
                    await self._filled.wait()
        except Exception as exc:
            self._fail(exc)

    async def _linger(self) -> None:
        """Send the end of the stream and discard input until the peer ends its stream, within limits.

        `pywsapp._transports.socket` explains why. A TLS stream must not close itself, because it would wait for the
        peer's close_notify without a limit.
        """
        stream: AnyByteStream = self._stream
        budget = LINGER_BYTES
        # Everything was sent and the connection is to end, so an error changes nothing.
        with anyio.move_on_after(LINGER_SECONDS), suppress(Exception):
            if isinstance(stream, TLSStream):
                with suppress(*_STREAM_ERRORS):
                    await stream.unwrap()
                stream = stream.transport_stream
            if isinstance(stream, ByteStream):
                await stream.send_eof()
            while budget > 0:
                budget -= len(await stream.receive())

    def _fail(self, exc: Exception) -> None:
        if not isinstance(exc, _STREAM_ERRORS):
            # A fault in a protocol ends its own connection, not the task group with all the others.
            _logger.error("a connection is aborted because its protocol failed", exc_info=exc)
        elif not isinstance(exc, OSError):
            exc = exc.__cause__ if isinstance(exc.__cause__, OSError) else ConnectionResetError("the stream broke")
        if self._exc is None:
            self._exc = exc
        self.abort()


async def secure(stream: SocketStream, context: ssl.SSLContext, hostname: str | None = None) -> TLSStream:
    """Perform a TLS handshake, in the client role if a host name is given; a failure closes the stream.

    Raises:
        OSError: the handshake failed (ssl.SSLError), or the peer closed the connection.
    """
    try:
        return await TLSStream.wrap(
            stream, server_side=hostname is None, hostname=hostname, ssl_context=context, standard_compatible=False
        )
    except BaseException as exc:
        await anyio.aclose_forcefully(stream)
        if isinstance(exc, (anyio.EndOfStream, anyio.BrokenResourceError)):
            raise ConnectionResetError("the peer closed the connection during the TLS handshake") from exc
        raise
