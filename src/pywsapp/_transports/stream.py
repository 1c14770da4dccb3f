"""A `Transport` over any anyio `ByteStream`: TLS where the event loop has no transport of its own (trio), and the rest.

A stream can only be awaited, so two tasks serve it: one receives, one sends what is queued. `close` takes the
receiver away and lets the sender finish; `abort` takes both away. The stream is closed, and `connection_lost` called,
by `StreamTransport.run` alone.
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
# EndOfStream also comes from sending, when a TLS peer left without a close_notify; BusyResourceError when receiver and
# sender of a TLS stream collide, because the peer asks for new keys while we send.
_STREAM_ERRORS = (
    OSError,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.BusyResourceError,
    anyio.EndOfStream,
)

_logger = logging.getLogger("pywsapp")


class StreamTransport(QueueingTransport):
    """Move the bytes of one anyio stream; `run` must be running for anything to happen.

    Args:
        stream: the transport owns it from now on.
        link: what takes the events.
        extra: answers of `get_extra_info` that go before what the stream itself knows.
    """

    __slots__ = ("_exc", "_extra", "_filled", "_queue", "_reading", "_resumed", "_sending", "_stream", "_working")

    def __init__(self, stream: ByteStream, link: TransportProtocol, *, extra: Mapping[str, Any] | None = None) -> None:
        super().__init__(link)
        self._stream = stream
        # Asked now, since a closed stream answers with errors.
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
        """Bring the link everything from `connection_made` to `connection_lost`; return when the stream is closed.

        Args:
            task_status: told once `connection_made` has returned.
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
                self._say_lost(self._exc)

    def write(self, data: bytes) -> None:
        """Queue bytes for the sender; silent after `close`."""
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
        """Drop what is queued and close; `connection_lost` follows, not from inside this call."""
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
        """Give what `extra` or the stream knows of `"peername"`, `"sockname"`, `"socket"` or `"ssl_object"`."""
        value = self._extra.get(name)
        return default if value is None else value

    async def _read(self, task_status: TaskStatus[None]) -> None:
        try:
            self._link.connection_made(self)
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
                    self._link.data_received(data)
            if not self._closing and self._link.eof_received():
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
        """Say the end and throw input away until the peer ends too (`hosting.sockets` tells why), within a bound.

        A TLS stream is not left to close itself, because it waits for the peer's close_notify without one.
        """
        stream: AnyByteStream = self._stream
        budget = LINGER_BYTES
        # Everything was sent and the end is wanted; how peer or stream fail makes no difference any more.
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
            # A fault in a link ends its own connection, not the task group with all the others.
            _logger.error("a connection is aborted because its link failed", exc_info=exc)
        elif not isinstance(exc, OSError):
            exc = exc.__cause__ if isinstance(exc.__cause__, OSError) else ConnectionResetError("the stream broke")
        if self._exc is None:
            self._exc = exc
        self.abort()


async def secure(stream: SocketStream, context: ssl.SSLContext, hostname: str | None = None) -> TLSStream:
    """Do a TLS handshake, as a client if a host name is given; without success the stream is closed.

    Raises:
        OSError: the peer speaks no TLS or another one (ssl.SSLError), or went away.
    """
    try:
        return await TLSStream.wrap(
            stream, server_side=hostname is None, hostname=hostname, ssl_context=context, standard_compatible=False
        )
    except BaseException as exc:
        await anyio.aclose_forcefully(stream)
        if isinstance(exc, (anyio.EndOfStream, anyio.BrokenResourceError)):
            raise ConnectionResetError("the peer went away during the TLS handshake") from exc
        raise
