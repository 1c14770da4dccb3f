"""Plain HTTP requests of an ASGI server, and the responses to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from pywsapp._lifecycle.event_stream import EventStreamResponse
from pywsapp._lifecycle.requests import decide_request, refusal_response
from pywsapp._protocol.handshake import protocol_asked_for
from pywsapp._protocol.http import encode_fields
from pywsapp._server.response_progress import close_body
from pywsapp.asgi.event_stream import HostedStream, ask_for_hosted_fallback, ask_for_hosted_stream
from pywsapp.asgi.exchange import Exchange, asgi_fields
from pywsapp.asgi.scope import Scope
from pywsapp.asgi.transport import Send
from pywsapp.exceptions import Refuse
from pywsapp.http import Response, _set_body

if TYPE_CHECKING:
    from pywsapp._server.server import Server
    from pywsapp.http import Request

#: The `receive` of an ASGI server.
Receive = Callable[[], Awaitable[Any]]

_BODYLESS = (204, 304)


async def serve_request(server: Server, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a plain request."""
    exchange = Exchange(server, scope)
    answer: Response | HostedStream
    try:
        with exchange:
            try:
                answer, fields = await _answer(exchange, server, receive, send)
            except Exception as exc:
                answer = refusal_response(exchange.refusal(exc), exchange.request)
                fields = _checked(answer)
            if isinstance(answer, HostedStream):
                answer.open()
            else:
                await _send(exchange, answer, fields, send, head_only=scope["method"] == "HEAD")
    finally:
        server.connection_log.abandoned(exchange.request)
    if isinstance(answer, HostedStream):
        await answer.run(fields, receive, send)


async def _answer(
    exchange: Exchange, server: Server, receive: Receive, send: Send
) -> tuple[Response | HostedStream, list[tuple[bytes, bytes]]]:
    """Return the response or the stream, and the header fields."""
    request = exchange.read_scope()
    protocol = protocol_asked_for(request)
    if protocol is not None:
        exchange.admit()
        stream = await ask_for_hosted_fallback(exchange, protocol, send)
        return stream, asgi_fields(stream.fields)
    response = await _respond(exchange, server, request, receive)
    fields = _checked(response)
    if isinstance(response, EventStreamResponse):
        return await ask_for_hosted_stream(exchange, response, send), fields
    return response, fields


async def _respond(exchange: Exchange, server: Server, request: Request, receive: Receive) -> Response:
    if not server.is_probe(request):
        exchange.admit()
    _set_body(request, _BodyReader(receive, request.headers.get("content-length")).read)
    return await exchange.decide(lambda: decide_request(server.component, request))


class _BodyReader:
    """Reads the body of a request.

    Args:
        receive: the `receive` of the server.
        length: the value of Content-Length, or None.
    """

    def __init__(self, receive: Receive, length: str | None) -> None:
        self._receive = receive
        self._length = 0 if length is None else int(length)

    async def read(self, max_size: int) -> bytes:
        """See `Request.read`."""
        pieces: list[bytes] = []
        size = self._length
        has_more = True
        while has_more:
            if size > max_size:
                raise Refuse(413, body=f"the body is longer than {max_size} bytes")
            event = await self._receive()
            if event["type"] == "http.disconnect":
                raise Refuse(400, body="the client went away")
            pieces.append(event.get("body", b""))
            has_more = event.get("more_body", False)
            size = max(self._length, sum(map(len, pieces)))
        if size > max_size:
            raise Refuse(413, body=f"the body is longer than {max_size} bytes")
        return b"".join(pieces)


def _checked(response: Response) -> list[tuple[bytes, bytes]]:
    if not isinstance(response, Response):
        raise TypeError(f"on_request must return a Response, not {response!r}")
    encode_fields(response.headers)  # raises where a field could start another line
    fields = [(name, value) for name, value in response.headers if name.lower() not in ("connection", "content-length")]
    if response.status not in _BODYLESS and not isinstance(response, EventStreamResponse):
        fields.append(("Content-Length", str(response.content_length)))
    return asgi_fields(fields)


async def _send(
    exchange: Exchange, response: Response, fields: list[tuple[bytes, bytes]], send: Send, *, head_only: bool
) -> None:
    await send({"type": "http.response.start", "status": response.status, "headers": fields})
    body = response.body
    if isinstance(body, bytes):
        content = b"" if head_only or response.status in _BODYLESS else body
        await send({"type": "http.response.body", "body": content})
    else:
        sent = 0
        try:
            if not head_only:
                async for piece in body:
                    sent += len(piece)
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        finally:
            await close_body(body)
        await send({"type": "http.response.body", "body": b""})
    exchange.server.connection_log.responded(exchange.peer, exchange.request, response.status, exchange.began)
