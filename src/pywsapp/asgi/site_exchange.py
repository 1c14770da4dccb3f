"""One request of a site: uvicorn's HTTP protocol answers it, between two HTTP connections of the own server.

The own server reads every head, with all of its limits, and decides that the request is for the site. Then an exchange
becomes the protocol of the transport. It passes the head and the bytes of the body to a new protocol of uvicorn, which
calls the site and writes the response. After the response the transport goes back to the own server, which waits for
the next request. So uvicorn gets only heads that the own server has routed to the site. A client cannot hide another
head in a body: the exchange counts the bytes of `Content-Length`, and keeps what comes behind them.

Some requests are the last one of their connection: those with a chunked body, whose end only uvicorn knows; with
`Expect`, after which a client can leave the body out; and with `Upgrade`, which is ignored. The exchange adds
`Connection: close` to these heads and drops what comes behind the request. uvicorn closes the connection after the
response.

The exchange aborts slow clients, which uvicorn does not: over periods of `Options.ping_timeout` a client must send its
body, and take a response that waits for it, with at least `Options.min_http_rate` bytes per second.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import TYPE_CHECKING, Any

from pywsapp._log_fields import log_fields
from pywsapp._server.keep_alive import KeptAliveConnection
from pywsapp._server.response_progress import LINGER_BYTES, ResponseProgress

if TYPE_CHECKING:
    from pywsapp._server.handover import HandedOver
    from pywsapp.http import Headers

logger = logging.getLogger("pywsapp.site")


class SiteExchange(asyncio.Protocol):
    """One request of a site, from its head to the end of its response.

    Args:
        taken: the connection.
        http: a new HTTP protocol of uvicorn.
        idle_timeout: seconds that the connection waits for a next request.
    """

    __slots__ = (
        "_context",
        "_discarded",
        "_has_answered",
        "_http",
        "_idle_timeout",
        "_is_last",
        "_later",
        "_left",
        "_receiving",
        "_sending",
        "_taken",
        "_transport",
    )

    def __init__(self, taken: HandedOver, http: Any, idle_timeout: float) -> None:
        headers = taken.request.headers
        self._taken = taken
        self._transport = taken.transport
        self._idle_timeout = idle_timeout
        self._http = http
        self._context = contextvars.copy_context()  # that of the transport's callbacks
        is_chunked = "transfer-encoding" in headers
        self._is_last = is_chunked or "expect" in headers or "upgrade" in headers
        #: Bytes of the body that have not come yet; None if it is chunked.
        self._left = None if is_chunked else int(headers.get("content-length", "0"))
        self._later = bytearray()  # what came behind the request
        self._has_answered = False
        self._discarded = 0  # bytes of the body that came after the answer
        self._receiving = ResponseProgress()  # of the body, which it counts as the bytes that this side "takes"
        self._sending = ResponseProgress()

    def begin(self) -> None:
        """Become the protocol of the transport, and call the site."""
        taken, http, transport = self._taken, self._http, self._transport
        transport.set_protocol(self)
        taken.server.runtime.connections.add(self)
        http.connection_made(transport)
        http.client = _client(taken)
        http.scheme = taken.request.scheme
        http.on_response_complete = self._answered
        head = _closing(taken.head, taken.request.headers) if self._is_last else taken.head
        self._pass_on(head + b"\r\n\r\n")
        if taken.rest:
            self.data_received(taken.rest)

    # -- events of the transport -------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Pass on a part of the body, and keep what comes behind it."""
        self._receiving.written += len(data)
        is_wanted = self._needs_body() and not self._has_answered
        size = len(data)
        if self._left is not None:
            size = min(size, self._left)
            self._left -= size
        if size and is_wanted:
            self._pass_on(data[:size])
        if size < len(data):
            self._later += data[size:]
            if len(self._later) > self._taken.server.options.max_header_size:
                self._transport.pause_reading()
        if self._has_answered:
            self._discarded += size
            if self._discarded > LINGER_BYTES:  # the site has answered before it had the body
                self._transport.close()
            self._continue()

    def eof_received(self) -> None:
        """Close the transport, as uvicorn does."""

    def pause_writing(self) -> None:
        """Make the site wait for the client."""
        self._http.pause_writing()

    def resume_writing(self) -> None:
        """Continue the response."""
        self._sending.restart()
        self._http.resume_writing()
        if self._has_answered:
            self._continue()

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the loss of the client to the site."""
        self._http.connection_lost(exc)
        self._transport.close()  # without it, TLS transports of Python 3.10 warn that they were not closed
        self._end()

    # -- as a connection of the runtime ------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Abort the connection of a client that is too slow.

        Args:
            now: seconds of a monotonic clock.
        """
        options, flow, unsent = self._taken.server.options, self._http.flow, self._transport.get_write_buffer_size()
        period, rate = options.ping_timeout, options.min_http_rate
        if not unsent or not (flow.write_paused or self._has_answered):
            self._sending.restart()  # it is the site's turn, or the site can write in between
        elif self._sending.is_too_slow(now, unsent, period, rate):
            self._transport.abort()
        if flow.read_paused or not self._needs_body():
            self._receiving.restart()
        elif self._receiving.is_too_slow(now, 0, period, rate):
            self._transport.abort()

    def abort(self) -> None:
        """Drop the connection at once."""
        self._transport.abort()

    # -- the request -------------------------------------------------------------------------------------------------

    def _pass_on(self, data: bytes) -> None:
        try:
            self._http.data_received(data)
        except Exception:  # uvicorn answers twice if a body is malformed
            logger.debug(
                "reading a request for the site failed", exc_info=True, extra=log_fields("site.request_failed")
            )
            self._transport.abort()
        cycle = self._http.cycle
        if cycle is not None and self._transport.is_closing():  # uvicorn has refused the body
            cycle.disconnected = True
            cycle.message_event.set()

    def _needs_body(self) -> bool:
        cycle = self._http.cycle
        return self._left != 0 and cycle is not None and bool(cycle.more_body)

    def _answered(self) -> None:
        """Note the end of the response; uvicorn calls this, after it has closed a connection that it does not keep."""
        self._has_answered = True
        self._http.cycle.transport = _Detached()
        if not self._transport.is_closing():
            self._http.flow.resume_reading()  # the site can have left a part of the body
            self._context.copy().run(self._continue)  # not in the context of the task of the site

    def _continue(self) -> None:
        """Return the transport to the server when the client has sent its body and taken enough of the response."""
        taken, transport = self._taken, self._transport
        if self._left or self._is_last or self._http.flow.write_paused or transport.is_closing():
            return
        if self._receiving.written:  # the site can have resumed reading, and asyncio keeps the context of its task
            transport.pause_reading()
            transport.resume_reading()
        KeptAliveConnection(taken.server).wait(transport, taken.header, bytes(self._later), self._idle_timeout)
        self._http.connections.discard(self._http)
        self._end()

    def _end(self) -> None:
        del self._http.on_response_complete  # which refers to this object
        server = self._taken.server
        if self._http.cycle is None:  # uvicorn has refused the head, and did not call the site
            server.connection_log.abandoned(self._taken.request)
        if server.admission is not None:
            server.admission.release(self._taken.request)
        server.runtime.discard(self)


class _Detached:
    """In place of a transport that the task of the site must not close any more: it can serve the next request."""

    def close(self) -> None:
        """Do nothing."""


def _client(taken: HandedOver) -> tuple[str, int] | None:
    """Return the client of ASGI; its port is 0 if a proxy states the address."""
    address, peer = taken.request.remote_address, taken.peername
    if not address:
        return None
    return address, peer[1] if isinstance(peer, tuple) and peer[0] == address else 0


def _closing(head: bytes, headers: Headers) -> bytes:
    """Return a head that asks to close the connection after the response, and not for another protocol."""
    if "upgrade" in headers:
        first, *fields = head.split(b"\r\n")
        head = b"\r\n".join([first, *(field for field in fields if not field.lower().startswith(b"upgrade:"))])
    return head + b"\r\nconnection: close"
