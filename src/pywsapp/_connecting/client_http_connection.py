"""The HTTP connection of a client: the time until the server has answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio

from pywsapp._connecting.arguments import ConnectArguments
from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp._protocol.client_handshake import Accepted
from pywsapp._protocol.websocket import WebSocket
from pywsapp._server.connect import open_connection
from pywsapp._server.runtime import Runtime
from pywsapp._server.tls import client_context
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection
from pywsapp.exceptions import ConfigurationError, HandshakeError

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from pywsapp._transports.base import Transport


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
        self._request = arguments.target.request(arguments.subprotocols)
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
        arguments = self._arguments
        target, timeout = arguments.target, arguments.options.handshake_timeout
        try:
            await open_connection(
                lambda: self,
                host=target.host,
                port=target.port,
                unix_path=arguments.unix_path,
                tls=(arguments.tls or client_context()) if target.secure else None,
                server_hostname=arguments.server_hostname,
                task_group=tasks,
                timeout=timeout,
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
        self._request.remote_address = str(peer[0]) if isinstance(peer, tuple) else ""
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
        request, subprotocol = self._request, accepted.subprotocol
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
