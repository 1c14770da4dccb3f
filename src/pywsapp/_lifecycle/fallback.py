"""A fallback connection: the lifecycle of a WebSocket, over an event stream down and POST requests up.

The connection is that of the GET request, whose response is the event stream: its guard, its session, its user and its
limits are those of the connection. A POST request brings a batch of messages, which the lifecycle reads as it reads
frames. So the component and all middleware see an ordinary connection.

A batch is accepted only when all messages of the one before have been read. So a client whose messages are delayed, or
whose handler is busy, gets its next batch refused until there is room, as TCP slows down a WebSocket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pywsapp._lifecycle.stream import StreamLifecycle
from pywsapp._protocol.fallback import FallbackStream
from pywsapp.topics.fallback.service import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pywsapp._lifecycle.host import Host
    from pywsapp._protocol.traffic import Traffic
    from pywsapp._transports.base import Transport
    from pywsapp.component import MessageComponent
    from pywsapp.connection import Connection
    from pywsapp.http import Request
    from pywsapp.options import Options
    from pywsapp.topics.fallback.batch import Batch
    from pywsapp.topics.fallback.service import FallbackService

#: Seconds between two comments on a stream, as for event streams.
KEEPALIVE_SECONDS = 15


class FallbackLifecycle(StreamLifecycle):
    """One fallback connection.

    Args:
        component: handles the connection.
        request: the GET request.
        transport: moves the bytes of its response.
        options: the limits; without pings and compression.
        host: runs its tasks.
        subprotocol: the agreed subprotocol.
        make_connection: makes what the component sees.
        service: finds the connection of a batch.
        route: names the route of the request, for the service.
        user: the key of the user that the guard of the route has found; None without one.
        fields: header fields of the response.
        traffic: counts its messages, together with those of other connections of the route.
    """

    __slots__ = ("_batches", "_id", "_route", "_service", "_stream", "_user")

    def __init__(
        self,
        component: MessageComponent,
        request: Request,
        transport: Transport,
        options: Options,
        host: Host,
        subprotocol: str | None,
        make_connection: Callable[..., Connection],
        service: FallbackService,
        route: str,
        user: str | None,
        fields: Iterable[tuple[str, str]],
        traffic: Traffic,
    ) -> None:
        self._stream = stream = FallbackStream(options)
        stream.traffic = traffic
        super().__init__(
            component, request, stream, transport, options, host, KEEPALIVE_SECONDS, subprotocol, make_connection
        )
        self.fields = fields
        self._service = service
        self._route = route
        self._user = user
        self._id = ""
        self._batches = 0  # that were accepted

    def begin(self) -> bytes:
        """Note that the transport was set; return the first bytes of the stream, to be sent behind the head."""
        self._id = self._service.add(self, self._route)
        return self._stream.first_event(self._id)

    def follow(self) -> None:
        """Open the connection."""
        self.open(b"")

    def take(self, user: str | None, batch: Batch) -> Outcome:
        """Handle a batch; see `Holder.take`."""
        if user != self._user or not self.conn.is_open:
            return Outcome.GONE
        if batch.number <= self._batches:
            return Outcome.ACCEPTED
        if batch.number > self._batches + 1:
            return Outcome.MISSING
        if self._stream.has_unread or self.machine.pause_causes:
            return Outcome.FULL
        self._batches += 1
        self._stream.put(batch.messages, batch.close)
        self.data_received(b"")
        return Outcome.ACCEPTED

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the end of the transport."""
        self._service.discard(self._id, self._route)
        super().connection_lost(exc)
