"""The upgrade: an HTTP connection whose handshake is accepted passes its transport to a `Lifecycle`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp._log_fields import log_fields
from pywsapp._messages.choosing import connection_maker, offered_subprotocols
from pywsapp._protocol.handshake import accept, choose_subprotocol
from pywsapp._protocol.websocket import WebSocket
from pywsapp.options import check_not_server_wide

if TYPE_CHECKING:
    from collections.abc import Callable

    from pywsapp._lifecycle.host import Host
    from pywsapp._protocol.deflate import DeflateParameters
    from pywsapp._server.http_connection import HttpConnection
    from pywsapp._server.server import Server
    from pywsapp._transports.base import Transport
    from pywsapp.component import Accept
    from pywsapp.http import Request
    from pywsapp.options import Options

LifecycleT = TypeVar("LifecycleT", bound=Lifecycle)
logger = logging.getLogger("pywsapp")


def upgrade(
    connection: HttpConnection, server: Server, request: Request, answer: Accept, transport: Transport
) -> Lifecycle:
    """Write the 101 response and pass the transport to a new lifecycle, which is returned and still to be opened.

    Args:
        connection: the HTTP connection, whose place in the runtime the lifecycle takes.
        server: the server of both.
        request: the request of the handshake.
        answer: how the component accepts it.
        transport: the transport.

    Raises:
        Refuse: the client offers no common subprotocol where one is required, or a limit of connections is reached.
        ConfigurationError: the answer of the component is not valid.
    """
    options = agreed_options(server, answer)
    subprotocol = agreed_subprotocol(request, answer)
    response, deflate = accept(request, subprotocol=subprotocol, deflate=options.deflate, headers=answer.headers)
    lifecycle = make_lifecycle(server, request, answer, transport, subprotocol, deflate, options)
    transport.write(response)
    take_place(connection, server, lifecycle, transport, options.high_water)
    return lifecycle


def take_place(
    connection: HttpConnection, server: Server, lifecycle: Lifecycle, transport: Transport, high_water: int
) -> None:
    """Have a lifecycle take the place of an HTTP connection in the runtime and at the transport."""
    runtime = server.runtime
    if high_water != server.options.high_water:
        transport.set_write_buffer_limits(high=high_water)
    transport.set_protocol(lifecycle)
    runtime.connections.add(lifecycle)
    runtime.connections.discard(connection)
    runtime.opened(lifecycle.conn)
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug("%r opened", lifecycle.conn, extra=log_fields("connection.opened", lifecycle.conn))


def agreed_options(server: Server, answer: Accept) -> Options:
    """Return the options of a handshake that a component has accepted.

    Raises:
        ConfigurationError: options that only the server reads differ from those of the server.
    """
    if answer.options is None:
        return server.options
    check_not_server_wide(answer.options, server.options, "an Accept")
    return answer.options


def agreed_subprotocol(request: Request, answer: Accept) -> str | None:
    """Return the subprotocol of a handshake that a component has accepted.

    Raises:
        Refuse: the client offers no common subprotocol where one is required.
    """
    if answer.subprotocol is not None:
        return answer.subprotocol
    assert answer.component is not None
    supported = answer.component.subprotocols if answer.subprotocols is None else answer.subprotocols
    return choose_subprotocol(request, supported or offered_subprotocols(request), required=answer.require_subprotocol)


def make_lifecycle(
    server: Server,
    request: Request,
    answer: Accept,
    transport: Transport,
    subprotocol: str | None,
    deflate: DeflateParameters | None,
    options: Options,
    host: Host | None = None,
) -> Lifecycle:
    """Return the lifecycle of a handshake that a component has accepted; it counts as a connection from now on.

    Args:
        server: the server of the connection.
        request: the request of the handshake.
        answer: how the component accepts it.
        transport: the transport.
        subprotocol: the agreed subprotocol.
        deflate: the agreed parameters of permessage-deflate, or None without it.
        options: the limits.
        host: the host of the lifecycle; by default the runtime of the server.

    Raises:
        Refuse: a limit of connections is reached.
    """
    component = answer.component
    assert component is not None
    ws = WebSocket(client=False, options=options, deflate=deflate)
    ws.traffic = server.counts.of_route(request.route)

    def make() -> Lifecycle:
        make_connection = connection_maker(component, request, subprotocol, options)
        return Lifecycle(
            component, request, ws, transport, options, host or server.runtime, subprotocol, make_connection
        )

    return admitted(server, request, make)


def admitted(server: Server, request: Request, make: Callable[[], LifecycleT]) -> LifecycleT:
    """Return the lifecycle that a function makes; it counts as a connection from now on.

    Raises:
        Refuse: a limit of connections is reached.
    """
    runtime, admission = server.runtime, server.admission
    if runtime.users is not None:
        runtime.users.check(request)
    place = None if admission is None else admission.admit(request)
    try:
        lifecycle = make()
    except BaseException:  # an attribute of the component raises
        if admission is not None:
            admission.release(request)
        raise
    if place is not None:
        place.conn = lifecycle.conn
    return lifecycle
