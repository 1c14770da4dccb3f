"""Event streams of the server: from an answered request to a connection that lasts."""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING

from pywsapp._hooks import then
from pywsapp._lifecycle.event_stream import EventStreamLifecycle, EventStreamResponse
from pywsapp._lifecycle.fallback import FallbackLifecycle
from pywsapp._lifecycle.requests import decide_handshake
from pywsapp._log_fields import log_fields
from pywsapp._messages.choosing import connection_maker
from pywsapp._protocol.handshake import check_upgrade
from pywsapp._protocol.http import encode_fields, encode_response
from pywsapp._request_state import access_of
from pywsapp._server.upgrade import admitted, agreed_options, agreed_subprotocol, take_place
from pywsapp.auth.user_keys import key_of_user
from pywsapp.exceptions import Refuse
from pywsapp.options import without_frames

if TYPE_CHECKING:
    from pywsapp._lifecycle.stream import StreamLifecycle
    from pywsapp._server.http_connection import HttpConnection
    from pywsapp._server.server import Server
    from pywsapp._transports.base import Transport
    from pywsapp.component import Accept
    from pywsapp.http import Request

#: Caches store nothing, proxies do not compress (which would delay events), and nginx does not buffer.
_FALLBACK_FIELDS = (
    ("Content-Type", "text/event-stream"),
    ("Cache-Control", "no-store, no-transform"),
    ("X-Accel-Buffering", "no"),
)
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


def ask_for_connection(
    server: Server, request: Request, protocol: str | None, transport: Transport
) -> Accept | FallbackLifecycle | Awaitable[Accept | FallbackLifecycle]:
    """Return the decision about a handshake, or about the GET request of a fallback.

    Args:
        server: the server.
        request: the request.
        protocol: the subprotocol that the client of a fallback offers; None for a handshake.
        transport: the transport.

    Raises:
        Refuse: it is refused. Awaiting the result raises it too.
    """
    if protocol is not None:
        return ask_for_fallback(server, request, protocol, transport)
    check_upgrade(request)
    return decide_handshake(server.component, request)


def ask_for_fallback(
    server: Server, request: Request, protocol: str, transport: Transport
) -> FallbackLifecycle | Awaitable[FallbackLifecycle]:
    """Return the stream of a fallback connection, which is not open yet, when the component accepts it.

    The request is a handshake for components and middleware: what decides about a WebSocket decides about it.

    Args:
        server: the server.
        request: the GET request.
        protocol: the subprotocol that the client offers.
        transport: the transport.

    Raises:
        Refuse: the component refuses, the route has no fallback, or a limit of connections is reached. Awaiting the
            result raises it too.
    """
    request.subprotocols = (protocol,)
    answer = decide_handshake(server.component, request)
    return then(answer, partial(_fallback_stream, server, request, transport))


def _fallback_stream(server: Server, request: Request, transport: Transport, answer: Accept) -> FallbackLifecycle:
    """Return the stream of a fallback connection that a component has accepted, which is not open yet.

    It counts as a connection from now on, as for `ask_for_stream`.

    Raises:
        Refuse: the route has no fallback, a limit of connections is reached, or the server drains.
        ConfigurationError: the answer of the component is not valid, or the user of the request has no key.
    """
    access = access_of(request)
    if access is None or access.fallback_route is None or request.app is None:
        raise Refuse(406, body="this route has no fallback: the server must set fallback=True")
    server.check_not_draining()
    component, options = answer.component, without_frames(agreed_options(server, answer))
    assert component is not None
    subprotocol, route, user = agreed_subprotocol(request, answer), access.fallback_route, key_of_user(request)
    fields = (*_FALLBACK_FIELDS, *answer.headers, *access.page_fields)
    encode_fields(fields)  # raises where a field could start another line

    def make() -> FallbackLifecycle:
        return FallbackLifecycle(
            component,
            request,
            transport,
            options,
            server.runtime,
            subprotocol,
            connection_maker(component, request, subprotocol, options),
            request.app.topics.fallback,
            route,
            user,
            fields,
            server.counts.of_route(request.route),
        )

    return admitted(server, request, make)


def open_stream(connection: HttpConnection, server: Server, stream: StreamLifecycle, transport: Transport) -> None:
    """Write the head of the response, and pass the transport to the stream, which is still to be followed.

    The end of the connection is the end of the response, as for all responses of this server: nothing can follow a
    stream, and its events are the same bytes for each client and for ASGI servers.

    Args:
        connection: the HTTP connection, whose place in the runtime the stream takes.
        server: the server of both.
        stream: the stream.
        transport: the transport.
    """
    head = encode_response(200, stream.fields, None, content_length=None, date=server.date())
    transport.write(head + stream.begin())
    limit_silence(transport, stream.keepalive + server.options.ping_timeout)
    take_place(connection, server, stream, transport, stream.high_water)


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
        logger.debug(
            "a socket takes no time limit: %s", exc, extra=log_fields("connection.no_time_limit", error=str(exc))
        )
