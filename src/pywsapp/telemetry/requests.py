"""A span for each handshake and for each plain request, from the question to a component to the end of the answer.

The span of a handshake ends when the connection opens: a connection can last for hours. Requests that the server
refuses without asking a component have no span: a flood must cost no more with traces. Health checks and requests for
metrics have none either.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    Link,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    Tracer,
    set_span_in_context,
)

from pywsapp._hooks import must_await
from pywsapp._http_text import one_line
from pywsapp._request_state import access_of, make_access
from pywsapp.component import Accept, MessageComponent
from pywsapp.connection import Connection
from pywsapp.exceptions import Refuse
from pywsapp.http import Request, Response
from pywsapp.middleware.base import HandshakeMiddleware
from pywsapp.telemetry.contexts import attached, context_of_client, inside_of

T = TypeVar("T")

_SERVER_ERROR = 500
#: The methods of semantic conventions. A client can invent others, which must not become names of spans.
_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})


class RequestSpans(HandshakeMiddleware):
    """The router of an App, with a span around each of its decisions.

    Args:
        component: the router.
        tracer: makes the spans.
        is_probe: returns whether a plain request has no span.
        around: returns what takes the place of an accepted handshake.
        trust_clients: whether spans belong to the traces of clients.
    """

    def __init__(
        self,
        component: MessageComponent,
        tracer: Tracer,
        is_probe: Callable[[Request], bool],
        around: Callable[[Accept], Accept],
        *,
        trust_clients: bool,
    ) -> None:
        super().__init__(component)
        self._tracer = tracer
        self._is_probe = is_probe
        self._accept_around = around
        self._trust_clients = trust_clients

    def on_handshake(self, request: Request) -> Accept | Awaitable[Accept]:
        """Return the decision of the router on a handshake."""
        answer = self._in_span(request, super().on_handshake)
        if must_await(answer):
            return self._decided(cast("Awaitable[Accept]", answer))
        return self._accept_around(cast("Accept", answer))

    async def _decided(self, answer: Awaitable[Accept]) -> Accept:
        return self._accept_around(await answer)

    def on_request(self, request: Request) -> Response | Awaitable[Response]:
        """Return the answer of the router to a plain request."""
        if self._is_probe(request):
            return super().on_request(request)
        return self._in_span(request, super().on_request)

    def _in_span(self, request: Request, ask: Callable[[Request], T | Awaitable[T]]) -> T | Awaitable[T]:
        """Return the answer of the router, which runs inside a span; `end_span` or `end_abandoned` ends the span."""
        parent, links = context_of_client(request, trusted=self._trust_clients)
        name = method_of(request)
        span = self._tracer.start_span(name, parent, SpanKind.SERVER, attributes_of(request), links)
        make_access(request).trace = span
        context = set_span_in_context(span, parent)
        try:
            with attached(context):
                answer = ask(request)
        except Exception as exc:
            note_exception(span, exc)
            raise
        return _awaited(span, context, cast("Awaitable[T]", answer)) if must_await(answer) else answer


async def _awaited(span: Span, context: Context, answer: Awaitable[T]) -> T:
    try:
        with attached(context):
            return await answer
    except Exception as exc:
        note_exception(span, exc)
        raise


def note_exception(span: Span, exc: Exception) -> None:
    """Record an exception that is no refusal."""
    if not isinstance(exc, Refuse):
        span.record_exception(exc)


def method_of(request: Request) -> str:
    """Return the method of a request for the name of a span: "HTTP" for one that is not usual."""
    return request.method if request.method in _METHODS else "HTTP"


def attributes_of(request: Request) -> dict[str, Any]:
    """Return the attributes of the span of a request, without the query string, which can hold secrets."""
    found = {
        "http.request.method": request.method,
        "url.path": one_line(request.path),
        "url.scheme": request.scheme,
    }
    if request.method not in _METHODS:
        found["http.request.method"] = "_OTHER"
        found["http.request.method_original"] = one_line(request.method)
    if request.remote_address:
        found["client.address"] = request.remote_address
    return found


def end_span(request: Request, status: int, refusal: Refuse | None, *, is_complete: bool) -> None:
    """End the span of a request with its answer; do nothing if it has none, or it has ended.

    Args:
        request: the request.
        status: the HTTP status.
        refusal: why the request is refused; None if it is not.
        is_complete: whether the whole body was sent.
    """
    span = _take_span(request)
    if span is None:
        return
    if request.route:
        span.update_name(f"{method_of(request)} {request.route}")
        span.set_attribute("http.route", request.route)
    span.set_attribute("http.response.status_code", status)
    if refusal is not None:
        span.set_attribute("pywsapp.refusal", one_line(str(refusal)))
    if status >= _SERVER_ERROR:
        _end_with_error(span, str(status))
    elif not is_complete:
        _end_with_error(span, "incomplete")
    else:
        span.end()


def end_abandoned(request: Request) -> None:
    """End the span of a request that gets no answer; do nothing if it has none, or it has ended."""
    span = _take_span(request)
    if span is not None:
        _end_with_error(span, "cancelled")


def _end_with_error(span: Span, kind: str) -> None:
    span.set_status(StatusCode.ERROR)
    span.set_attribute("error.type", kind)
    span.end()


def _take_span(request: Request) -> Span | None:
    """Return the span of a request that has not ended, and keep what identifies it only."""
    access = access_of(request)
    span = None if access is None else access.trace
    if access is None or not isinstance(span, Span):
        return None
    access.trace = span.get_span_context()
    return span


def trace_of(request: Request) -> SpanContext | None:
    """Return what identifies the span of a request; None if it has none."""
    access = access_of(request)
    trace = None if access is None else access.trace
    return trace.get_span_context() if isinstance(trace, Span) else trace


def context_in(request: Request) -> Context | None:
    """Return a context inside of the span of a request; None if it has none."""
    access = access_of(request)
    trace = None if access is None else access.trace
    if isinstance(trace, Span):
        return set_span_in_context(trace, Context())
    return None if trace is None else inside_of(trace)


# -- what programs ask -------------------------------------------------------------------------------------------------


def context_of(conn: Connection) -> Context:
    """Return a context for spans that belong to the handshake of a connection.

        with tracer.start_as_current_span("load the room", context_of(conn)): ...

    Returns:
        the context; an empty one if the handshake has no span.
    """
    trace = trace_of(conn.request)
    return Context() if trace is None else inside_of(trace)


def link_to(conn: Connection) -> Link:
    """Return a link to the span of the handshake of a connection, for a span that is a trace of its own.

    Returns:
        the link; one to no span if the handshake has none, which tracers ignore.
    """
    return Link(trace_of(conn.request) or INVALID_SPAN_CONTEXT)
