"""The upgrade: an HTTP connection whose handshake is accepted passes its transport to a `Lifecycle`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp._protocol.handshake import accept, choose_subprotocol
from pywsapp._protocol.websocket import WebSocket
from pywsapp.options import check_not_server_wide

if TYPE_CHECKING:
    from pywsapp._server.http_connection import HttpConnection
    from pywsapp._server.server import Server
    from pywsapp._transports.base import Transport
    from pywsapp.component import Accept
    from pywsapp.http import Request

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
    component = answer.component
    assert component is not None
    options = server.options
    if answer.options is not None:
        check_not_server_wide(answer.options, options, "an Accept")
        options = answer.options
    subprotocol = answer.subprotocol
    if subprotocol is None:
        supported = component.subprotocols if answer.subprotocols is None else answer.subprotocols
        subprotocol = choose_subprotocol(request, supported, required=answer.require_subprotocol)
    response, deflate = accept(request, subprotocol=subprotocol, deflate=options.deflate, headers=answer.headers)
    runtime, admission = server.runtime, server.admission
    if runtime.users is not None:
        runtime.users.check(request)
    ws = WebSocket(client=False, options=options, deflate=deflate)
    place = None if admission is None else admission.admit(request)
    try:
        lifecycle = Lifecycle(component, request, ws, transport, options, runtime, subprotocol)
    except BaseException:  # an attribute of the component raises
        if admission is not None:
            admission.release(request)
        raise
    if place is not None:
        place.conn = lifecycle.conn
    transport.write(response)
    if options.high_water != server.options.high_water:
        transport.set_write_buffer_limits(high=options.high_water)
    transport.set_protocol(lifecycle)
    runtime.connections.add(lifecycle)
    runtime.connections.discard(connection)
    runtime.opened(lifecycle.conn)
    logger.debug("%r opened", lifecycle.conn)
    return lifecycle
