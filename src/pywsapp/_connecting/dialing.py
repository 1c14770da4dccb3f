"""From the arguments of a client to an open connection: proxies, TLS, the handshake, redirects."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio

from pywsapp._connecting.arguments import ConnectArguments
from pywsapp._connecting.client_http_connection import ClientHttpConnection
from pywsapp._connecting.proxies import Proxy, choose_proxy
from pywsapp._connecting.redirects import is_redirect, redirected
from pywsapp._connecting.refusal import BODY_SECONDS, described
from pywsapp._connecting.tunnel import Tunnel
from pywsapp._extras import import_extra
from pywsapp._http_text import one_line
from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp._protocol.client_handshake import Accepted
from pywsapp._protocol.websocket import WebSocket
from pywsapp._server.connect import open_connection
from pywsapp._server.runtime import Runtime
from pywsapp._server.tls import client_context
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection
from pywsapp.exceptions import ConfigurationError, HandshakeError, ProxyError
from pywsapp.http import Request

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from pywsapp._transports.base import Transport


class Dialing:
    """One connection of a client, from its arguments to its end.

    Args:
        component: the component to run on the connection.
        arguments: where to connect to, and how.
        make_connection: creates the connection; it is called with the arguments of `Connection`.

    Attributes:
        decided: set when a server has accepted, or the attempt has failed.
        conn: the connection, once a server has accepted.
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
        self._http: ClientHttpConnection | None = None

    async def run(self) -> None:
        """Connect, and run the component until the connection has ended.

        Raises:
            HandshakeError: the server refused the handshake, answered it wrongly, or not in time.
            OSError: the server or the proxy cannot be reached.
            ConfigurationError: the host name is invalid.
        """

        async def body(transports: TaskGroup) -> None:
            await self._dial(transports)
            await self._runtime.wait_empty()

        try:
            await self._runtime.run(body)
        finally:
            self.decided.set()

    async def _dial(self, tasks: TaskGroup) -> None:
        """Connect, follow redirects, and wait for the server's decision; the time of all this is limited."""
        timeout = self._arguments.options.handshake_timeout
        try:
            with anyio.fail_after(timeout):
                await self._follow(tasks)
        except TimeoutError as exc:
            target = self._arguments.target
            http, self._http = self._http, None
            if http is not None and http.refusal is not None:
                raise described(http.refusal, http.content, self._arguments) from None
            if http is not None and http.is_connected:
                raise HandshakeError("the server did not answer the handshake in time") from None
            raise TimeoutError(str(exc) or f"no connection to {target.host_field} within {timeout} seconds") from None
        except UnicodeError as exc:  # of the encoding that name resolution uses
            raise ConfigurationError(f"{self._arguments.target.host!r} is not a host name: {exc}") from None

    async def _follow(self, tasks: TaskGroup) -> None:
        redirects = 0
        while True:
            exc = await self._ask(tasks)
            if exc is None:
                return
            maximum = self._arguments.max_redirects
            if not maximum or not is_redirect(exc):
                raise exc
            redirects += 1
            if redirects > maximum:
                raise HandshakeError(f"there are more than {maximum} redirects", exc.status, headers=exc.headers)
            self._arguments = redirected(self._arguments, exc)

    async def _ask(self, tasks: TaskGroup) -> HandshakeError | None:
        """Connect to one server; return None if it has accepted, or its refusal.

        Raises:
            Exception: the attempt failed in another way.
        """
        arguments = self._arguments
        request = arguments.target.request(arguments.subprotocols)

        def accept(transport: Transport, accepted: Accepted) -> None:
            self._accept(transport, accepted, request)

        http = self._http = ClientHttpConnection(arguments.handshake, request, accept, self._runtime)
        try:
            await self._open_transport(http, tasks)
        except BaseException:
            # uvloop does not call connection_lost if the creation of a transport is cancelled
            http.give_up()
            raise
        await http.answered.wait()
        if http.error is not None:
            raise http.error
        if http.refusal is None:
            return None
        if not (arguments.max_redirects and is_redirect(http.refusal)):
            with anyio.move_on_after(BODY_SECONDS):
                await http.ended.wait()
        http.abort()
        return described(http.refusal, http.content, arguments)

    async def _open_transport(self, http: ClientHttpConnection, tasks: TaskGroup) -> None:
        arguments = self._arguments
        target, timeout = arguments.target, arguments.options.handshake_timeout
        tls = (arguments.tls or client_context()) if target.secure else None
        proxy = choose_proxy(arguments.proxy, target)
        if proxy is not None and not proxy.is_socks:
            await self._open_tunnel(http, proxy, tasks)
            return
        sock = None
        if proxy is not None:
            socks = import_extra("pywsapp._connecting.socks", "proxy")
            sock = await socks.connect_by_socks(proxy, target.host, target.port, timeout)
        await open_connection(
            lambda: http,
            host=target.host,
            port=target.port,
            unix_path=arguments.unix_path,
            sock=sock,
            tls=tls,
            server_hostname=arguments.server_hostname,
            task_group=tasks,
            timeout=timeout,
        )

    async def _open_tunnel(self, http: ClientHttpConnection, proxy: Proxy, tasks: TaskGroup) -> None:
        arguments = self._arguments
        target = arguments.target
        tls = (arguments.tls or client_context()) if target.secure else None
        host = f"[{target.host}]" if ":" in target.host else target.host
        name = arguments.server_hostname or target.host
        tunnel = Tunnel(proxy, host, target.port, http, tls, name, arguments.options)
        try:
            await open_connection(
                lambda: tunnel,
                host=proxy.host,
                port=proxy.port,
                tls=(arguments.proxy_tls or client_context()) if proxy.scheme == "https" else None,
                task_group=tasks,
                timeout=arguments.options.handshake_timeout,
            )
            await tunnel.ended.wait()
        except TimeoutError:
            raise TimeoutError(f"no connection to the proxy {proxy} in time") from None
        except ssl.SSLError:
            raise  # the certificate of the proxy, for instance
        except OSError as exc:
            raise ProxyError(f"the proxy {proxy} cannot be reached: {one_line(str(exc))}") from exc
        except BaseException:
            tunnel.fail(ConnectionAbortedError("connecting was cancelled"))
            raise
        if tunnel.error is not None:
            raise tunnel.error

    def _accept(self, transport: Transport, accepted: Accepted, request: Request) -> None:
        """Let a lifecycle take over a transport."""
        options, runtime = self._arguments.options, self._runtime
        transport.set_write_buffer_limits(high=options.high_water)
        ws = WebSocket(client=True, options=options, deflate=accepted.deflate)
        subprotocol, make_connection = accepted.subprotocol, self._make_connection
        lifecycle = Lifecycle(self._component, request, ws, transport, options, runtime, subprotocol, make_connection)
        self.conn = lifecycle.conn
        transport.set_protocol(lifecycle)
        runtime.connections.add(lifecycle)
        self.decided.set()
        lifecycle.open(accepted.rest)
