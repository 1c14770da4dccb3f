"""A connection that stays open after the response of a site: it waits for its next request, as a pending connection.

The next request is read, limited and routed like the first one of a connection. It can be a WebSocket handshake.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio

from pywsapp._server.http_connection import HttpConnection
from pywsapp._server.http_states import HttpState

if TYPE_CHECKING:
    from pywsapp._protocol.proxy_protocol import ProxyHeader
    from pywsapp._transports.base import Transport


class KeptAliveConnection(HttpConnection):
    """An HTTP connection whose client has had a response; it closes without an answer if no request comes."""

    __slots__ = ("_first", "_has_waited")

    def wait(self, transport: Transport, header: ProxyHeader | None, first: bytes, seconds: float) -> None:
        """Become the protocol of the transport, on asyncio or uvloop.

        Args:
            transport: the transport.
            header: the PROXY header of the connection, or None.
            first: what the client has sent already.
            seconds: how long the client can send nothing.
        """
        self._first = first
        self._has_waited = False
        transport.set_protocol(self)
        self.connection_made(transport)
        assert self._pending is not None
        self._pending.header = header
        self._pending.deadline = anyio.current_time() + seconds
        if first:  # later, so that a client with thousands of requests in one read does not make a deep recursion
            asyncio.get_running_loop().call_soon(self.data_received, b"")

    def data_received(self, data: bytes) -> None:
        """Handle a part of the next request, or the data after it."""
        if self._first:
            data, self._first = self._first + data, b""
        if data and not self._lost:
            super().data_received(data)

    def expire(self) -> None:
        """Close, or continue to read a head that has begun, which has `Options.handshake_timeout` from now on."""
        if self._state is not HttpState.READING or self._has_waited:
            super().expire()
        elif not self._head_buffer.received:
            self._close()
        self._has_waited = True
