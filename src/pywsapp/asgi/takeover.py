"""The scope extension `pywsapp.transport`: an App takes over the transport of a WebSocket from the server of a site.

A server that knows the extension puts a `Takeover` into the scope of each handshake. The site routes the handshake to
the App as always. The App then does the following:

    agree_on_deflate   with the options of the route
    send               `websocket.accept`, through the middleware of the site, which can add header fields
    accepted           waits until the server has written the 101 response
    begin              makes a lifecycle the protocol of the transport

From `begin` on the bytes go to the lifecycle directly, as on the own server. The call of the App goes on until the
connection has ended, and then gets `websocket.disconnect`, so that the middleware of the site sees the end.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

import anyio

if TYPE_CHECKING:
    from pywsapp._lifecycle.lifecycle import Lifecycle
    from pywsapp._outbox.outbox import Flusher
    from pywsapp._protocol.deflate import DeflateParameters
    from pywsapp._server.runtime import Runtime
    from pywsapp._transports.base import Transport
    from pywsapp.asgi.scope import Scope
    from pywsapp.connection import Connection
    from pywsapp.http import Request
    from pywsapp.options import Deflate, Options

#: The name of the extension in `scope["extensions"]`. Its value is a dict with one key, `takeover`.
EXTENSION = "pywsapp.transport"


class Takeover(Protocol):
    """The connection of one handshake, which an application can take over from the server."""

    transport: Transport

    @property
    def is_accepted(self) -> bool:
        """Whether the server has written the 101 response, and the connection is not taken over yet."""

    def take_request(self, scope: Scope) -> Request | None:
        """Return the request of the handshake, which the server has parsed already.

        Its path, its scheme and the address of its client are those of the server. It is for one App, which may change
        it.

        Args:
            scope: the scope that has reached the App.

        Returns:
            None if a middleware has changed the header fields, or the request was taken before.
        """

    def agree_on_deflate(self, deflate: Deflate | None) -> DeflateParameters | None:
        """Return what the 101 response will say about permessage-deflate; call it before `websocket.accept` is sent.

        Args:
            deflate: how it can be used; None declines it.
        """

    async def accepted(self) -> None:
        """Wait until the server has written the 101 response; return at once if it has.

        Raises:
            OSError: the connection is lost, or the handshake was refused.
        """

    def begin(self, lifecycle: Lifecycle, options: Options) -> bytes:
        """Make a lifecycle the protocol of the transport; return the bytes that came behind the handshake.

        The lifecycle must be opened with these bytes in the same turn of the event loop.

        Args:
            lifecycle: the lifecycle.
            options: its options, for the limits of the transport and of the drain.

        Raises:
            OSError: the connection is lost.
        """

    def ended(self, conn: Connection) -> None:
        """Note that a connection that was taken over has ended, after its last handler."""


def takeover_of(scope: Scope) -> Takeover | None:
    """Return the connection of a scope if the server passes it on, else None."""
    extension = (scope.get("extensions") or {}).get(EXTENSION)
    return None if extension is None else extension["takeover"]


class HostOfOne:
    """The host of one connection that was taken over: the runtime of the App, which also reports the end.

    Args:
        runtime: the runtime.
        on_ended: called with the connection after its last handler.

    Attributes:
        has_ended: whether the connection has ended.
    """

    __slots__ = ("_ended", "_on_ended", "_runtime", "flusher", "has_ended")

    def __init__(self, runtime: Runtime, on_ended: Callable[[Connection], None]) -> None:
        self.flusher: Flusher = runtime.flusher
        self.has_ended = False
        self._ended: anyio.Event | None = None  # exists while somebody waits
        self._runtime = runtime
        self._on_ended = on_ended

    async def wait_ended(self) -> None:
        """Wait until the connection has ended."""
        if not self.has_ended:
            self._ended = anyio.Event()
            await self._ended.wait()

    def start_soon(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a task in the runtime."""
        self._runtime.start_soon(work)

    def disconnected(self, connection: Any) -> None:
        """Note that the connection has lost its transport."""
        self._runtime.disconnected(connection)

    def discard(self, connection: Any) -> None:
        """Remove the connection from the runtime, and report its end."""
        self._runtime.discard(connection)
        self.has_ended = True
        if self._ended is not None:
            self._ended.set()
        self._on_ended(connection.conn)

    def exceeded(self, limit: str, conn: Connection) -> None:
        """Count that the connection has exceeded a limit."""
        self._runtime.exceeded(limit, conn)

    def user_changed(self, conn: Connection) -> None:
        """Note that the connection has another user."""
        self._runtime.user_changed(conn)
