"""Transports over the `send` of an ASGI server. `AsgiTransport` is that of WebSockets: frames become messages.

    websocket.send     for a data frame; the task of the connection awaits the server's `send` for each
    websocket.close    for a close frame. The server does the closing handshake, so its peer's close frame is taken as
                       received as soon as `send` has returned

An ASGI server sends its own pings, and has no message for others.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

import anyio

from pywsapp._log_fields import log_fields
from pywsapp._protocol.opcodes import CLOSE, PING, TEXT
from pywsapp._transports.base import TransportProtocol
from pywsapp._transports.socket import QueueingTransport
from pywsapp.asgi.frames import FrameReader, WrittenFrame, close_frame
from pywsapp.exceptions import ConfigurationError

#: The `send` of an ASGI server.
Send = Callable[[Any], Awaitable[None]]

_NORMAL, _NO_CODE, _ABORTED = 1000, 1005, 1011
logger = logging.getLogger("pywsapp")


PartT = TypeVar("PartT")


class SendTransport(QueueingTransport, Generic[PartT]):
    """A transport whose parts a task passes to the `send` of an ASGI server.

    Args:
        protocol: the receiver of the events.
        send: the `send` of the server.
    """

    __slots__ = ("_is_lost", "_outgoing", "_queued", "_send", "_wake")

    def __init__(self, protocol: TransportProtocol, send: Send) -> None:
        super().__init__(protocol)
        self._send = send
        self._outgoing: deque[PartT] = deque()
        self._queued = 0  # bytes, those that are being sent included
        self._wake: anyio.Event | None = None  # of the task that sends
        self._is_lost = False

    def close(self) -> None:
        """End the connection when everything is sent."""
        self._closing = True
        self._wake_up()

    def abort(self) -> None:
        """End the connection at once."""
        self._closing = True
        self._drop_parts()
        self._wake_up()

    def get_write_buffer_size(self) -> int:
        """Return the bytes that the server has not taken yet."""
        return self._queued

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the default: nothing is known of the server's socket."""
        return default

    def lose(self) -> None:
        """Report the end to the protocol, once."""
        if not self._is_lost:
            self._is_lost = self._closing = True
            self._drop_parts()
            self._wake_up()
            self._report_loss(None)

    def _drop_parts(self) -> None:
        self._outgoing.clear()
        self._queued = 0

    def _wake_up(self) -> None:
        if self._wake is not None:
            self._wake.set()


class AsgiTransport(SendTransport[WrittenFrame]):
    """The transport of one WebSocket of an ASGI server. `send_messages` sends, and `received` is for what comes in.

    Args:
        protocol: the receiver of the events.
        send: the `send` of the server.
    """

    __slots__ = ("_frames", "_has_closed", "_reads")

    def __init__(self, protocol: TransportProtocol, send: Send) -> None:
        super().__init__(protocol, send)
        self._frames = FrameReader()
        self._reads: anyio.Event | None = None  # exists while reading is paused
        self._has_closed = False

    # -- as a Transport ----------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Queue the messages of frames.

        Raises:
            ConfigurationError: a frame is a ping.
        """
        if self._closing:
            return
        for frame in self._frames.feed(data):
            if frame.opcode == PING:
                raise ConfigurationError("conn.ping is not possible on an ASGI server, which sends its own pings")
            self._outgoing.append(frame)
            self._queued += len(frame.payload)
        if not self._writing_paused:
            self._report_pressure()
        self._wake_up()

    def pause_reading(self) -> None:
        """Have `wait_readable` wait."""
        if self._reads is None:
            self._reads = anyio.Event()

    def resume_reading(self) -> None:
        """Have `wait_readable` return."""
        if self._reads is not None:
            self._reads.set()
            self._reads = None

    # -- for the tasks of the connection -----------------------------------------------------------------------------

    async def wait_readable(self) -> bool:
        """Wait while reading is paused; return whether there is a protocol to read for."""
        while self._reads is not None and not self._is_lost:
            await self._reads.wait()
        return not self._is_lost

    def received(self, frame: bytes) -> None:
        """Hand a frame to the protocol."""
        if not self._is_lost:
            self._protocol.data_received(frame)

    def peer_closed(self, frame: bytes | None) -> None:
        """Hand the close frame of the peer to the protocol; without one, the connection is lost."""
        self._has_closed = True  # the server takes nothing more
        if frame is None:
            self.lose()
        else:
            self.received(frame)

    def lose(self) -> None:
        """Report the end to the protocol, once, and have `wait_readable` return."""
        self.resume_reading()
        super().lose()

    async def send_messages(self) -> None:
        """Send what is written, until the transport is closed; then report the loss."""
        while not self._is_lost:
            while self._outgoing:
                frame = self._outgoing.popleft()
                await self._send_one(frame)
                self._queued = max(0, self._queued - len(frame.payload))
                if self._writing_paused and not self._is_lost:
                    self._report_pressure()
            if self._closing:
                await self._close_server()
                self.lose()
            elif not self._is_lost:
                self._wake = anyio.Event()
                await self._wake.wait()

    async def _send_one(self, frame: WrittenFrame) -> None:
        if self._has_closed:
            return
        try:
            if frame.opcode == CLOSE:
                await self._send_close(frame.payload)
            elif frame.opcode == TEXT:
                await self._send({"type": "websocket.send", "text": frame.payload.decode()})
            else:
                await self._send({"type": "websocket.send", "bytes": frame.payload})
        except Exception as exc:  # each server has exceptions of its own for a client that is gone
            logger.debug(
                "an ASGI server did not take a message: %r",
                exc,
                extra=log_fields("asgi.client_gone", error=type(exc).__name__),
            )
            self._has_closed = True
            self.lose()

    async def _send_close(self, payload: bytes) -> None:
        self._has_closed = True
        code = int.from_bytes(payload[:2], "big") if payload else _NORMAL
        reason = payload[2:].decode()
        await self._close_with(code, reason)
        answer = close_frame(code if payload else _NO_CODE, "")
        if answer is not None:
            self.received(answer)

    async def _close_server(self) -> None:
        """End a WebSocket that the lifecycle has aborted: ASGI has nothing that resets a connection."""
        if not self._has_closed:
            self._has_closed = True
            with suppress(Exception):
                await self._close_with(_ABORTED, "")

    async def _close_with(self, code: int, reason: str) -> None:
        try:
            await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except Exception:
            if 3000 <= code < 5000 or code == _NORMAL:
                raise
            # Daphne lets an application send no other code.
            await self._send({"type": "websocket.close", "code": _NORMAL, "reason": reason})
