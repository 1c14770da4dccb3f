"""Log lines about connections: debug lines when one opens and closes, and the access log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from pywsapp._http_text import one_line
from pywsapp._lifecycle.event_stream import EventStreamConnection
from pywsapp._limits.over_limit import OverLimit
from pywsapp._log_fields import log_fields
from pywsapp._protocol.handshake import is_upgrade, protocol_asked_for

if TYPE_CHECKING:
    from pywsapp._trace_hooks import TraceHooks
    from pywsapp.connection import Connection
    from pywsapp.exceptions import Refuse
    from pywsapp.http import Request

logger = logging.getLogger("pywsapp")
access_logger = logging.getLogger("pywsapp.access")

#: The statuses of bytes that are no request, of a request that does not come in time, and of HTTP/2.
_NO_HTTP = {400, 408, 505}


class ConnectionLog:
    """Log the connections and requests of a server, and report their ends to traces.

    The access log has one INFO line for each finished request, WebSocket and event stream, on the logger
    `pywsapp.access`. The path is logged without its query string, because query strings can hold secrets.

        192.0.2.1 GET /page 200 in 0.003 s
        192.0.2.1 GET /chat 101 closed with 1000 after 12.345 s
        192.0.2.1 GET /stream 200 closed with 1006 after 12.345 s

    Health checks are logged at DEBUG, because load balancers send them all the time.

    Args:
        access_log: whether to write the access log. The debug lines depend on the level of the logger `pywsapp`.
        is_probe: returns whether a request is a health check.
        trace_hooks: gets the end of each request too; None without `pywsapp.telemetry`.

    Attributes:
        has_access_log: whether to write the access log.
        has_times: whether to store when connections are opened, also if nothing is logged.
    """

    __slots__ = ("_is_probe", "_opened_at", "_trace_hooks", "has_access_log", "has_times")

    def __init__(
        self, access_log: bool, is_probe: Callable[[Request], bool], trace_hooks: TraceHooks | None = None
    ) -> None:
        self.has_access_log = access_log
        self._trace_hooks = trace_hooks
        self.has_times = False
        self._is_probe = is_probe
        # By the identity of the request: an open connection keeps its request.
        self._opened_at: dict[int, float] = {}

    @property
    def follows_requests(self) -> bool:
        """Whether the end of a request matters."""
        return self.has_access_log or self._trace_hooks is not None

    def inside(self, request: Request) -> AbstractContextManager[object]:
        """Return a context manager whose block belongs to the trace of a request."""
        return nullcontext() if self._trace_hooks is None else self._trace_hooks.inside(request)

    def opened(self, request: Request) -> None:
        """Store when the connection of a request was opened, if this is needed. The request itself has ended."""
        if self.has_access_log or self.has_times or logger.isEnabledFor(logging.DEBUG):
            self._opened_at[id(request)] = time.monotonic()
        if self._trace_hooks is not None:
            self._trace_hooks.ended(request, 101 if is_upgrade(request) else 200)

    def opened_at(self, request: Request) -> float | None:
        """Return when the connection of a request was opened, in seconds of `time.monotonic`; None if not stored."""
        return self._opened_at.get(id(request))

    def closed(self, conn: Connection) -> None:
        """Log the end of a connection."""
        opened_at = self._opened_at.pop(id(conn.request), None)
        if opened_at is None:
            return
        seconds, code = time.monotonic() - opened_at, conn.close_code
        if logger.isEnabledFor(logging.DEBUG):
            reason = conn.close_reason
            logger.debug(
                "%r ended with code %s and reason '%s' after %.3f s",
                conn,
                code,
                one_line(reason),
                seconds,
                extra=log_fields(
                    "connection.closed", conn, close_code=code, close_reason=reason, duration_seconds=seconds
                ),
            )
        if self.has_access_log:
            is_stream = isinstance(conn, EventStreamConnection) or protocol_asked_for(conn.request) is not None
            status = 200 if is_stream else 101
            access_logger.info(
                "%s %s %d closed with %s after %.3f s",
                conn.remote_address or "local",
                request_line(conn.request),
                status,
                code,
                seconds,
                extra=log_fields("access.connection", conn, status=status, close_code=code, duration_seconds=seconds),
            )

    def responded(
        self,
        peer: str,
        request: Request | None,
        status: int,
        began: float | None,
        *,
        complete: bool = True,
        refuse: Refuse | None = None,
    ) -> None:
        """Log a response to the access log, if there is one.

        Args:
            peer: the client's address.
            request: the request; None if it was not valid.
            status: the HTTP status.
            began: the result of `time.monotonic` when the request was complete; None if the request was not valid.
            complete: whether the whole body was sent.
            refuse: the refusal that the response has, for traces.
        """
        if self._trace_hooks is not None and request is not None:
            self._trace_hooks.ended(request, status, refuse, is_complete=complete)
        if not self.has_access_log:
            return
        seconds = None if began is None else time.monotonic() - began
        is_probe = request is not None and self._is_probe(request)
        access_logger.log(
            logging.DEBUG if is_probe else logging.INFO,
            "%s %s %d%s%s",
            peer,
            request_line(request),
            status,
            "" if complete else " incomplete",
            "" if seconds is None else f" in {seconds:.3f} s",
            extra=log_fields(
                "access.request",
                request,
                remote_address=peer,
                status=status,
                duration_seconds=seconds,
                reason=None if complete else "incomplete",
            ),
        )

    def refused(self, peer: str, request: Request | None, refuse: Refuse) -> None:
        """Log a refused request.

        The level is DEBUG if the report of a limit logs it already, and for what port scans and lost clients send.

        Args:
            peer: the client's address.
            request: the request; None if it was not valid.
            refuse: the refusal.
        """
        if self._trace_hooks is not None and request is not None:
            self._trace_hooks.ended(request, refuse.status, refuse)
        is_noise = isinstance(refuse, OverLimit) or (request is None and refuse.status in _NO_HTTP)
        level = logging.DEBUG if is_noise else logging.INFO
        if not logger.isEnabledFor(level):  # floods are refused here
            return
        logger.log(
            level,
            "%s: %s answered with %s",
            peer,
            request_line(request),
            one_line(str(refuse)),
            extra=log_fields("request.refused", request, remote_address=peer, status=refuse.status, reason=str(refuse)),
        )

    def abandoned(self, request: Request | None) -> None:
        """Note that a request gets no answer, if nothing has ended it before; nothing is logged."""
        if self._trace_hooks is not None and request is not None:
            self._trace_hooks.abandoned(request)


def request_line(request: Request | None) -> str:
    """Return the method and the path of a request without its query string, safe for a log."""
    return one_line(f"{request.method} {request.path}") if request is not None else "no valid request"


def log_wrong_length(request: Request | None, sent: int, size: int) -> None:
    """Log a response whose body is shorter or longer than its Content-Length; the sizes are bytes."""
    logger.error(
        "the response to %s has a body of %d bytes, but content_length=%d",
        request_line(request),
        sent,
        size,
        extra=log_fields("response.wrong_length", request, size_bytes=sent),
    )


def log_failed_body(request: Request | None) -> None:
    """Log the exception of a body that the program makes while it is sent."""
    logger.exception(
        "sending the body of the response to %s failed",
        request_line(request),
        extra=log_fields("response.failed", request),
    )
