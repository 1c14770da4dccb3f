"""A connection that stays open after the response of a site: it waits for its next request, as a pending connection.

The next request is read, limited and routed like the first one of a connection. It can be a WebSocket handshake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from pywsapp._server.http_connection import HttpConnection
from pywsapp._server.http_states import HttpState

if TYPE_CHECKING:
    from pywsapp._protocol.proxy_protocol import ProxyHeader
    from pywsapp._server.server import Server
    from pywsapp._transports.base import Transport


class KeptAliveConnection(HttpConnection):
    """An HTTP connection whose client has had a response; it closes without an answer if no request comes."""

    __slots__ = ("_has_waited",)

    def wait(self, transport: Transport, header: ProxyHeader | None, seconds: float) -> None:
        """Become the protocol of the transport.

        Args:
            transport: the transport.
            header: the PROXY header of the connection, or None.
            seconds: how long the client can send nothing.
        """
        self._has_waited = False
        transport.set_protocol(self)
        self.connection_made(transport)
        assert self._pending is not None
        self._pending.header = header
        self._pending.deadline = anyio.current_time() + seconds

    def expire(self) -> None:
        """Close, or continue to read a head that has begun, which has `Options.handshake_timeout` from now on."""
        if self._state is not HttpState.READING or self._has_waited:
            super().expire()
        elif not self._head_buffer.received:
            self._close()
        self._has_waited = True


def await_request(
    server: Server, transport: Transport, header: ProxyHeader | None, data: bytes, seconds: float
) -> None:
    """Let a connection wait for its next request.

    Args:
        server: its server.
        transport: its transport.
        header: its PROXY header, or None.
        data: what the client has sent behind the last request.
        seconds: how long it can send nothing.
    """
    connection = KeptAliveConnection(server)
    connection.wait(transport, header, seconds)
    if data and not transport.is_closing():
        connection.data_received(data)
