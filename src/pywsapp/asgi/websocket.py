"""WebSockets of an ASGI server, each run by a lifecycle as on the own server."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio

from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp._lifecycle.requests import decide_handshake
from pywsapp._log_fields import log_fields
from pywsapp._protocol.handshake import RESERVED
from pywsapp._protocol.http import encode_fields
from pywsapp._server.tls import note_certificate
from pywsapp._server.upgrade import agreed_options, agreed_subprotocol, make_lifecycle
from pywsapp._transports.base import NO_PROTOCOL
from pywsapp.asgi.exchange import Exchange, asgi_fields
from pywsapp.asgi.frames import close_frame, message_frame
from pywsapp.asgi.http import Receive
from pywsapp.asgi.scope import Scope
from pywsapp.asgi.takeover import HostOfOne, Takeover, takeover_of
from pywsapp.asgi.transport import AsgiTransport, Send
from pywsapp.component import Accept
from pywsapp.exceptions import Refuse
from pywsapp.http import Request, Response
from pywsapp.options import without_frames

if TYPE_CHECKING:
    from pywsapp._server.server import Server

_NO_CODE, _LOST = 1005, 1006
_POLICY_VIOLATION = 1008
logger = logging.getLogger("pywsapp")


class _ClientGoneError(Exception):
    """The server could not accept a handshake; each server has exceptions of its own for that."""


async def serve_websocket(server: Server, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a handshake as the component decides, and run the connection if it is accepted."""
    if (await receive())["type"] != "websocket.connect":
        return
    opened = await _open(server, scope, send)
    if opened is None:
        return
    lifecycle, carrier = opened
    if isinstance(carrier, AsgiTransport):
        await _run(carrier, receive)
        return
    # The App waits until a connection that was taken over has ended. What is not needed for that is freed.
    try:
        try:
            await receive()  # `websocket.disconnect`, through the middleware of the site
        except Exception as exc:
            logger.debug(
                "a middleware could not receive: %r",
                exc,
                extra=log_fields("asgi.client_gone", error=type(exc).__name__),
            )
        await carrier.wait_ended()
    finally:
        if not carrier.has_ended:  # the site ends this call before
            lifecycle.abort()


async def _open(server: Server, scope: Scope, send: Send) -> tuple[Lifecycle, AsgiTransport | HostOfOne] | None:
    """Do the same as `_answer` with a new exchange, which ends with this call."""
    exchange = Exchange(server, scope)
    try:
        return await _answer(exchange, server, send)
    finally:
        server.connection_log.abandoned(exchange.request)


async def _answer(exchange: Exchange, server: Server, send: Send) -> tuple[Lifecycle, AsgiTransport | HostOfOne] | None:
    """Answer a handshake as the component decides.

    Returns:
        the open connection, and its transport, or its host if the App has taken over the transport of the server; None
        if it is refused.
    """
    takeover = takeover_of(exchange.scope)
    carrier: AsgiTransport | HostOfOne
    try:
        with exchange:
            request, answer, subprotocol = await _decide(exchange, server, takeover)
            accept = {"type": "websocket.accept", "subprotocol": subprotocol, "headers": asgi_fields(answer.headers)}
            trailing = b""
            if takeover is None:
                lifecycle, carrier = await _accept(server, request, answer, accept, send)
            else:
                lifecycle, carrier, trailing = await _take_over(takeover, server, request, answer, accept, send)
    except _ClientGoneError as exc:
        logger.debug(
            "a client was gone before its handshake was accepted: %r",
            exc.__cause__,
            extra=log_fields("asgi.client_gone", error=type(exc.__cause__).__name__),
        )
        return None
    except Exception as exc:
        await _refuse(exchange.refusal(exc), exchange.scope, send)
        return None
    lifecycle._ws.traffic.handshakes += 1
    server.connection_log.opened(lifecycle.conn.request)
    lifecycle.open(trailing)
    return lifecycle, carrier


