"""The HTTP connection of a client: the time until the server has answered the handshake."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio

from pywsapp._connecting.refusal import RefusalBody
from pywsapp._protocol.client_handshake import Accepted, ClientHandshake
from pywsapp._server.runtime import Runtime
from pywsapp.exceptions import HandshakeError
from pywsapp.http import Request

if TYPE_CHECKING:
    from pywsapp._transports.base import Transport

_SWITCHING_PROTOCOLS = 101


class ClientHttpConnection:
    """The protocol of a transport to a server, up to the answer to the handshake; then a lifecycle replaces it.

    Args:
        handshake: the request, and what checks the answer.
        request: the request of the connection, which gets the address of the peer.
        accept: called when the server has accepted; it replaces this protocol.
        runtime: keeps the connection.

    Attributes:
        answered: set when the server has accepted or refused, or has failed.
        ended: set when a refusal is complete, or the transport is lost.
        refusal: the answer of a server that has not accepted; its content is `content`.
        error: why there is no valid answer.
        is_connected: whether the request has been sent.
    """

    def __init__(
        self,
        handshake: ClientHandshake,
        request: Request,
        accept: Callable[[Transport, Accepted], None],
        runtime: Runtime,
    ) -> None:
        self.answered, self.ended = anyio.Event(), anyio.Event()
        self.refusal: HandshakeError | None = None
        self.error: Exception | None = None
        self.is_connected = False
        self._handshake = handshake
        self._request = request
        self._accept = accept
        self._runtime = runtime
        self._body: RefusalBody | None = None
        self._transport: Transport | None = None
        self._has_given_up = False

    @property
    def content(self) -> bytes:
        """The content of a refusal that has arrived, bounded."""
        return b"" if self._body is None else self._body.content

    def connection_made(self, transport: Any) -> None:
        """Send the request."""
        self._transport = transport
        if self._has_given_up:
            self.abort()
            return
        self._runtime.connections.add(self)
        self.is_connected = True
        peer = transport.get_extra_info("peername")
        self._request.remote_address = str(peer[0]) if isinstance(peer, tuple) else ""
        transport.write(self._handshake.request)

    def data_received(self, data: bytes) -> None:
        """Parse a part of the answer."""
        if self._body is not None:
            self._body.receive(data)
            self._check_body(self._body)
        if self.answered.is_set():
            return
        try:
            accepted = self._handshake.receive(data)
        except HandshakeError as exc:
            if exc.status in (None, _SWITCHING_PROTOCOLS) or exc.headers is None:
                self._fail(exc)
            else:
                self.refusal = exc
                self._body = RefusalBody(exc)
                self.answered.set()
                self._check_body(self._body)
        else:
            if accepted is not None:
                self.answered.set()
                self._runtime.connections.discard(self)
                assert self._transport is not None
                self._accept(self._transport, accepted)

    def _check_body(self, body: RefusalBody) -> None:
        if body.is_complete:
            self.ended.set()
            self.abort()

    def _fail(self, exc: Exception) -> None:
        if not self.answered.is_set():
            self.error = exc
            self.answered.set()
        self.abort()

    def eof_received(self) -> bool:
        """Handle the end of the stream: the transport closes itself."""
        return False

    def pause_writing(self) -> None:
        """Do nothing: only the request is written."""

    def resume_writing(self) -> None:
        """Do nothing: only the request is written."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the loss of the transport."""
        self._fail(HandshakeError("the server closed the connection instead of answering the handshake"))
        self.ended.set()
        self._runtime.discard(self)

    def give_up(self) -> None:
        """Drop the connection, also one that is made later."""
        self._has_given_up = True
        self.abort()
        self._runtime.discard(self)

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def tick(self, now: float) -> None:
        """Do nothing: connecting has its own deadline."""
