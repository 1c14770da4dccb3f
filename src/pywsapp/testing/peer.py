"""The client's end of one WebSocket of a test: it answers as a browser does, and records everything."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import anyio

from pywsapp._protocol.client_handshake import Accepted, ClientHandshake
from pywsapp._protocol.events import Ended, PongReceived
from pywsapp._protocol.websocket import WebSocket
from pywsapp._transports.base import Transport
from pywsapp.close_codes import CloseCode
from pywsapp.exceptions import HandshakeError
from pywsapp.options import Options
from pywsapp.testing.transcript import Transcript


class End(NamedTuple):
    """How a connection has ended, as the client sees it.

    Attributes:
        code: the close code of the App, or 1006 without a close frame.
        reason: the reason.
        was_clean: whether the App has sent a close frame.
    """

    code: int
    reason: str
    was_clean: bool


class Peer:
    """The protocol of the transport of one WebSocket of a test.

    Args:
        handshake: the handshake.
        options: the limits of what it receives.
        transcript: gets a line for each event.

    Attributes:
        transport: the transport; set when it is connected.
        accepted: the result of the handshake; None before it, and if the App has refused it.
        error: what was wrong with the answer to the handshake; None if it was accepted.
        answer: the bytes of the answer, if the handshake was refused.
        inbox: the messages that were received, and not taken by the test.
        pongs: the payloads of pongs.
        end: how the connection has ended; None while it is open.
        is_lost: whether the transport is gone.
        is_silent: whether it drops all that it receives and answers nothing, like a host without power.
    """

    transport: Transport

    def __init__(self, handshake: ClientHandshake, options: Options, transcript: Transcript) -> None:
        self.accepted: Accepted | None = None
        self.error: HandshakeError | None = None
        self.answer = bytearray()
        self.inbox: deque[str | bytes] = deque()
        self.pongs: deque[bytes] = deque()
        self.end: End | None = None
        self.is_lost = False
        self.is_silent = False
        self._handshake = handshake
        self._options = options
        self._transcript = transcript
        self._ws: WebSocket | None = None
        self._changed = anyio.Event()

    async def wait_for_change(self) -> None:
        """Wait until something has happened."""
        self._changed = anyio.Event()
        await self._changed.wait()

    # -- sending -----------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether the handshake is accepted, and neither side has ended the connection."""
        return self._ws is not None and self.end is None and not self.is_lost

    def send(self, message: str | bytes) -> None:
        """Send a message."""
        assert self._ws is not None
        self._transcript.sent(message)
        self._write(self._ws.encode(message))

    def ping(self, payload: bytes) -> None:
        """Send a ping."""
        assert self._ws is not None
        self._transcript.note(f"-> ping {payload!r}")
        self._write(self._ws.ping(payload))

    def close(self, code: int, reason: str) -> None:
        """Send a close frame, once."""
        if self._ws is not None and (frame := self._ws.close(code, reason)):
            self._transcript.note(f"-> close {code} {reason}".rstrip())
            self._write(frame)

    def write_raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._transcript.note(f"-> {len(data)} bytes as they are")
        self._write(data)

    def _write(self, data: bytes) -> None:
        if not self.is_silent and not self.is_lost:
            self.transport.write(data)

    # -- events of the transport -------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Send the request of the handshake."""
        self.transport = transport
        transport.write(self._handshake.request)

    def data_received(self, data: bytes) -> None:
        """Handle a part of the answer to the handshake, or frames."""
        if self.is_silent:
            return
        if self._ws is not None:
            self._receive(data)
        else:
            self.answer += data
            if self.error is None:
                self._read_answer(data)
        self._changed.set()

    def _read_answer(self, data: bytes) -> None:
        try:
            self.accepted = self._handshake.receive(data)
        except HandshakeError as exc:
            self.error = exc  # the body of the response follows
            return
        if self.accepted is not None:
            self.answer.clear()
            self._transcript.note("opened" if self.accepted.deflate is None else "opened with permessage-deflate")
            self._ws = WebSocket(client=True, options=self._options, deflate=self.accepted.deflate)
            if self.accepted.rest:
                self._receive(self.accepted.rest)

    def _receive(self, data: bytes) -> None:
        ws = self._ws
        assert ws is not None
        for event in ws.receive(data):
            if isinstance(event, PongReceived):
                self._transcript.note(f"<- pong {event.payload!r}")
                self.pongs.append(event.payload)
            elif isinstance(event, Ended):
                self._ended(event)
            else:
                self._transcript.received(event)
                self.inbox.append(event)
        if ws.has_pongs:
            self._transcript.note("<- ping, which is answered")
            self._write(ws.take_pongs())

    def _ended(self, event: Ended) -> None:
        self.end = End(event.code, event.reason, event.by_peer)
        what = "close" if event.by_peer else "invalid bytes:"
        self._transcript.note(f"<- {what} {event.code} {event.reason}".rstrip())
        if event.reply:
            self._write(event.reply)

    def eof_received(self) -> bool:
        """Have the transport close itself."""
        return False

    def pause_writing(self) -> None:
        """Do nothing: a test sends little."""

    def resume_writing(self) -> None:
        """Do nothing: a test sends little."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end of the transport."""
        self.is_lost = True
        if self._ws is not None and self.end is None:
            self.end = End(CloseCode.ABNORMAL_CLOSURE, "", False)
            self._transcript.note("the connection was lost without a close frame")
        if self._ws is None and self.error is None:
            self.error = HandshakeError("the App closed the connection instead of answering the handshake")
        self._changed.set()
