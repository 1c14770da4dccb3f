"""A connection before it is a WebSocket: one bounded request head, one decision, one answer.

A link reads one head. It then asks the component and either writes 101 and hands its transport over to a `Lifecycle`,
or writes a response and closes: there is no keep-alive for plain HTTP, which serves a page, a health check and a few
files. While the decision is awaited, reading pauses, so that nobody can make us buffer; the bytes that came glued to
the handshake are kept for the WebSocket.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Awaitable
from typing import TYPE_CHECKING, Any

import anyio

from pywsapp.connection import Connection
from pywsapp.lifecycle import Lifecycle, ask_handshake, ask_request, refusal_for
from pywsapp.protocol.handshake import accept, check_upgrade, choose_subprotocol, is_upgrade
from pywsapp.protocol.http import HeadBuffer, encode_response, parse_request
from pywsapp.protocol.websocket import WebSocket
from pywsapp.values.errors import Refuse
from pywsapp.values.response import Response

if TYPE_CHECKING:
    from pywsapp.component import Accept
    from pywsapp.hosting.server import Server
    from pywsapp.hosting.transport import Transport
    from pywsapp.values.request import Request

logger = logging.getLogger("pywsapp")

_DEFAULT_HIGH_WATER = 64 * 1024
#: After an early answer the rest of a request is read and dropped, so that a reset does not eat the answer.
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 256 * 1024


class HttpLink:
    """The link of a fresh connection."""

    __slots__ = (
        "_buffer",
        "_drained",
        "_glued",
        "_linger",
        "_lost",
        "_request",
        "_scope",
        "_server",
        "_since",
        "_transport",
    )

    def __init__(self, server: Server) -> None:
        self._server = server
        options = server.options
        self._buffer: HeadBuffer | None = HeadBuffer(options.max_header_size)
        self._transport: Transport
        self._request: Request | None = None
        self._glued = b""
        self._since: float | None = None
        self._linger = 0
        self._lost = False
        self._scope: anyio.CancelScope | None = None
        self._drained: anyio.Event | None = None

    # -- events of the transport -------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Take the transport."""
        self._transport = transport
        self._server.runtime.links.add(self)

    def data_received(self, data: bytes) -> None:
        """Take a part of the head, or what comes behind it."""
        if self._linger:
            self._linger -= len(data)
            if self._linger <= 0:
                self._transport.close()
        elif self._buffer is None:
            self._glued += data
        else:
            try:
                head = self._buffer.receive(data)
                if head is not None:
                    self._glued, self._buffer = self._buffer.rest, None
                    self._take(head)
            except Exception as exc:
                self._buffer = None
                self._refuse(exc)

    def eof_received(self) -> bool:
        """Take the peer's end of stream: it may still read an answer that is on its way."""
        return self._request is not None and not self._linger

    def pause_writing(self) -> None:
        """Learn that a streamed body waits for the peer."""
        self._drained = anyio.Event()

    def resume_writing(self) -> None:
        """Learn that the peer has caught up."""
        self._since = None
        if self._drained is not None:
            self._drained.set()
            self._drained = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the end of the transport."""
        self._lost = True
        self.resume_writing()
        if self._scope is not None:
            self._scope.cancel()
        self._server.runtime.forget(self)

    def abort(self) -> None:
        """Drop the connection at once."""
        self._transport.abort()

    def stop(self) -> None:
        """Close unless an answer is on its way; called when the server drains."""
        if self._request is None:
            self._transport.close()

    def tick(self, now: float) -> None:
        """Learn the time: ends what takes too long."""
        if self._since is None:
            self._since = now
        elif self._linger:
            if now - self._since >= _LINGER_SECONDS:
                self._transport.close()
        elif now - self._since >= self._server.options.handshake_timeout:
            if self._request is None and self._buffer is not None:
                self._buffer = None
                self._refuse(Refuse(408, body="no complete request in time"))
            elif self._scope is None:
                self._transport.abort()

    # -- deciding ----------------------------------------------------------------------------------------------------

    def _take(self, head: bytes) -> None:
        peer = self._transport.get_extra_info("peername")
        secure = self._transport.get_extra_info("ssl_object") is not None
        request = parse_request(
            head,
            max_headers=self._server.options.max_headers,
            scheme="https" if secure else "http",
            remote_address=_address(peer),
        )
        self._request = request
        self._server.check_room()
        answer: Accept | Response | Awaitable[Accept | Response]
        if is_upgrade(request):
            check_upgrade(request)
            answer = ask_handshake(self._server.component, request)
        else:
            answer = ask_request(self._server.component, request)
        if isinstance(answer, Awaitable):
            self._transport.pause_reading()
            self._server.runtime.start_soon(functools.partial(self._await, answer))
        else:
            self._answer(answer)

    async def _await(self, answer: Awaitable[Accept | Response]) -> None:
        decided: Accept | Response | None = None
        try:
            with anyio.move_on_after(self._server.options.handshake_timeout) as self._scope:
                decided = await answer
            if decided is None:
                raise Refuse(503, [("Retry-After", "1")], "deciding took too long")
            self._scope = None
            if not self._lost:
                self._answer(decided)
                self._transport.resume_reading()
        except Exception as exc:
            self._scope = None
            if not self._lost:
                self._refuse(exc)

    def _answer(self, answer: Accept | Response) -> None:
        if isinstance(answer, Response):
            self._respond(answer)
        else:
            self._accept(answer)

    def _accept(self, answer: Accept) -> None:
        request, component = self._request, answer.component
        assert request is not None
        assert component is not None
        options = answer.options or self._server.options
        subprotocol = answer.subprotocol
        if subprotocol is None:
            supported = component.subprotocols if answer.subprotocols is None else answer.subprotocols
            subprotocol = choose_subprotocol(request, supported, required=answer.require_subprotocol)
        response, deflate = accept(request, subprotocol=subprotocol, deflate=options.deflate, headers=answer.headers)
        transport = self._transport
        runtime = self._server.runtime
        transport.write(response)
        if options.high_water != _DEFAULT_HIGH_WATER:
            transport.set_write_buffer_limits(high=options.high_water)
        ws = WebSocket(client=False, options=options, deflate=deflate)
        conn = Connection(request, ws, transport, runtime.flusher, options, subprotocol)
        lifecycle = Lifecycle(component, conn, ws, options, runtime)
        transport.set_protocol(lifecycle)
        runtime.links.add(lifecycle)
        runtime.links.discard(self)
        logger.debug("%r opened", conn)
        lifecycle.open(self._glued)

    # -- answering with plain HTTP -----------------------------------------------------------------------------------

    def _refuse(self, exc: Exception) -> None:
        request = self._request
        what = f"{request.method} {request.path}" if request is not None else "no valid request"
        refuse = refusal_for(exc, what)
        peer = _address(self._transport.get_extra_info("peername")) or "local"
        logger.info("%s: %s answered with %s", peer, what.encode("unicode_escape").decode(), refuse)
        self._respond(Response.refusal(refuse))

    def _respond(self, response: Response) -> None:
        request = self._request
        bodiless = response.status == 304 or (request is not None and request.method == "HEAD")
        body = response.body
        if bodiless or not isinstance(body, bytes):
            head = encode_response(
                response.status, response.headers, None, content_length=response.content_length, date=self._server.date()
            )
        else:
            head = encode_response(
                response.status, response.headers, body, content_length=len(body), date=self._server.date()
            )
        self._transport.write(head)
        if not bodiless and not isinstance(body, bytes):
            self._server.runtime.start_soon(functools.partial(self._stream, body, response.content_length))
        elif request is None or request.method not in ("GET", "HEAD"):
            self._since = None
            self._linger = _LINGER_BYTES  # more of the request may be on its way
        else:
            self._transport.close()

    async def _stream(self, body: AsyncIterator[bytes], size: int) -> None:
        sent = 0
        try:
            async for piece in body:
                sent += len(piece)
                if self._lost or sent > size:
                    break
                self._transport.write(piece)
                if self._drained is not None:
                    await self._drained.wait()
        except Exception:
            logger.exception("sending the body for %r failed", self._request)
        if sent == size:
            self._transport.close()
        else:
            self._transport.abort()  # the announced length does not hold: the peer has to notice


def _address(peer: Any) -> str:
    """Give the IP address in a peer name; an IPv4 one also where an IPv6 socket took it."""
    if not isinstance(peer, tuple):
        return ""
    address = str(peer[0])
    return address[7:] if address.startswith("::ffff:") and "." in address else address
