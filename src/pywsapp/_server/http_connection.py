"""A connection before its upgrade to a WebSocket: one request head, one decision, one answer.

An HTTP connection reads one request head of bounded size. It asks the component for a decision. If the component
accepts a handshake, the connection writes the 101 response and passes its transport to a `Lifecycle`. Otherwise it
writes a response and closes. There is no keep-alive, because plain HTTP only serves pages, health checks and a few
files. Only the requests of a site (`App.site`) keep their connection: a `Handover` takes its transport over.

States

    state      input from the peer is     the connection waits for         next state
    ---------  -------------------------  -------------------------------  ----------------------------------------
    READING    the request head           the end of the head              DECIDING, or directly one of those below
                                                                           if the component answers without waiting
    DECIDING   kept as trailing data      an async decision                UPGRADED, STREAMING, LINGERING, CLOSING
    STREAMING  discarded                  the body of a response, which    LINGERING, CLOSING
                                          is an async iterator or large
    LINGERING  discarded                  the rest of the request, or for  CLOSING
                                          a time limit
    CLOSING    discarded                  the transport to send the rest   none
    UPGRADED   the lifecycle's            nothing                          none
    TAKEN      the other protocol's       nothing                          none

An event stream is UPGRADED too: its `Lifecycle` has the transport from the head of the response on.

`connection_lost` and `abort` can come in every state and end the connection.

A connection is pending (`_server.pending`) while it is READING, while a component waits for the rest of the body, after
a request that the server did not admit, and while it is LINGERING with nothing left to send. In between it counts
against `max_connections`. A peer that takes a response too slowly is dropped; `tick` measures it over periods of
`Options.ping_timeout`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncIterator, Awaitable
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.lowlevel

from pywsapp._hooks import must_await
from pywsapp._lifecycle.event_stream import EventStreamResponse
from pywsapp._lifecycle.requests import decide_request, refusal_for, refusal_response
from pywsapp._lifecycle.stream import StreamLifecycle
from pywsapp._protocol.handshake import is_upgrade, protocol_asked_for
from pywsapp._protocol.http import HeadBuffer, encode_response
from pywsapp._server.connection_log import log_failed_body, log_wrong_length, request_line
from pywsapp._server.handover import HandedOver, Handover
from pywsapp._server.http_states import NEXT, HttpState
from pywsapp._server.pending import PendingConnection
from pywsapp._server.proxies import has_address
from pywsapp._server.request_head import body_size, has_ended_with, is_over_tls, read_request, remote_address
from pywsapp._server.response_progress import LINGER_BYTES, ResponseProgress, close_body, in_pieces
from pywsapp._server.streams import ask_for_connection, ask_for_stream, open_stream
from pywsapp._server.upgrade import upgrade
from pywsapp._transports.large_write import PIECE
from pywsapp.component import Accept
from pywsapp.exceptions import Refuse
from pywsapp.http import Response, _pack_headers, _set_body

if TYPE_CHECKING:
    from pywsapp._lifecycle.lifecycle import Lifecycle
    from pywsapp._server.server import Server
    from pywsapp._transports.base import Transport
    from pywsapp.http import Request

#: An accepted handshake, a response, or an event stream that may be opened.
Answer = Accept | Response | StreamLifecycle

_LINGER_SECONDS = 2.0


class HttpConnection:
    """A connection before its upgrade; the server creates one for each connection that it accepts.

    It is the `TransportProtocol` of its transport.

    Args:
        server: the server that accepted the connection.
        pending: the connection as the acceptor has counted it; None if nothing came before its transport.
    """

    __slots__ = (
        "_began",
        "_body_complete",
        "_body_size",
        "_cancel_scope",
        "_discarded",
        "_has_ended",
        "_head_buffer",
        "_lost",
        "_peername",
        "_pending",
        "_progress",
        "_reading_paused",
        "_request",
        "_server",
        "_state",
        "_stays_open",
        "_trailing",
        "_transport",
        "_writable",
    )

    def __init__(self, server: Server, pending: PendingConnection | None = None) -> None:
        self._server = server
        self._pending = pending
        self._state = HttpState.READING
        self._head_buffer = HeadBuffer(server.options.max_header_size)
        self._transport: Transport
        self._peername: Any = None  # as `socket.getpeername` returns it; asking the transport is a system call
        self._request: Request | None = None
        self._stays_open = False  # whether it asks for a WebSocket or an event stream, which counts for its address
        self._has_ended = False  # the peer's stream
        self._trailing: bytes | bytearray = b""
        self._body_size = 0  # of a body that the component reads; the body is the first part of the trailing data
        self._body_complete: anyio.Event | None = None
        self._began: float | None = None  # when the request was complete, for the access log
        self._discarded = 0  # bytes
        self._reading_paused = self._lost = False
        self._progress: ResponseProgress | None = None  # exists from the response on
        self._cancel_scope: anyio.CancelScope | None = None  # of the decision or of the streamed body
        self._writable: anyio.Event | None = None  # exists while a streamed body waits for the peer

    # -- events of the transport -------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Store the transport."""
        self._transport = transport
        self._peername = transport.get_extra_info("peername")
        server = self._server
        transport.set_write_buffer_limits(high=server.options.high_water)  # by default TLS queues 512 KiB
        server.runtime.connections.add(self)
        if self._pending is None:
            self._pending = server.pending.add(self, has_protocol=True)
            is_counted = True
        else:
            is_counted = server.pending.hand_over(self._pending, self)
        if server.draining:  # the server accepted it before, but its TLS handshake took until now
            self._close()
        elif not is_counted or not has_address(transport, self._peername):
            self.evict()

    def data_received(self, data: bytes) -> None:
        """Handle a part of the request head, or the data after it."""
        if self._state is HttpState.READING:
            try:
                head = self._head_buffer.receive(data)
                if head is not None:
                    self._trailing = self._head_buffer.rest
                    self._handle_request(head)
            except Exception as exc:
                self._refuse(exc)
        elif self._state is HttpState.DECIDING:
            if not isinstance(self._trailing, bytearray):  # which grows without a copy for each part
                self._trailing = bytearray(self._trailing)
            self._trailing += data
            if len(self._trailing) > max(self._server.options.max_header_size, self._body_size):
                self._pause_reading()
            if self._body_complete is not None and len(self._trailing) >= self._body_size:
                self._body_complete.set()
        else:
            self._discarded += len(data)
            if self._discarded > LINGER_BYTES:
                if self._state is HttpState.STREAMING:
                    self._pause_reading()
                else:
                    self._close()

    def eof_received(self) -> bool:
        """Return whether the connection stays open after the peer's end of stream.

        A plain request that is complete still gets its response. A WebSocket needs both directions, and nothing else
        than the end of this one tells that the client of an event stream has gone.
        """
        self._has_ended = True
        is_waiting = self._body_complete is not None and not self._body_complete.is_set()
        return (
            not is_waiting
            and self._state in (HttpState.DECIDING, HttpState.STREAMING)
            and not is_over_tls(self._transport)  # the loops' TLS cannot close one direction only
            and not self._stays_open
        )

    def pause_writing(self) -> None:
        """Make a streamed body wait for the peer."""
        self._writable = anyio.Event()

    def resume_writing(self) -> None:
        """Continue a streamed body."""
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the loss of the transport: cancel the decision or the streamed body."""
        self._lost = True
        assert self._pending is not None
        self._server.pending.remove(self._pending)
        self._transport.close()  # without it, TLS transports of Python 3.10 warn that they were not closed
        if self._cancel_scope is not None:
            self._cancel_scope.cancel()
        self._count_no_longer()
        self._server.connection_log.abandoned(None if self._state is HttpState.STREAMING else self._request)
        self._server.runtime.discard(self)

    def abort(self) -> None:
        """Drop the connection at once."""
        self._transport.abort()

    def stop(self) -> None:
        """Close the connection if it has no complete request; the server calls this when it drains."""
        if self._state is HttpState.READING:
            self._close()

    def tick(self, now: float) -> None:
        """Drop a peer that takes the response too slowly; end LINGERING.

        Args:
            now: seconds of a monotonic clock.
        """
        state, progress = self._state, self._progress
        if progress is None:  # before the response, `PendingConnections` and `_decide` enforce time limits
            return
        limits, unsent = self._server.options, self._transport.get_write_buffer_size()
        if state is HttpState.STREAMING and not unsent:
            progress.restart()  # the body is slow, not the peer
        elif state is HttpState.LINGERING and not unsent:
            self._count_as_pending()
            if progress.seconds(now, unsent, steady=True) >= _LINGER_SECONDS:
                self._close()
        elif progress.is_too_slow(now, unsent, limits.ping_timeout, limits.min_http_rate):
            self._transport.abort()

    # -- as a pending connection -------------------------------------------------------------------------------------

    @property
    def received(self) -> int:
        """Bytes of a request head or body that is not complete."""
        return len(self._trailing) if self._state is HttpState.DECIDING else self._head_buffer.received

    def expire(self) -> None:
        """End the connection because it was pending for too long."""
        if self._state is HttpState.READING:
            self._refuse(Refuse(408, body="no complete request in time"))
        elif self._state is HttpState.DECIDING and self._cancel_scope is not None:
            self._cancel_scope.cancel()  # which is answered with 503
        elif self._state is HttpState.LINGERING:
            self._close()
        else:
            self._transport.abort()

    def evict(self) -> None:
        """Drop the connection at once, and discard what its transport has received already."""
        if self._state is not HttpState.CLOSING:
            self._enter(HttpState.CLOSING)
        self._transport.abort()
        self._server.runtime.discard(self)  # now, because it must not count until its transport is lost

    def _count_no_longer(self) -> None:
        """Stop to count against `max_connections_per_address`: the handshake or the stream is not accepted."""
        if self._stays_open and self._server.admission is not None and self._request is not None:
            self._server.admission.release(self._request)

    def _count_as_pending(self) -> None:
        """Stop to count against `max_connections`: the connection only waits for the rest of a request."""
        assert self._pending is not None
        if not self._lost and not self._pending.is_counted:
            self._pending = self._server.pending.add(self, has_protocol=True)

    # -- deciding ----------------------------------------------------------------------------------------------------

    def _handle_request(self, head: bytes) -> None:
        server, pending = self._server, self._pending
        assert pending is not None
        request = self._request = read_request(head, server, self._transport, self._peername, pending.header)
        protocol: str | None = None  # of a fallback
        self._stays_open = is_upgrade(request) or (protocol := protocol_asked_for(request)) is not None
        if server.connection_log.has_access_log:
            self._began = time.monotonic()
        if self._stays_open or not server.is_probe(request):
            if self._stays_open and server.admission is not None:
                server.admission.check(request)
            server.check_capacity()
            server.pending.remove(pending)
        answer: Answer | Awaitable[Answer]
        if self._stays_open:
            answer = ask_for_connection(server, request, protocol, self._transport)
        else:
            _set_body(request, self._read_body)
            answer = decide_request(server.component, request)
        if isinstance(answer, Handover):
            self._hand_over(answer, head)
        else:
            self._answer_or_wait(answer)

    def _answer_or_wait(self, answer: Answer | Awaitable[Answer]) -> None:
        if not must_await(answer):
            self._answer(cast("Answer", answer))
            return
        if self._state is not HttpState.DECIDING:
            self._enter(HttpState.DECIDING)
        self._server.runtime.start_soon(functools.partial(self._decide, cast("Awaitable[Answer]", answer)))

    def _hand_over(self, handover: Handover, head: bytes) -> None:
        assert self._request is not None
        assert self._pending is not None
        header, rest = self._pending.header, bytes(self._trailing)
        handover.take(HandedOver(self._server, self._request, self._transport, self._peername, header, head, rest))
        self._enter(HttpState.TAKEN)
        self._server.runtime.discard(self)

    async def _decide(self, answer: Awaitable[Answer]) -> None:
        decided: Answer | None = None
        try:
            with anyio.move_on_after(self._server.options.handshake_timeout) as self._cancel_scope:
                if self._lost:
                    self._cancel_scope.cancel()
                decided = await answer
            if self._cancel_scope.cancelled_caught:
                raise Refuse(503, [("Retry-After", "1")], "deciding took too long")
            if not self._lost and self._state is HttpState.DECIDING:
                if isinstance(decided, Accept):
                    self._server.check_not_draining()
                self._answer(cast("Answer", decided))
        except Exception as exc:
            self._refuse(exc)

    async def _read_body(self, max_size: int) -> bytes:
        assert self._request is not None
        self._body_size = size = body_size(self._request, max_size)
        self._resume_reading()
        if len(self._trailing) < size:
            if self._has_ended:
                raise Refuse(400, body="the body is shorter than its Content-Length")
            self._body_complete = anyio.Event()
            self._count_as_pending()
            await self._body_complete.wait()  # the loss of the peer and the handshake timeout cancel this
            self._server.check_capacity()
            assert self._pending is not None
            self._server.pending.remove(self._pending)
        return bytes(memoryview(self._trailing)[:size])

    def _answer(self, answer: Answer) -> None:
        assert self._request is not None
        if isinstance(answer, EventStreamResponse):
            self._stays_open = True
            self._answer_or_wait(ask_for_stream(self._server, self._request, answer, self._transport))
        elif isinstance(answer, Response):
            self._respond(answer)
        elif isinstance(answer, StreamLifecycle):
            self._open_stream(self._request, answer)
        elif isinstance(answer, Accept) and self._stays_open:
            self._accept(self._request, answer)
        else:
            name = type(self._server.component).__name__
            raise TypeError(f"{name}.on_request must return a Response, not {answer!r}")

    def _accept(self, request: Request, answer: Accept) -> None:
        lifecycle = upgrade(self, self._server, request, answer, self._transport)
        self._begin_upgraded(request, lifecycle)
        lifecycle.open(bytes(self._trailing))

    def _open_stream(self, request: Request, stream: StreamLifecycle) -> None:
        if self._has_ended:
            self._close()
            return
        open_stream(self, self._server, stream, self._transport)
        self._begin_upgraded(request, stream)
        stream.follow()

    def _begin_upgraded(self, request: Request, lifecycle: Lifecycle) -> None:
        self._enter(HttpState.UPGRADED)
        self._resume_reading()  # first, since from here on the connection pauses as it needs
        _pack_headers(request.headers)
        lifecycle._ws.traffic.handshakes += 1
        self._server.connection_log.opened(request)

    # -- answering with plain HTTP -----------------------------------------------------------------------------------

    def _refuse(self, exc: Exception) -> None:
        self._count_no_longer()
        refuse = refusal_for(exc, request_line(self._request), self._request)
        if self._lost or self._state is HttpState.CLOSING:
            return
        try:
            self._respond(refusal_response(refuse, self._request), refuse)
        except Exception as fault:  # the component's refusal cannot be encoded
            refuse = refusal_for(fault, request_line(self._request), self._request)
            self._respond(refusal_response(refuse, self._request), refuse)
        self._server.counts.refused[refuse.status] += 1
        self._server.connection_log.refused(self._peer(), self._request, refuse)

    def _peer(self) -> str:
        """Return the peer's address, for a log."""
        if self._request is not None:
            return self._request.remote_address or "local"
        return remote_address(self._peername, None if self._pending is None else self._pending.header) or "local"

    def _respond(self, response: Response, refuse: Refuse | None = None) -> None:
        request, body, size = self._request, response.body, response.content_length
        head_only = response.status in (204, 304) or (request is not None and request.method == "HEAD")
        content, stream = None, None
        if not isinstance(body, (bytes, bytearray)):
            stream = body
        elif len(body) > PIECE:  # the transport would hold the whole body for a peer that does not read
            stream, size = in_pieces(bytes(body)), len(body)
        elif not head_only:
            content = bytes(body)
        date = self._server.date()
        data = encode_response(response.status, response.headers, content, content_length=size, date=date)
        self._resume_reading()
        self._progress = ResponseProgress(len(data))
        self._transport.write(data)
        if head_only or stream is None:
            self._server.connection_log.responded(self._peer(), request, response.status, self._began, refuse=refuse)
            self._finish()
        else:
            self._enter(HttpState.STREAMING)
            self._server.runtime.start_soon(functools.partial(self._stream, stream, size, response.status))

    async def _stream(self, body: AsyncIterator[bytes], size: int, status: int) -> None:
        sent = 0
        try:
            with anyio.CancelScope() as self._cancel_scope:
                if self._lost:
                    self._cancel_scope.cancel()
                async for piece in body:
                    sent += len(piece)
                    if sent > size:
                        break
                    assert self._progress is not None
                    self._progress.written += len(piece)
                    self._transport.write(piece)
                    await (self._writable.wait() if self._writable is not None else anyio.lowlevel.checkpoint())
            if sent != size and not self._lost:
                log_wrong_length(self._request, sent, size)
        except Exception:
            log_failed_body(self._request)
        finally:
            log = self._server.connection_log
            await close_body(body)
            log.responded(self._peer(), self._request, status, self._began, complete=sent == size)
        if sent == size:
            self._finish()
        else:
            self._transport.abort()  # without its last bytes, so the peer notices that the body is not complete

    def _finish(self) -> None:
        """Close after a response, but not before the rest of the request has come."""
        is_whole = not self._discarded and has_ended_with(self._request, len(self._trailing))
        if is_whole or self._reading_paused or self._has_ended:
            self._close()
        else:
            self._enter(HttpState.LINGERING)
            assert self._progress is not None
            self._progress.restart()
            if not self._transport.get_write_buffer_size():
                self._count_as_pending()

    def _close(self) -> None:
        if self._state is not HttpState.CLOSING:
            self._enter(HttpState.CLOSING)
        self._transport.close()

    def _enter(self, state: HttpState) -> None:
        assert state in NEXT[self._state], f"{state} cannot follow {self._state}"
        self._state = state

    def _pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused and not self._transport.is_closing():
            self._reading_paused = False
            self._transport.resume_reading()
