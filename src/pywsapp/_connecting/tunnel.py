"""A connection through an HTTP proxy: CONNECT (RFC 9110 section 9.3.6), and TLS with the server behind it.

A `Tunnel` is the protocol of the transport to the proxy, plain or TLS, until the server can be reached. Then the
protocol of the client takes its place, for wss with a `TlsTransport` between the two. So TLS inside of TLS works on
every event loop.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import anyio

from pywsapp._connecting.proxies import Proxy
from pywsapp._connecting.refusal import without_secrets
from pywsapp._http_text import one_line
from pywsapp._protocol.http import HeadBuffer, encode_fields, parse_response
from pywsapp._transports.tls import TlsTransport
from pywsapp.exceptions import HandshakeError, ProxyError, Refuse

if TYPE_CHECKING:
    from pywsapp._transports.base import Transport, TransportProtocol
    from pywsapp.options import Options

_MAX_INTERIM = 8


class Tunnel:
    """The protocol of a transport to an HTTP proxy, until it has connected to the server.

    Args:
        proxy: the proxy.
        host: the server's name or IP address, in brackets if it is an IPv6 address.
        port: the server's port.
        protocol: the protocol that takes over.
        tls: the context for TLS with the server; None for none.
        server_hostname: the name that the server's certificate must have.
        options: the limits of the proxy's answer.

    Attributes:
        ended: set when the protocol has taken over, or the attempt has failed.
        error: why it has failed.
    """

    def __init__(
        self,
        proxy: Proxy,
        host: str,
        port: int,
        protocol: TransportProtocol,
        tls: ssl.SSLContext | None,
        server_hostname: str,
        options: Options,
    ) -> None:
        self.ended = anyio.Event()
        self.error: Exception | None = None
        self._proxy = proxy
        self._protocol = protocol
        self._tls = None if tls is None else TlsTransport(tls, server_hostname)
        self._options = options
        self._buffer: HeadBuffer | None = HeadBuffer(options.max_header_size)
        self._interim = 0
        self._transport: Transport | None = None
        fields = [] if proxy.authorization is None else [("Proxy-Authorization", proxy.authorization)]
        address = f"{host}:{port}"
        self._request = "".join(
            [f"CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n", *encode_fields(fields), "\r\n"]
        ).encode("latin-1")

    def connection_made(self, transport: Any) -> None:
        """Send the request for a connection to the server."""
        self._transport = transport
        if self.error is not None:
            transport.abort()
        else:
            transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Handle the answer of the proxy, then the TLS handshake of the server."""
        if self.ended.is_set():
            return
        try:
            if self._buffer is None:
                self._shake_hands(data)
            else:
                self._read_answer(self._buffer, data)
        except (ProxyError, ssl.SSLError) as exc:
            self.fail(exc)

    def _read_answer(self, buffer: HeadBuffer, data: bytes) -> None:
        try:
            head = buffer.receive(data)
            response = None if head is None else parse_response(head, max_headers=self._options.max_headers)
        except (Refuse, HandshakeError):
            raise ProxyError(f"the answer of the proxy {self._proxy} is malformed or too long") from None
        if response is None:
            return
        if response.status < 200:
            self._interim += 1
            if self._interim > _MAX_INTERIM or response.status == 101:
                raise ProxyError(f"the proxy {self._proxy} sent too many interim responses", response.status)
            self._buffer = HeadBuffer(self._options.max_header_size)
            if buffer.rest:
                self._read_answer(self._buffer, buffer.rest)
            return
        if response.status >= 300:
            secrets = [self._proxy.authorization or "", self._proxy.password]
            reason = one_line(without_secrets(response.reason, secrets))
            raise ProxyError(f"the proxy {self._proxy} answered {response.status} {reason}".rstrip(), response.status)
        if buffer.rest:  # neither a WebSocket server nor TLS speaks first
            raise ProxyError(f"the proxy {self._proxy} sent bytes of its own after its answer")
        self._buffer = None
        if self._tls is None:
            self._hand_over()
        else:
            self._shake_hands(b"")

    def _shake_hands(self, records: bytes) -> None:
        tls, transport = self._tls, self._transport
        assert tls is not None
        assert transport is not None
        try:
            is_complete = tls.handshake(records)
        finally:
            if tls.outgoing.pending:
                transport.write(tls.outgoing.read())
        if is_complete:
            self._hand_over()

    def _hand_over(self) -> None:
        """Let the protocol of the client take over."""
        tls, transport, protocol = self._tls, self._transport, self._protocol
        assert transport is not None
        self.ended.set()
        if tls is None:
            transport.set_protocol(protocol)
            protocol.connection_made(transport)
            return
        tls.set_protocol(protocol)
        transport.set_protocol(tls)
        tls.connection_made(transport)
        records = tls.incoming.read()
        if records:
            tls.data_received(records)

    def fail(self, exc: Exception) -> None:
        """End the attempt."""
        if not self.ended.is_set():
            self.error = exc
            self.ended.set()
        if self._transport is not None:
            self._transport.abort()

    def eof_received(self) -> bool:
        """Handle the end of the proxy's stream: the transport closes itself."""
        return False

    def pause_writing(self) -> None:
        """Do nothing: little is written."""

    def resume_writing(self) -> None:
        """Do nothing: little is written."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the loss of the transport."""
        if self._buffer is not None:
            self.fail(ProxyError(f"the proxy {self._proxy} closed the connection instead of answering"))
        else:
            self.fail(ConnectionResetError("the connection was closed during the TLS handshake through the proxy"))
