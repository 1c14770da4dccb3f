"""The base of all connections over an event stream: server-sent events in place of frames, and keepalives."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp._outbox.awaitables import LazyCoroutine
from pywsapp._protocol.event_stream import KEEPALIVE
from pywsapp.exceptions import ConfigurationError

if TYPE_CHECKING:
    from pywsapp._lifecycle.host import Host
    from pywsapp._protocol.event_stream import EventStream
    from pywsapp._transports.base import Transport
    from pywsapp.component import MessageComponent
    from pywsapp.connection import Connection
    from pywsapp.http import Request
    from pywsapp.options import Options


class StreamLifecycle(Lifecycle):
    """One connection over an event stream.

    Args:
        component: handles the connection.
        request: its request.
        stream: its protocol.
        transport: moves its bytes.
        options: the limits; without pings and compression.
        host: runs its tasks.
        keepalive: seconds between two comments.
        subprotocol: the agreed subprotocol.
        make_connection: makes what the component sees.

    Attributes:
        keepalive: seconds between two comments.
        fields: header fields of the response.
        high_water: bytes that the transport may queue before it pauses the connection.
    """

    __slots__ = ("_keepalive_due", "_start_soon", "fields", "high_water", "keepalive")

    fields: Iterable[tuple[str, str]]

    def __init__(
        self,
        component: MessageComponent,
        request: Request,
        stream: EventStream,
        transport: Transport,
        options: Options,
        host: Host,
        keepalive: float,
        subprotocol: str | None,
        make_connection: Callable[..., Connection],
    ) -> None:
        super().__init__(component, request, stream, transport, options, host, subprotocol, make_connection)
        self.keepalive = keepalive
        self.high_water = options.high_water
        self._keepalive_due: float | None = None
        self._start_soon: Callable[[Callable[[], Coroutine[Any, Any, None]]], None] = host.start_soon

    def begin(self) -> bytes:
        """Note that the transport was set; return the first bytes of the stream, to be sent behind the head."""
        raise NotImplementedError

    def follow(self) -> None:
        """Do what comes first on the open stream."""
        raise NotImplementedError

    def ping(self, payload: bytes | None) -> LazyCoroutine[float]:
        """Raise ConfigurationError: no client answers."""
        raise ConfigurationError("conn.ping is not possible on an event stream")

    def tick(self, now: float) -> None:
        """Send a comment if it is due, and end what takes too long; called about every second.

        Args:
            now: seconds of a monotonic clock.
        """
        super().tick(now)
        outbox = self.machine.outbox
        if self._keepalive_due is None or now >= self._keepalive_due:
            if self._keepalive_due is not None and outbox.is_open and outbox.is_writable and outbox.is_empty():
                outbox.transport.write(KEEPALIVE)
            self._keepalive_due = now + self.keepalive
