"""The HTTP connection of a client: the arguments of connecting, and the time until the server has answered."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

import anyio

from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp._protocol.client_handshake import Accepted, ClientHandshake
from pywsapp._protocol.websocket import WebSocket
from pywsapp._server.connect import open_connection
from pywsapp._server.runtime import Runtime
from pywsapp._server.tls import client_context
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection
from pywsapp.exceptions import ConfigurationError, HandshakeError, HeaderItems
from pywsapp.http import Request
from pywsapp.options import Options

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from pywsapp._transports.base import Transport

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Target(NamedTuple):
    """The parts of a WebSocket URL.

    Attributes:
        secure: whether the scheme is wss.
        host: the host name or IP address.
        port: the port, also if the URL does not name it.
        host_field: the value of the Host field.
        path: the path with the query.
    """

    secure: bool
    host: str
    port: int
    host_field: str
    path: str

    def request(self, subprotocols: Sequence[str]) -> Request:
        """Return the request that the connection will have."""
        path, _, query = self.path.partition("?")
        return Request(
            path=unquote(path),
            query_string=query,
            scheme="https" if self.secure else "http",
            host=self.host,
            port=self.port,
            subprotocols=tuple(subprotocols),
        )


class ConnectArguments(NamedTuple):
    """The checked arguments of `connect` or `run_client`."""

    target: Target
    handshake: ClientHandshake
    request: Request
    options: Options
    tls: ssl.SSLContext | None
    unix_path: str | None


def check_arguments(
    url: str,
    options: Options | None,
    subprotocols: Sequence[str],
    headers: HeaderItems,
    origin: str | None,
    tls: ssl.SSLContext | None,
    unix_path: str | os.PathLike[str] | None,
) -> ConnectArguments:
    """Return the checked arguments of `connect` or `run_client`.

    Raises:
        ConfigurationError: one of them is invalid.
    """
    options = Options() if options is None else options
    if not isinstance(options, Options):
        raise ConfigurationError(f"options must be an Options, not {options!r}")
    target = _parse_url(url)
    if tls is not None and not target.secure:
        raise ConfigurationError(f"tls is for wss:// URLs, and {_shown(url)!r} is not encrypted")
    fields = list(headers.items() if isinstance(headers, Mapping) else headers)
    if origin is not None:
        fields.append(("Origin", origin))
    handshake = ClientHandshake(
        host=target.host_field,
        path=target.path,
        subprotocols=subprotocols,
        deflate=options.deflate,
        headers=fields,
        key=os.urandom(16),
        max_header_size=options.max_header_size,
        max_headers=options.max_headers,
    )
    path = None if unix_path is None else os.fspath(unix_path)
    return ConnectArguments(target, handshake, target.request(subprotocols), options, tls, path)


def _parse_url(url: str) -> Target:
    if _CONTROL.search(url) is not None:  # urlsplit removes line ends and tabs, so the URL would name another host
        raise ConfigurationError(f"a URL has no control characters such as line ends: {_shown(url)!r}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise ConfigurationError(f"{_shown(url)!r} is not a URL: {exc}") from None
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ConfigurationError(f"a WebSocket URL looks like ws://host:port/path or wss://..., not {_shown(url)!r}")
    if parts.fragment or parts.username is not None:
        raise ConfigurationError("a WebSocket URL has no #fragment and no user; send credentials in headers")
    host = parts.hostname
    literal = f"[{host}]" if ":" in host else host
    default = 443 if parts.scheme == "wss" else 80
    host_field = literal if port in (None, default) else f"{literal}:{port}"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme == "wss", host, default if port is None else port, host_field, path)


def _shown(url: str) -> str:
    """Return a URL for a message: without its query and its user, which can be secrets."""
    user, at, rest = url.partition("?")[0].rpartition("@")
    scheme, separator, _ = user.partition("//")  # without slashes, what looks like a scheme can be a user
    start = scheme + separator if separator and scheme in ("", "ws:", "wss:", "http:", "https:") else ""
    return (start if at else "") + rest + ("?..." if "?" in url else "")


class ClientHttpConnection:
    """The HTTP connection of a client, up to the server's answer to the handshake; then a lifecycle replaces it.

    Args:
        component: the component to run on the connection.
        arguments: where to connect to, and how.
        make_connection: creates the connection; it is called with the arguments of `Connection`.

    Attributes:
        decided: set when the server has accepted or refused.
        conn: the connection, once the server has accepted.
    """

    def __init__(
        self, component: MessageComponent, arguments: ConnectArguments, make_connection: Callable[..., Connection]
    ) -> None:
        self.decided = anyio.Event()
        self.conn: Connection | None = None
        self._component = component
        self._arguments = arguments
        self._make_connection = make_connection
        self._runtime = Runtime(arguments.options)
        self._transport: Transport | None = None
        self._error: Exception | None = None
        self._given_up = False

    async def run(self) -> None:
        """Connect, and run the component until the connection has ended.

        Raises:
            HandshakeError: the server refused the handshake, answered it wrongly, or not in time.
            OSError: the server cannot be reached.
            ConfigurationError: the host name is invalid.
        """

        async def body(transports: TaskGroup) -> None:
            await self._dial(transports)
            await self._runtime.wait_empty()

        await self._runtime.run(body)

    async def _dial(self, tasks: TaskGroup) -> None:
        """Connect and wait for the server's decision."""
        target, timeout = self._arguments.target, self._arguments.options.handshake_timeout
        try:
            with anyio.fail_after(timeout):
                await self._open_transport(tasks)
                await self.decided.wait()
        except TimeoutError:
            if self._transport is None:
                raise TimeoutError(f"no connection to {target.host_field} within {timeout} seconds") from None
            raise HandshakeError("the server did not answer the handshake in time") from None
        except UnicodeError as exc:  # of the encoding that name resolution uses
            raise ConfigurationError(f"{target.host!r} is not a host name: {exc}") from None
        if self._error is not None:
            raise self._error

    async def _open_transport(self, tasks: TaskGroup) -> None:
        target, _, _, options, tls, unix_path = self._arguments
        try:
            await open_connection(
                lambda: self,
                host=target.host,
                port=target.port,
                unix_path=unix_path,
                tls=(tls or client_context()) if target.secure else None,
                task_group=tasks,
                timeout=options.handshake_timeout,
            )
        except BaseException:
            # uvloop does not call connection_lost if the creation of a transport is cancelled
            self._given_up = True
            self.abort()
            self._runtime.discard(self)
            raise

    def connection_made(self, transport: Any) -> None:
        """Send the request."""
        self._transport = transport
        if self._given_up:
            self.abort()
            return
        self._runtime.connections.add(self)
        peer = transport.get_extra_info("peername")
        self._arguments.request.remote_address = str(peer[0]) if isinstance(peer, tuple) else ""
        transport.write(self._arguments.handshake.request)

    def data_received(self, data: bytes) -> None:
        """Parse a part of the answer."""
        if self.decided.is_set():
            return
        try:
            accepted = self._arguments.handshake.receive(data)
        except HandshakeError as exc:
            self._fail(exc)
        else:
            if accepted is not None:
                self._accept(accepted)

    def _accept(self, accepted: Accepted) -> None:
        """Replace this protocol of the transport by a lifecycle."""
        options, runtime, transport = self._arguments.options, self._runtime, self._transport
        assert transport is not None
        transport.set_write_buffer_limits(high=options.high_water)
        ws = WebSocket(client=True, options=options, deflate=accepted.deflate)
        request, subprotocol = self._arguments.request, accepted.subprotocol
        make_connection = self._make_connection
        lifecycle = Lifecycle(self._component, request, ws, transport, options, runtime, subprotocol, make_connection)
        self.conn = lifecycle.conn
        transport.set_protocol(lifecycle)
        runtime.connections.add(lifecycle)
        runtime.connections.discard(self)
        self.decided.set()
        lifecycle.open(accepted.rest)

    def _fail(self, exc: Exception) -> None:
        if not self.decided.is_set():
            self._error = exc
            self.decided.set()
        self.abort()

    def eof_received(self) -> bool:
        """Handle the end of the stream before the answer: the transport closes itself."""
        return False

    def pause_writing(self) -> None:
        """Do nothing: only the request is written."""

    def resume_writing(self) -> None:
        """Do nothing: only the request is written."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the loss of the transport."""
        self._fail(HandshakeError("the server closed the connection instead of answering the handshake"))
        self._runtime.discard(self)

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def tick(self, now: float) -> None:
        """Do nothing: `run` has its own deadline."""
