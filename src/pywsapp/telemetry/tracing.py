"""A span for each handshake, and for each handler if the program asks for it.

The span of a handshake begins when the component is asked, and ends when the connection opens or is refused. A
connection can last for hours, so the spans of its handlers are traces of their own, with a link to the handshake.
Requests that the server refuses without asking a component have no span: a flood must cost no more with traces.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Mapping
from contextlib import nullcontext
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from opentelemetry.context import Context, get_current
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
from pywsapp._lifecycle.delayed_call import DelayedCall, Wait
from pywsapp._request_state import access_of, make_access
from pywsapp._server.connection_log import ConnectionLog
from pywsapp._signatures import name_of
from pywsapp.brokers.base import Position
from pywsapp.brokers.envelope import traceparent_in
from pywsapp.component import Accept, MessageComponent
from pywsapp.connection import Connection
from pywsapp.exceptions import Refuse
from pywsapp.http import Request
from pywsapp.middleware.base import ComponentMiddleware, HandshakeMiddleware
from pywsapp.telemetry.contexts import (
    attached,
    context_of_client,
    current_traceparent,
    inside_of,
    inside_traceparent,
)
from pywsapp.webhooks.delivery import Answer
from pywsapp.webhooks.sender import Post, WebhookSender

if TYPE_CHECKING:
    from pywsapp._server.server import Server
    from pywsapp.topics.registry import TopicRegistry

_CLIENT_ERROR = 400
_SERVER_ERROR = 500


class Tracing:
    """The spans of one App, which does not run yet.

    Args:
        topics: the topics of the App. From now on the broker carries the contexts of traces.
        handler_spans: whether handlers and listeners have spans.
        trust_clients: whether the span of a handshake belongs to the trace of the client.
    """

    def __init__(self, topics: TopicRegistry, *, handler_spans: bool, trust_clients: bool) -> None:
        self._topics = topics
        self._handler_spans = handler_spans
        self._trust_clients = trust_clients
        self._tracer: Tracer | None = None
        carry_traces(topics)

    def start(self, server: Server, tracer: Tracer) -> None:
        """Trace the handshakes of a server that does not accept connections yet, and the listeners."""
        if self._tracer is None:
            self._topics.listeners.wrap(self._wrap_listener, get_current)
        self._tracer = tracer
        handlers = _HandlerSpans(server.component, tracer) if self._handler_spans else None
        server.component = _HandshakeSpans(server.component, tracer, handlers, trust_clients=self._trust_clients)
        log = server.connection_log
        server.connection_log = _SpanEnds(log.has_access_log, log._is_probe)
        for sender in self._topics.occupancy._reports:
            if isinstance(sender, WebhookSender):
                sender.wrap_post = partial(_trace_post, tracer, sender.target.shown)

    def _wrap_listener(self, function: Any, is_async: bool) -> Any:
        """Call a listener in the context of the broadcast, and in a span if handlers have spans."""
        name = name_of(function)

        async def call_async(context: Context, *arguments: Any) -> None:
            if self._handler_spans and self._tracer is not None:
                span = self._tracer.start_span(name, context, SpanKind.CONSUMER)
                await _in_span(span, set_span_in_context(span, context), function(*arguments))
            else:
                with attached(context):
                    await function(*arguments)

        def call(context: Context, *arguments: Any) -> None:
            if self._handler_spans and self._tracer is not None:
                with self._tracer.start_as_current_span(name, context, SpanKind.CONSUMER):
                    function(*arguments)
            else:
                function(*arguments)  # in the context of the broadcast already

        return call_async if is_async else call


def carry_traces(topics: TopicRegistry) -> None:
    """Have a broker carry the contexts of traces: from a broadcast to the listeners in other processes."""
    topics.codec.carry_traces(current_traceparent)
    receive = topics.receive

    def receive_inside(name: str, data: bytes, position: Position | None) -> None:
        found = traceparent_in(data)
        with nullcontext() if found is None else inside_traceparent(found):
            receive(name, data, position)

    topics.receive = receive_inside  # type: ignore[method-assign] # so that others do not pay for it


def _trace_post(tracer: Tracer, url: str, post: Post) -> Post:
    """Return what sends a request of a webhook in a span, whose context the receiver gets."""

    async def post_in_span(headers: Mapping[str, str], body: bytes) -> Answer:
        attributes = {"http.request.method": "POST", "url.full": url, "server.address": urlsplit(url).hostname or ""}
        with tracer.start_as_current_span("POST", Context(), SpanKind.CLIENT, attributes) as span:
            traceparent = current_traceparent()
            answer = await post(headers if traceparent is None else {**headers, "traceparent": traceparent}, body)
            span.set_attribute("http.response.status_code", answer.status)
            if answer.status >= _CLIENT_ERROR:
                span.set_status(StatusCode.ERROR)
            return answer

    return post_in_span


# -- handshakes --------------------------------------------------------------------------------------------------------


class _HandshakeSpans(HandshakeMiddleware):
    """The router of an App, with a span around each of its decisions on a handshake."""

    def __init__(
        self, component: MessageComponent, tracer: Tracer, handlers: _HandlerSpans | None, *, trust_clients: bool
    ) -> None:
        super().__init__(component)
        self._tracer = tracer
        self._handlers = handlers
        self._trust_clients = trust_clients

    def on_handshake(self, request: Request) -> Accept | Awaitable[Accept]:
        context, links = context_of_client(request, trusted=self._trust_clients)
        span = self._tracer.start_span(request.method, context, SpanKind.SERVER, attributes_of(request), links)
        make_access(request).trace = span
        context = set_span_in_context(span, context)
        try:
            with attached(context):
                answer = super().on_handshake(request)
        except BaseException as exc:
            end_with(span, request, exc)
            raise
        if must_await(answer):
            return self._decided(span, context, request, cast("Awaitable[Accept]", answer))
        return self._traced(cast("Accept", answer))

    async def _decided(self, span: Span, context: Context, request: Request, answer: Awaitable[Accept]) -> Accept:
        try:
            with attached(context):
                accept = await answer
        except BaseException as exc:
            end_with(span, request, exc)
            raise
        return self._traced(accept)

    def _traced(self, accept: Accept) -> Accept:
        return accept if self._handlers is None else self._handlers._around(accept)


class _SpanEnds(ConnectionLog):
    """The log of connections, which also ends the spans of handshakes."""

    __slots__ = ()

    def opened(self, request: Request) -> None:
        super().opened(request)
        access = access_of(request)
        if access is not None and isinstance(access.trace, Span):
            end_span(access.trace, request, 101 if request.headers.get("upgrade") else 200)
            access.trace = access.trace.get_span_context()

    def refused(self, peer: str, request: Request | None, refuse: Refuse) -> None:
        super().refused(peer, request, refuse)
        access = None if request is None else access_of(request)
        if request is not None and access is not None and isinstance(access.trace, Span):
            end_with(access.trace, request, refuse)


def attributes_of(request: Request) -> dict[str, Any]:
    """Return the attributes of the span of a handshake, without the query string, which can hold secrets."""
    found = {
        "http.request.method": request.method,
        "url.path": one_line(request.path),
        "url.scheme": request.scheme,
    }
    if request.remote_address:
        found["client.address"] = request.remote_address
    return found


def end_span(span: Span, request: Request, status: int) -> None:
    """End the span of a handshake with the status of its answer."""
    if request.route:
        span.update_name(f"{request.method} {request.route}")
        span.set_attribute("http.route", request.route)
    span.set_attribute("http.response.status_code", status)
    if status >= _SERVER_ERROR:
        span.set_status(StatusCode.ERROR)
        span.set_attribute("error.type", str(status))
    span.end()


def end_with(span: Span, request: Request, exc: BaseException) -> None:
    """End the span of a handshake that is refused, or whose decision was cancelled; nothing if it has ended."""
    if not span.is_recording():
        return
    if isinstance(exc, Refuse):
        span.set_attribute("pywsapp.refusal", one_line(str(exc)))
        end_span(span, request, exc.status)
    elif isinstance(exc, Exception):
        span.record_exception(exc)
        end_span(span, request, _SERVER_ERROR)
    else:  # the client has gone, the decision took too long, or the App ends
        span.set_status(StatusCode.ERROR)
        span.set_attribute("error.type", "cancelled")
        span.end()


# -- handlers ----------------------------------------------------------------------------------------------------------


class _HandlerSpans(ComponentMiddleware):
    """A span for each call of `on_open`, `on_message` and `on_close` of a component."""

    def __init__(self, component: MessageComponent, tracer: Tracer) -> None:
        super().__init__(component)
        self._tracer = tracer
        self._links: list[Link] = []
        self._attributes: dict[str, Any] = {}

    def on_open(self, conn: Connection) -> Any:
        trace = trace_of(conn.request)
        self._links = [] if trace is None else [Link(trace)]
        self._attributes = {"http.route": conn.request.route}
        return self._call("on_open", SpanKind.INTERNAL, super().on_open, conn)

    def on_message(self, conn: Connection, message: Any) -> Any:
        return self._call("on_message", SpanKind.CONSUMER, super().on_message, conn, message)

    def on_close(self, conn: Connection) -> Any:
        return self._call("on_close", SpanKind.INTERNAL, super().on_close, conn)

    def _call(self, hook: str, kind: SpanKind, function: Any, *arguments: Any) -> Any:
        name = f"{hook} {self._attributes['http.route']}"
        span = self._tracer.start_span(name, Context(), kind, self._attributes, self._links)
        return _call_in_span(span, set_span_in_context(span, Context()), function, *arguments)


def _call_in_span(span: Span, context: Context, function: Any, *arguments: Any) -> Any:
    """Call a handler, and return what it has returned; the span ends when that has ended."""
    try:
        with attached(context):
            result = function(*arguments)
    except BaseException as exc:
        end_failed(span, exc)
        raise
    if type(result) is CoroutineType:
        return _in_span(span, context, result)
    if type(result) is DelayedCall:  # its handler is called later
        wait = partial(_wait_in_span, span, context, result.wait)
        return result.around(lambda handler: partial(_call_in_span, span, context, handler), wait)
    span.end()
    return result


async def _wait_in_span(span: Span, context: Context, wait: Wait) -> bool:
    """Wait until a handler can be called; the span ends if it need not be called any more."""
    try:
        with attached(context):
            is_wanted = await wait()
    except BaseException as exc:
        end_failed(span, exc)
        raise
    if not is_wanted:
        span.end()
    return is_wanted


async def _in_span(span: Span, context: Context, coroutine: Coroutine[Any, Any, Any]) -> Any:
    try:
        with attached(context):
            result = await coroutine
    except BaseException as exc:
        end_failed(span, exc)
        raise
    span.end()
    return result


def end_failed(span: Span, exc: BaseException) -> None:
    """End the span of a handler that has raised an exception."""
    span.record_exception(exc)
    span.set_attribute("error.type", type(exc).__qualname__)
    span.set_status(StatusCode.ERROR)
    span.end()


# -- what programs ask -------------------------------------------------------------------------------------------------


def trace_of(request: Request) -> SpanContext | None:
    """Return what identifies the span of the handshake of a request; None if it has none."""
    access = access_of(request)
    trace = None if access is None else access.trace
    return trace.get_span_context() if isinstance(trace, Span) else trace


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
