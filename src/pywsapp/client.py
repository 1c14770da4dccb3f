"""The client role: a component on a connection that this side opened."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

import anyio

from pywsapp._hooks import check_component, make_component
from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp._protocol.client_handshake import Accepted, ClientHandshake
from pywsapp._protocol.websocket import WebSocket
from pywsapp._server.connect import open_connection
from pywsapp._server.runtime import Runtime
from pywsapp._server.tls import client_context
from pywsapp.connection import Connection
from pywsapp.exceptions import ConfigurationError, HandshakeError, HeaderItems
from pywsapp.http import Request
from pywsapp.options import Options

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from pywsapp._transports.base import Transport
    from pywsapp.component import ComponentFactory, MessageComponent


async def connect(
    component: MessageComponent | ComponentFactory,
    url: str,
    *,
    options: Options | None = None,
    subprotocols: Sequence[str] = (),
    headers: HeaderItems = (),
    origin: str | None = None,
    tls: ssl.SSLContext | None = None,
    unix_path: str | os.PathLike[str] | None = None,
) -> Connection:
    """Connect to a WebSocket server and run a component on the connection until it is closed.

    The component is promised what it is promised on a server. Works on asyncio and trio; cancelling it drops the
    connection, and `on_close` is called.

    Args:
        component: takes the connection; or a class or function that makes it.
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
        OSError: there is no connecting to it; a TimeoutError if that took too long.
    """
    component = make_component(check_component(component))
    options = options or Options()
    target = _parse(url)
    if tls is not None and not target.secure:
        raise ConfigurationError(f"tls is for wss:// URLs, and {url!r} is not encrypted")
    fields = list(headers.items() if isinstance(headers, Mapping) else headers)
    if origin is not None:
        fields.append(("Origin", origin))
    handshake = ClientHandshake(
        host=target.field,
        path=target.path,
        subprotocols=subprotocols,
        deflate=options.deflate,
        headers=fields,
        key=os.urandom(16),
        max_header_size=options.max_header_size,
        max_headers=options.max_headers,
    )
    runtime = Runtime(options)
    link = ClientHttpConnection(component, handshake, target.request(subprotocols), options, runtime)

    async def body(transports: TaskGroup) -> None:
        await link.dial(target, tls, unix_path, transports)
        await runtime.wait_empty()

    await runtime.run(body)
    if link.error is not None:
        raise link.error
    assert link.conn is not None
    return link.conn


class Target(NamedTuple):
    """What a URL says."""

    secure: bool
    host: str
    port: int
    field: str  # for Host
    path: str  # with the query

    def request(self, subprotocols: Sequence[str]) -> Request:
        path, _, query = self.path.partition("?")
        return Request(
            path=unquote(path),
            query_string=query,
            scheme="https" if self.secure else "http",
            host=self.host,
            port=self.port,
            subprotocols=tuple(subprotocols),
        )


class ClientHttpConnection:
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
        self._transport: Transport | None = None

    async def dial(
        self, target: Target, tls: ssl.SSLContext | None, unix_path: str | os.PathLike[str] | None, tasks: TaskGroup
    ) -> None:
        """Connect and wait for the answer, which `error` or `conn` then has."""
        timeout = self._options.handshake_timeout
        try:
            with anyio.fail_after(timeout):
                await open_connection(
                    lambda: self,
                    host=target.host,
                    port=target.port,
                    unix_path=None if unix_path is None else os.fspath(unix_path),
                    tls=(tls or client_context()) if target.secure else None,
                    task_group=tasks,
                    timeout=timeout,
                )
                await self.decided.wait()
        except TimeoutError:
            if self._transport is None:
                raise TimeoutError(f"no connection to {target.field} within {timeout} seconds") from None
            raise HandshakeError("the server did not answer the handshake in time") from None
        except UnicodeError as exc:  # of the encoding that resolving names uses
            raise ConfigurationError(f"{target.host!r} is not the name of a host: {exc}") from None

    def connection_made(self, transport: Any) -> None:
        """Send the request."""
        self._transport = transport
        self._runtime.connections.add(self)
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
        options, transport = self._options, self._transport
        assert transport is not None
        transport.set_write_buffer_limits(high=options.high_water)
        ws = WebSocket(client=True, options=options, deflate=accepted.deflate)
        runtime = self._runtime
        self.conn = Connection(self._request, ws, transport, runtime.flusher, options, accepted.subprotocol)
        lifecycle = Lifecycle(self._component, self.conn, ws, options, runtime)
        transport.set_protocol(lifecycle)
        runtime.connections.add(lifecycle)
        runtime.connections.discard(self)
        self.decided.set()
        lifecycle.open(accepted.rest)

    def _fail(self, exc: Exception) -> None:
        if not self.decided.is_set():
            self.error = exc
            self.decided.set()
        self.abort()

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
        if self._transport is not None:
            self._transport.abort()

    def tick(self, now: float) -> None:
        """Nothing to do: `connect` has a deadline of its own."""


def _parse(url: str) -> Target:
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
    return Target(parts.scheme == "wss", host, default if port is None else port, field, path)