async def _decide(exchange: Exchange, server: Server, takeover: Takeover | None) -> tuple[Request, Accept, str | None]:
    """Return a handshake that the component accepts, how, and the agreed subprotocol."""
    request = exchange.read_scope(None if takeover is None else takeover.take_request(exchange.scope))
    if takeover is not None:
        note_certificate(request, takeover.transport)
    if server.admission is not None:
        server.admission.check(request)
    exchange.admit()
    answer = await exchange.decide(lambda: decide_handshake(server.component, request))
    if not isinstance(answer, Accept):
        raise TypeError(f"on_handshake must return an Accept, not {answer!r}")
    server.check_not_draining()
    encode_fields(answer.headers, reserved=RESERVED)
    return request, answer, agreed_subprotocol(request, answer)


async def _accept(
    server: Server, request: Request, answer: Accept, accept: dict[str, Any], send: Send
) -> tuple[Lifecycle, AsgiTransport]:
    """Accept a handshake, for a connection whose messages are those of ASGI."""
    transport = AsgiTransport(NO_PROTOCOL, send)
    options = without_frames(agreed_options(server, answer))  # the ASGI server has both
    lifecycle = make_lifecycle(server, request, answer, transport, accept["subprotocol"], None, options)
    with _released_on_failure(server, request):
        await send(accept)
    transport.set_protocol(lifecycle)
    transport.set_write_buffer_limits(high=options.high_water)
    server.runtime.connections.add(lifecycle)
    server.runtime.opened(lifecycle.conn)
    return lifecycle, transport


async def _take_over(
    takeover: Takeover, server: Server, request: Request, answer: Accept, accept: dict[str, Any], send: Send
) -> tuple[Lifecycle, HostOfOne, bytes]:
    """Accept a handshake, and take over the transport; return the lifecycle, its host, and what it must be opened with.

    The lifecycle begins when the server has written the 101 response, which has what middleware of the site has added.
    """
    options = agreed_options(server, answer)
    deflate = takeover.agree_on_deflate(options.deflate)
    host = HostOfOne(server.runtime, takeover.ended)
    transport, subprotocol = takeover.transport, accept["subprotocol"]
    lifecycle = make_lifecycle(server, request, answer, transport, subprotocol, deflate, options, host)
    with _released_on_failure(server, request):
        await send(accept)
        if not takeover.is_accepted:
            with anyio.fail_after(server.options.handshake_timeout):
                await takeover.accepted()
        trailing = takeover.begin(lifecycle, options)
    server.runtime.connections.add(lifecycle)
    server.runtime.opened(lifecycle.conn)
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug("%r opened", lifecycle.conn, extra=log_fields("connection.opened", lifecycle.conn))
    return lifecycle, host, trailing


@contextmanager
def _released_on_failure(server: Server, request: Request) -> Iterator[None]:
    """Count a connection no longer if its handshake cannot be accepted."""
    try:
        yield
    except BaseException as exc:
        if server.admission is not None:
            server.admission.release(request)
        if isinstance(exc, Exception):
            raise _ClientGoneError from exc
        raise


async def _refuse(refuse: Refuse, scope: Scope, send: Send) -> None:
    """Refuse a handshake: with a response where the server can send one, else with its 403."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": ""})
        return
    response = Response.refusal(refuse)
    fields = asgi_fields((*response.headers, ("Content-Length", str(response.content_length))))
    await send({"type": "websocket.http.response.start", "status": response.status, "headers": fields})
    await send({"type": "websocket.http.response.body", "body": response.body})


async def _run(transport: AsgiTransport, receive: Receive) -> None:
    """Move messages in both directions until the connection has ended."""
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_read, transport, receive)
            await transport.send_messages()
            tasks.cancel_scope.cancel()
    finally:
        transport.lose()


async def _read(transport: AsgiTransport, receive: Receive) -> None:
    while await transport.wait_readable():
        try:
            event = await receive()
        except Exception as exc:
            logger.debug(
                "an ASGI server could not receive: %r",
                exc,
                extra=log_fields("asgi.client_gone", error=type(exc).__name__),
            )
            event = {"type": "websocket.disconnect", "code": _LOST}
        if event["type"] == "websocket.disconnect":
            transport.peer_closed(close_frame(event.get("code", _NO_CODE), event.get("reason") or ""))
            return
        text = event.get("text")
        transport.received(message_frame(event["bytes"] if text is None else text))
