"""Event streams of the server: from an answered request to a connection that lasts."""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING

from pywsapp._hooks import then
from pywsapp._lifecycle.event_stream import EventStreamLifecycle, EventStreamResponse
from pywsapp._protocol.http import encode_response
from pywsapp._server.upgrade import admitted, take_place
from pywsapp.exceptions import Refuse

if TYPE_CHECKING:
    from pywsapp._server.http_connection import HttpConnection
    from pywsapp._server.server import Server
    from pywsapp._transports.base import Transport
    from pywsapp.http import Request

#: An option of Linux: milliseconds for which sent bytes can stay without an acknowledgement.
_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", None)
logger = logging.getLogger("pywsapp")


def ask_for_stream(
    server: Server, request: Request, response: EventStreamResponse, transport: Transport
) -> EventStreamLifecycle | Awaitable[EventStreamLifecycle]:
    """Return the stream of an answered request, which is not open yet, when `authorize` allows it.

    It counts as a connection of its address from now on, so the caller must call `Admission.release` if it is not
    opened.

    Raises:
        Refuse: a limit of connections is reached, or `authorize` does not allow it. Awaiting the result raises it too.
    """
    if server.admission is not None:
        server.admission.check(request)
    stream = admitted(
        server,
        request,
        lambda: EventStreamLifecycle(
            response, request, transport, server.options, server.runtime, server.counts.of_route(request.route)
        ),
    )
    return then(stream.ask(), partial(_allowed, server, stream))


def _allowed(server: Server, stream: EventStreamLifecycle, asked: None) -> EventStreamLifecycle:
    server.check_not_draining()
    if stream.is_refused:  # its user has opened other connections meanwhile
        raise Refuse(429, body="too many connections of this user")
    return stream


def open_stream(connection: HttpConnection, server: Server, stream: EventStreamLifecycle, transport: Transport) -> None:
    """Write the head of the response, and pass the transport to the stream, which is still to be followed.

    The end of the connection is the end of the response, as for all responses of this server: nothing can follow a
    stream, and its events are the same bytes for each client and for ASGI servers.

    Args:
        connection: the HTTP connection, whose place in the runtime the stream takes.
        server: the server of both.
        stream: the stream.
        transport: the transport.
    """
    response = stream.response
    head = encode_response(response.status, response.headers, None, content_length=None, date=server.date())
    transport.write(head + stream.begin())
    limit_silence(transport, stream.response.settings.keepalive + server.options.ping_timeout)
    take_place(connection, server, stream, transport, response.settings.options or server.options)


def limit_silence(transport: Transport, seconds: float) -> None:
    """Have the kernel end a connection whose peer acknowledges nothing for some time, where it can do that.

    A client of an event stream answers nothing, so nothing else would notice that its machine is gone.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or _USER_TIMEOUT is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    try:
        sock.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, round(1000 * seconds))
    except OSError as exc:  # the peer is gone already
        logger.debug("a socket takes no time limit: %s", exc)
