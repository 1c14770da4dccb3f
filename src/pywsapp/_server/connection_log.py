"""Log lines about connections: debug lines when one opens and closes, and the access log."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from pywsapp._http_text import one_line
from pywsapp._lifecycle.event_stream import EventStreamConnection
from pywsapp._protocol.handshake import protocol_asked_for

if TYPE_CHECKING:
    from pywsapp.connection import Connection
    from pywsapp.http import Request

logger = logging.getLogger("pywsapp")
access_logger = logging.getLogger("pywsapp.access")


class ConnectionLog:
    """Log the connections and requests of a server.

    The access log has one INFO line for each finished request, WebSocket and event stream, on the logger
    `pywsapp.access`. The path is logged without its query string, because query strings can hold secrets.

        192.0.2.1 GET /page 200
        192.0.2.1 GET /chat 101 closed with 1000 after 12.345 s
        192.0.2.1 GET /stream 200 closed with 1006 after 12.345 s

    Args:
        access_log: whether to write the access log. The debug lines depend on the level of the logger `pywsapp`.
    """

    __slots__ = ("_opened_at", "has_access_log")

    def __init__(self, access_log: bool) -> None:
        self.has_access_log = access_log
        # By the identity of the request: an open connection keeps its request. Empty if nothing is logged.
        self._opened_at: dict[int, float] = {}

    def opened(self, request: Request) -> None:
        """Store when the connection of a request was opened, if a line is logged when it closes."""
        if self.has_access_log or logger.isEnabledFor(logging.DEBUG):
            self._opened_at[id(request)] = time.monotonic()

    def closed(self, conn: Connection) -> None:
        """Log the end of a connection."""
        opened_at = self._opened_at.pop(id(conn.request), None)
        if opened_at is None:
            return
        seconds, code = time.monotonic() - opened_at, conn.close_code
        logger.debug(
            "%r ended with code %s and reason '%s' after %.3f s", conn, code, one_line(conn.close_reason), seconds
        )
        if self.has_access_log:
            peer, line = conn.remote_address or "local", request_line(conn.request)
            is_stream = isinstance(conn, EventStreamConnection) or protocol_asked_for(conn.request) is not None
            status = 200 if is_stream else 101
            access_logger.info("%s %s %d closed with %s after %.3f s", peer, line, status, code, seconds)

    def responded(self, peer: str, request: Request | None, status: int, *, complete: bool = True) -> None:
        """Log a response to the access log, if there is one.

        Args:
            peer: the client's address.
            request: the request; None if it was not valid.
            status: the HTTP status.
            complete: whether the whole body was sent.
        """
        if self.has_access_log:
            end = "" if complete else " incomplete"
            access_logger.info("%s %s %d%s", peer, request_line(request), status, end)


def request_line(request: Request | None) -> str:
    """Return the method and the path of a request without its query string, safe for a log."""
    return one_line(f"{request.method} {request.path}") if request is not None else "no valid request"
