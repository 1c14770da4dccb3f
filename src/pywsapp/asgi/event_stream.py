"""Event streams of an ASGI server: the bytes that a lifecycle writes become parts of the body of the response."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from pywsapp._log_fields import log_fields
from pywsapp._server.streams import ask_for_fallback, ask_for_stream
from pywsapp._transports.base import NO_PROTOCOL
from pywsapp.asgi.transport import Send, SendTransport

if TYPE_CHECKING:
    from pywsapp._lifecycle.event_stream import EventStreamResponse
    from pywsapp._lifecycle.stream import StreamLifecycle
    from pywsapp._server.server import Server
    from pywsapp.asgi.exchange import Exchange

logger = logging.getLogger("pywsapp")


class EventStreamTransport(SendTransport[bytes]):
    """The transport of one event stream of an ASGI server; `send_parts` sends.

    Args:
        protocol: the receiver of the events.
        send: the `send` of the server.
    """

    __slots__ = ()

    # -- as a Transport ----------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Queue a part of the body."""
        if self._closing:
            return
        self._outgoing.append(bytes(data))
        self._queued += len(data)
        if not self._writing_paused:
            self._report_pressure()
        self._wake_up()

    def pause_reading(self) -> None:
        """Do nothing: the client sends nothing."""

    def resume_reading(self) -> None:
        """Do nothing: the client sends nothing."""

    # -- for the task of the stream ----------------------------------------------------------------------------------

    async def send_parts(self) -> None:
        """Send what is written, until the transport is closed; then report the loss."""
        while not self._is_lost:
            if self._outgoing:
                part = b"".join(self._outgoing)
                self._outgoing.clear()
                await self._send_part(part, more=True)
                self._queued = max(0, self._queued - len(part))
                if self._writing_paused and not self._is_lost:
                    self._report_pressure()
            elif self._closing:
                await self._send_part(b"", more=False)
                self.lose()
            else:
                self._wake = anyio.Event()
                await self._wake.wait()

    async def _send_part(self, part: bytes, *, more: bool) -> None:
        try:
            await self._send({"type": "http.response.body", "body": part, "more_body": more})
        except Exception as exc:  # each server has exceptions of its own for a client that is gone
            logger.debug(
                "an ASGI server did not take a part of an event stream: %r",
                exc,
                extra=log_fields("asgi.client_gone", error=type(exc).__name__),
            )
            self.lose()


class HostedStream:
    """An event stream of an ASGI server, which is allowed and not open yet.

    Args:
        server: the server of the App.
        stream: the stream.
        transport: its transport.
    """

    def __init__(self, server: Server, stream: StreamLifecycle, transport: EventStreamTransport) -> None:
        self._server = server
        self._stream = stream
        self._transport = transport

    def open(self) -> None:
        """Begin the stream: what it sends waits until the head of the response is sent."""
        server, stream, transport = self._server, self._stream, self._transport
        transport.set_protocol(stream)
        transport.set_write_buffer_limits(high=stream.high_water)
        transport.write(stream.begin())  # first: `opened` closes a stream whose user was disconnected meanwhile
        server.runtime.connections.add(stream)
        server.runtime.opened(stream.conn)
        server.counts.accepted(stream.conn.request)
        server.connection_log.opened(stream.conn.request)
        stream.follow()

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """The header fields of the response."""
        return tuple(self._stream.fields)

    async def run(self, fields: list[tuple[bytes, bytes]], receive: Callable[[], Awaitable[Any]], send: Send) -> None:
        """Send the head of the response and the events, until the stream has ended.

        Args:
            fields: the header fields.
            receive: the `receive` of the server.
            send: the `send` of the server.
        """
        transport = self._transport
        try:
            try:
                await send({"type": "http.response.start", "status": 200, "headers": fields})
            except Exception as exc:  # each server has exceptions of its own for a client that is gone
                logger.debug(
                    "a client was gone before its event stream began: %r",
                    exc,
                    extra=log_fields("asgi.client_gone", error=type(exc).__name__),
                )
                return
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_wait_for_end, transport, receive)
                await transport.send_parts()
                tasks.cancel_scope.cancel()
        finally:
            transport.lose()


async def ask_for_hosted_stream(exchange: Exchange, response: EventStreamResponse, send: Send) -> HostedStream:
    """Return the stream of an answered request, when `authorize` allows it.

    Raises:
        Refuse: a limit of connections is reached, or `authorize` does not allow it.
    """
    server, request = exchange.server, exchange.request
    assert request is not None
    return await _hosted(exchange, send, partial(ask_for_stream, server, request, response))


async def ask_for_hosted_fallback(exchange: Exchange, protocol: str, send: Send) -> HostedStream:
    """Return the stream of a fallback connection, when the component accepts it.

    Args:
        exchange: the request.
        protocol: the subprotocol that the client offers.
        send: the `send` of the server.

    Raises:
        Refuse: the component refuses, the route has no fallback, or a limit of connections is reached.
    """
    server, request = exchange.server, exchange.request
    assert request is not None
    if server.admission is not None:
        server.admission.check(request)
    return await _hosted(exchange, send, partial(ask_for_fallback, server, request, protocol))


async def _hosted(
    exchange: Exchange,
    send: Send,
    ask: Callable[[EventStreamTransport], StreamLifecycle | Awaitable[StreamLifecycle]],
) -> HostedStream:
    server, request = exchange.server, exchange.request
    assert request is not None
    transport = EventStreamTransport(NO_PROTOCOL, send)
    try:
        stream = await exchange.decide(partial(ask, transport))
    except BaseException:
        if server.admission is not None:
            server.admission.release(request)
        raise
    return HostedStream(server, stream, transport)


async def _wait_for_end(transport: EventStreamTransport, receive: Callable[[], Awaitable[Any]]) -> None:
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    except Exception as exc:
        logger.debug(
            "an ASGI server could not receive: %r", exc, extra=log_fields("asgi.client_gone", error=type(exc).__name__)
        )
    transport.lose()
