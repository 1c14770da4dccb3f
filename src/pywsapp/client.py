"""The client role: a component on a connection that this side opened."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio

from pywsapp.connection import Connection
from pywsapp.hosting.listeners import connect_link
from pywsapp.hosting.runtime import Runtime
from pywsapp.hosting.tls import client_context
from pywsapp.lifecycle import Lifecycle
from pywsapp.protocol.client_handshake import Accepted, ClientHandshake
from pywsapp.protocol.websocket import WebSocket
from pywsapp.values.errors import ConfigurationError, HandshakeError
from pywsapp.values.options import Options
from pywsapp.values.request import Request

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from pywsapp.component import MessageComponent
    from pywsapp.hosting.transport import Transport


async def connect(
    component: MessageComponent,
    url: str,
    *,
    options: Options | None = None,
    subprotocols: Sequence[str] = (),
    headers: Iterable[tuple[str, str]] = (),
    origin: str | None = None,
    tls: ssl.SSLContext | None = None,
    unix_path: str | None = None,
) -> Connection:
    """Connect to a WebSocket server and run a component on the connection until it is closed.

    The component is promised what it is promised on a server. Works on asyncio and trio; cancelling it drops the
    connection, and `on_close` is called.

    Args:
        component: takes the connection.
        url: "ws://..." or "wss://...".
        options: limits and timings; `handshake_timeout` also bounds connecting.
        subprotocols: what to offer, the preferred one first.
        headers: further fields of the request, cookies or an Authorization for instance.
        origin: the Origin field.
        tls: for wss, instead of the system's trust store.
        unix_path: connect to this Unix socket instead; the URL then only names host and path.

    Returns:
        the connection, after its end, with `close_code`, `close_reason` and `was_clean`.

    Raises:
        ConfigurationError: the URL or an argument cannot be.
        HandshakeError: the server refused, answered wrongly, or not in time.
        OSError: there is no connecting to it.
    """
    options = options or Options()
    host, port, host_field, path = _parse(url)
    if origin is not None:
        headers = [*headers, ("Origin", origin)]
    handshake = ClientHandshake(
        host=host_field,
        path=path,
        subprotocols=subprotocols,
        deflate=options.deflate,
        headers=headers,
        key=os.urandom(16),
        max_header_size=options.max_header_size,
        max_headers=options.max_headers,
    )
    secure = url.lower().startswith("wss:")
    runtime = Runtime(options)
    request = Request(path=path.partition("?")[0], query_string=path.partition("?")[2], host=host, port=port)
    link = ClientLink(component, handshake, request, options, runtime)

    async def body(transports: TaskGroup) -> None:
        with anyio.fail_after(options.handshake_timeout):
            await connect_link(
                lambda: link,
                host=host,
                port=port,
                unix_path=unix_path,
                tls=(tls or client_context()) if secure else None,
                server_hostname=host if secure else None,
                task_group=transports,
                timeout=options.handshake_timeout,
            )
            await link.decided.wait()
        await runtime.wait_empty()

    try:
        await runtime.run(body)
    except TimeoutError:
        raise HandshakeError("the server did not answer the handshake in time") from None
    if link.error is not None:
        raise link.error
    assert link.conn is not None
    return link.conn


class ClientLink:
    """The link of a connection whose handshake the server has not answered yet."""

    def __init__(
        self,
        component: MessageComponent,
        handshake: ClientHandshake,
        request: Request,
        options: Options,
        runtime: Runtime,
    ) -> None:
        self.decided = anyio.Event()
        self.error: Exception | None = None
        self.conn: Connection | None = None
        self._component = component
        self._handshake = handshake
        self._request = request
        self._options = options
        self._runtime = runtime
        self._transport: Transport

    def connection_made(self, transport: Any) -> None:
        """Send the request."""
        self._transport = transport
        self._runtime.links.add(self)
        peer = transport.get_extra_info("peername")
        self._request.remote_address = str(peer[0]) if isinstance(peer, tuple) else ""
        transport.write(self._handshake.request)

    def data_received(self, data: bytes) -> None:
        """Take a part of the answer."""
        if self.decided.is_set():
            return
        try:
            accepted = self._handshake.receive(data)
        except HandshakeError as exc:
            self._fail(exc)
        else:
            if accepted is not None:
                self._accept(accepted)

    def _accept(self, accepted: Accepted) -> None:
        options = self._options
        transport = self._transport
        transport.set_write_buffer_limits(high=options.high_water)
        ws = WebSocket(client=True, options=options, deflate=accepted.deflate)
        runtime = self._runtime
        self.conn = Connection(self._request, ws, transport, runtime.flusher, options, accepted.subprotocol)
        lifecycle = Lifecycle(self._component, self.conn, ws, options, runtime)
        transport.set_protocol(lifecycle)
        runtime.links.add(lifecycle)
        runtime.links.discard(self)
        self.decided.set()
        lifecycle.open(accepted.rest)

    def _fail(self, exc: Exception) -> None:
        if not self.decided.is_set():
            self.error = exc
            self.decided.set()
        self._transport.abort()

    def eof_received(self) -> bool:
        """Take the end of the stream before the answer."""
        return False

    def pause_writing(self) -> None:
        """Nothing to do: the request is all there is."""

    def resume_writing(self) -> None:
        """Nothing to do: the request is all there is."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the end of the transport."""
        self._fail(HandshakeError("the server closed the connection instead of answering the handshake"))
        self._runtime.forget(self)

    def abort(self) -> None:
        """Drop the connection at once."""
        self._transport.abort()

    def tick(self, now: float) -> None:
        """Nothing to do: `connect` has a deadline of its own."""


def _parse(url: str) -> tuple[str, int, str, str]:
    """Give host, port, Host field and path with query of a WebSocket URL."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise ConfigurationError(f"{url!r} is not a URL: {exc}") from None
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ConfigurationError(f"a WebSocket URL looks like ws://host:port/path or wss://..., not {url!r}")
    if parts.fragment or parts.username is not None:
        raise ConfigurationError("a WebSocket URL has no #fragment and no user; send credentials in headers")
    host = parts.hostname
    literal = f"[{host}]" if ":" in host else host
    default = 443 if parts.scheme == "wss" else 80
    field = literal if port in (None, default) else f"{literal}:{port}"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return host, port or default, field, path
