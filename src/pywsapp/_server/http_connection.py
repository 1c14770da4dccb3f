"""A connection before it is a WebSocket: one bounded request head, one decision, one answer.

A link reads one head. It then asks the component and either writes 101 and hands its transport over to a `Lifecycle`,
or writes a response and closes: there is no keep-alive for plain HTTP, which serves a page, a health check and a few
files.

    READING -> DECIDING -> 101, the transport belongs to a Lifecycle
       |          |
       |          +-> STREAMING -> LINGERING -> CLOSING
       +----------------------------^             ^
                                    +-------------+  a GET has nothing behind it

While a decision is awaited, bytes behind the head are kept for the WebSocket, up to a bound above which TCP has to
keep them; reading goes on below it, because only who reads learns that the peer has left, and then the decision is
cancelled. Behind an answer, what else comes of the request is read and dropped for a while: a socket that is closed
with unread input is reset, and a reset may overtake the answer.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Awaitable
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.lowlevel

from pywsapp._hooks import must_await
from pywsapp._http_text import one_line
from pywsapp._lifecycle.lifecycle import Lifecycle, ask_handshake, ask_request, refusal_for
from pywsapp._protocol.handshake import accept, check_upgrade, choose_subprotocol, is_upgrade
from pywsapp._protocol.http import HeadBuffer, encode_response, parse_request
from pywsapp._protocol.websocket import WebSocket
from pywsapp._server.proxies import address_of_peer
from pywsapp.component import Accept
from pywsapp.connection import Connection
from pywsapp.exceptions import Refuse
from pywsapp.http import Response, _pack_headers, _set_body

if TYPE_CHECKING:
    from pywsapp._protocol.proxy_protocol import ProxyHeader
    from pywsapp._server.server import Server
    from pywsapp._transports.base import Transport
    from pywsapp.http import Request

logger = logging.getLogger("pywsapp")

_DEFAULT_HIGH_WATER = 64 * 1024
_MAX_TRAILING = 64 * 1024
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 8 * 1024 * 1024
_ACLOSE_SECONDS = 2.0


class _State(Enum):
    READING = "the head is not complete"
    DECIDING = "the component is asked"
    STREAMING = "a body is sent piece by piece"
    LINGERING = "all is written, and the rest of the request is dropped"
    CLOSING = "all is written, and the transport sends it"


class HttpConnection:
    """The link of a fresh connection.

    Args:
        server: whose connection it is.
        header: what a balancer has said before.
    """

    __slots__ = (
        "_body_came",
        "_body_size",
        "_buffer",
        "_drained",
        "_dropped",
        "_glued",
        "_header",
        "_lost",
        "_paused",
        "_request",
        "_scope",
        "_server",
        "_since",
        "_state",
        "_transport",
        "_unsent",
        "_upgrade",
    )

    def __init__(self, server: Server, header: ProxyHeader | None = None) -> None:
        self._server = server
        self._header = header
        self._state = _State.READING
        self._buffer = HeadBuffer(server.options.max_header_size)
        self._transport: Transport
        self._request: Request | None = None
        self._upgrade = False  # it is to become a WebSocket
        self._glued = b""
        self._body_size = 0  # of what is read of it; it is among what is glued behind the head
        self._body_came: anyio.Event | None = None
        self._dropped = 0
        self._paused = False
        self._since: float | None = None
        self._unsent = 0
        self._lost = False
        self._scope: anyio.CancelScope | None = None
        self._drained: anyio.Event | None = None

    # -- events of the transport -------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Take the transport."""
        self._transport = transport
        self._server.runtime.connections.add(self)
        if self._server.draining:  # it was accepted before, but its TLS handshake took until now
            self._close()

    def data_received(self, data: bytes) -> None:
        """Take a part of the head, or what comes behind it."""
        if self._state is _State.READING:
            try:
                head = self._buffer.receive(data)
                if head is not None:
                    self._glued = self._buffer.rest
                    self._take(head)
            except Exception as exc:
                self._refuse(exc)
        elif self._state is _State.DECIDING:
            self._glued += data
            if len(self._glued) > max(_MAX_TRAILING, self._body_size):
                self._pause()
            if self._body_came is not None and len(self._glued) >= self._body_size:
                self._body_came.set()
        else:
            self._dropped += len(data)
            if self._dropped > _LINGER_BYTES:
                if self._state is _State.STREAMING:
                    self._pause()
                else:
                    self._close()

    def eof_received(self) -> bool:
        """Take the peer's end of stream: a plain request may be answered all the same, a WebSocket needs both ways."""
        return (
            self._state in (_State.DECIDING, _State.STREAMING)
            and not self._over_tls()  # TLS as the loops have it knows no half of a stream
            and not self._upgrade
        )

    def pause_writing(self) -> None:
        """Learn that a streamed body waits for the peer."""
        self._drained = anyio.Event()

    def resume_writing(self) -> None:
        """Learn that the peer has caught up."""
        if self._drained is not None:
            self._drained.set()
            self._drained = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the end of the transport."""
        self._lost = True
        self._transport.close()  # Python 3.10 has TLS transports that else complain of not having been closed
        if self._scope is not None:
            self._scope.cancel()
        self._server.runtime.forget(self)

    def abort(self) -> None:
        """Drop the connection at once."""
        self._transport.abort()

    def stop(self) -> None:
        """Close unless an answer is on its way; called when the server drains."""
        if self._state is _State.READING:
            self._close()

    def tick(self, now: float) -> None:
        """Learn the time: ends what takes too long. While something of an answer leaves, the peer is not too slow."""
        state = self._state
        if state is _State.DECIDING:
            return
        unsent = self._transport.get_write_buffer_size()
        if self._since is None or unsent != self._unsent or (state is _State.STREAMING and not unsent):
            self._since, self._unsent = now, unsent
        elif state is _State.LINGERING and now - self._since >= _LINGER_SECONDS:
            self._close()
        elif state is _State.READING:
            if now - self._since >= self._server.options.handshake_timeout:
                self._refuse(Refuse(408, body="no complete request in time"))
        elif now - self._since >= self._server.options.ping_timeout:
            self._transport.abort()

    # -- deciding ----------------------------------------------------------------------------------------------------

    def _take(self, head: bytes) -> None:
        server, header = self._server, self._header
        request = parse_request(
            head,
            max_headers=server.options.max_headers,
            scheme="https" if self._over_tls() or (header is not None and header.secure) else "http",
            remote_address=self._remote_address(),
        )
        if server.proxies:
            server.proxies.settle(request, self._transport.get_extra_info("peername"), header)
        self._request = request
        self._server.check_room()
        answer: Accept | Response | Awaitable[Accept | Response]
        self._upgrade = is_upgrade(request)
        if self._upgrade:
            check_upgrade(request)
            answer = ask_handshake(self._server.component, request)
        else:
            _set_body(request, self._read_body)
            answer = ask_request(self._server.component, request)
        if must_await(answer):
            self._state = _State.DECIDING
            self._server.runtime.start_soon(functools.partial(self._decide, cast("Awaitable[Any]", answer)))
        else:
            self._answer(cast("Accept | Response", answer))

    def _over_tls(self) -> bool:
        return self._transport.get_extra_info("ssl_object") is not None

    def _remote_address(self) -> str:
        header = self._header
        return (header is not None and header.address) or address_of_peer(self._transport.get_extra_info("peername"))

    async def _decide(self, answer: Awaitable[Accept | Response]) -> None:
        try:
            with anyio.move_on_after(self._server.options.handshake_timeout) as self._scope:
                if self._lost:
                    self._scope.cancel()
                decided = await answer
            if self._scope.cancelled_caught:
                raise Refuse(503, [("Retry-After", "1")], "deciding took too long")
            if not self._lost:
                if isinstance(decided, Accept):
                    self._server.check_room()  # a drain may have begun meanwhile
                self._answer(decided)
        except Exception as exc:
            self._refuse(exc)

    async def _read_body(self, max_size: int) -> bytes:
        assert self._request is not None
        headers = self._request.headers
        if "transfer-encoding" in headers:
            raise Refuse(411, body="a body needs a Content-Length")
        size = int(headers.get("content-length", "0"))
        if size > max_size:
            raise Refuse(413, body=f"the body is longer than {max_size} bytes")
        self._body_size = size
        self._resume()
        if len(self._glued) < size:
            self._body_came = anyio.Event()
            await self._body_came.wait()  # a peer that is lost cancels it, and one that is slow the handshake timeout
        return self._glued[:size]

    def _answer(self, answer: Accept | Response) -> None:
        assert self._request is not None
        if isinstance(answer, Response):
            self._respond(answer)
        elif isinstance(answer, Accept) and self._upgrade:
            self._accept(self._request, answer)
        else:
            name = type(self._server.component).__name__
            raise TypeError(f"{name}.on_request must return a Response, not {answer!r}")

    def _accept(self, request: Request, answer: Accept) -> None:
        component = answer.component
        assert component is not None
        options = answer.options or self._server.options
        subprotocol = answer.subprotocol
        if subprotocol is None:
            supported = component.subprotocols if answer.subprotocols is None else answer.subprotocols
            subprotocol = choose_subprotocol(request, supported, required=answer.require_subprotocol)
        response, deflate = accept(request, subprotocol=subprotocol, deflate=options.deflate, headers=answer.headers)
        transport, runtime = self._transport, self._server.runtime
        ws = WebSocket(client=False, options=options, deflate=deflate)
        conn = Connection(request, ws, transport, runtime.flusher, options, subprotocol)
        lifecycle = Lifecycle(component, conn, ws, options, runtime)
        transport.write(response)
        if options.high_water != _DEFAULT_HIGH_WATER:
            transport.set_write_buffer_limits(high=options.high_water)
        transport.set_protocol(lifecycle)
        runtime.connections.add(lifecycle)
        runtime.connections.discard(self)
        logger.debug("%r opened", conn)
        self._resume()  # first, since from here on the connection pauses as it needs
        _pack_headers(request.headers)
        lifecycle.open(self._glued)

    # -- answering with plain HTTP -----------------------------------------------------------------------------------

    def _refuse(self, exc: Exception) -> None:
        what = self._what()
        refuse = refusal_for(exc, what)
        if self._lost:
            return
        try:
            self._respond(Response.refusal(refuse))
        except Exception as fault:  # what the component gave cannot be sent
            refuse = refusal_for(fault, what)
            self._respond(Response.refusal(refuse))
        peer = self._request.remote_address if self._request is not None else self._remote_address()
        logger.info("%s: %s answered with %s", peer or "local", what, one_line(str(refuse)))

    def _what(self) -> str:
        request = self._request
        return one_line(f"{request.method} {request.path}") if request is not None else "no valid request"

    def _respond(self, response: Response) -> None:
        request, body, size = self._request, response.body, response.content_length
        stream = None if isinstance(body, (bytes, bytearray)) else body
        head_only = response.status in (204, 304) or (request is not None and request.method == "HEAD")
        content = bytes(body) if isinstance(body, (bytes, bytearray)) and not head_only else None
        date = self._server.date()
        data = encode_response(response.status, response.headers, content, content_length=size, date=date)
        self._resume()
        self._since = None
        self._transport.write(data)
        if head_only or stream is None:
            self._finish()
        else:
            self._state = _State.STREAMING
            self._server.runtime.start_soon(functools.partial(self._stream, stream, size))

    async def _stream(self, body: AsyncIterator[bytes], size: int) -> None:
        sent = 0
        try:
            with anyio.CancelScope() as self._scope:
                if self._lost:
                    self._scope.cancel()
                async for piece in body:
                    sent += len(piece)
                    if sent > size:
                        break
                    self._transport.write(piece)
                    await (self._drained.wait() if self._drained is not None else anyio.lowlevel.checkpoint())
            if sent != size and not self._lost:
                logger.error("the body for %s gave %d bytes, not the %d it announced", self._what(), sent, size)
        except Exception:
            logger.exception("sending the body for %s failed", self._what())
        finally:
            await _end(body)
        if sent == size:
            self._finish()
        else:
            self._transport.abort()  # the announced length does not hold: the peer has to notice

    def _finish(self) -> None:
        """Close behind an answer, when nothing of the request can be on its way any more."""
        request = self._request
        bare = request is not None and (request.method in ("GET", "HEAD") or self._body_size > 0)
        quiet = bare and len(self._glued) == self._body_size and not self._dropped
        if quiet or self._paused:
            self._close()
        else:
            self._state = _State.LINGERING
            self._since = None

    def _close(self) -> None:
        self._state = _State.CLOSING
        self._transport.close()

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()


async def _end(body: AsyncIterator[bytes]) -> None:
    """End an async generator that may have been left halfway, also while the task is being cancelled."""
    aclose = getattr(body, "aclose", None)
    if aclose is None:
        return
    with anyio.move_on_after(_ACLOSE_SECONDS, shield=True):
        try:
            await aclose()
        except Exception:
            logger.exception("ending the body of a response failed")
