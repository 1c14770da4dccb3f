"""The spans of one App, and the contexts that its envelopes carry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any, cast
from urllib.parse import urlsplit

from opentelemetry.context import Context, get_current
from opentelemetry.trace import Link, SpanKind, StatusCode, Tracer, set_span_in_context

from pywsapp._http_text import one_line
from pywsapp._signatures import name_of
from pywsapp._trace_hooks import ComponentT, FunctionT, TraceHooks
from pywsapp._traceparent import current_traceparent
from pywsapp.brokers.base import Position
from pywsapp.brokers.envelope import traceparent_in
from pywsapp.component import Accept, MessageComponent
from pywsapp.exceptions import Refuse
from pywsapp.http import Request
from pywsapp.telemetry.contexts import attached, inside_of, parse_traceparent, sent_by_client
from pywsapp.telemetry.handlers import HandlerSpans, run_in_span
from pywsapp.telemetry.requests import RequestSpans, context_in, end_abandoned, end_span, trace_of
from pywsapp.webhooks.delivery import Answer

_CLIENT_ERROR = 400


class Tracing(TraceHooks):
    """Traces one App. Until `use` is called it makes no spans, but envelopes carry those of the program.

    Args:
        handler_spans: whether handlers and listeners have spans.
        trust_clients: whether the spans of requests belong to the traces of clients.
    """

    def __init__(self, *, handler_spans: bool, trust_clients: bool) -> None:
        self._handler_spans = handler_spans
        self._trust_clients = trust_clients
        self._tracer: Tracer | None = None

    def use(self, tracer: Tracer) -> None:
        """Make spans from now on; the App calls this before its server starts."""
        self._tracer = tracer

    # -- requests ----------------------------------------------------------------------------------------------------

    def around_component(self, component: ComponentT, is_probe: Callable[[Request], bool]) -> ComponentT:
        """See `TraceHooks.around_component`."""
        tracer = self._tracer
        if tracer is None:
            return component
        inside = cast("MessageComponent", component)
        around: Callable[[Accept], Accept] = lambda accept: accept  # noqa: E731
        if self._handler_spans:
            around = HandlerSpans(inside, tracer).around
        return cast("ComponentT", RequestSpans(inside, tracer, is_probe, around, trust_clients=self._trust_clients))

    def inside(self, request: Request) -> AbstractContextManager[object]:
        """See `TraceHooks.inside`."""
        context = context_in(request)
        return nullcontext() if context is None else attached(context)

    def ended(self, request: Request, status: int, refusal: Refuse | None = None, *, is_complete: bool = True) -> None:
        """See `TraceHooks.ended`."""
        end_span(request, status, refusal, is_complete=is_complete)

    def abandoned(self, request: Request) -> None:
        """See `TraceHooks.abandoned`."""
        end_abandoned(request)

    # -- topics ------------------------------------------------------------------------------------------------------

    def traceparent(self) -> str | None:
        """See `TraceHooks.traceparent`."""
        return current_traceparent()

    def around_receive(self, receive: FunctionT, is_delivered: Callable[..., bool]) -> FunctionT:
        """See `TraceHooks.around_receive`. An envelope with a context has a span in each process that delivers it."""

        def receive_inside(name: str, data: bytes, position: Position | None) -> None:
            found = traceparent_in(data)
            trace = None if found is None else parse_traceparent(found)
            if trace is None or not is_delivered(name, data, position):
                receive(name, data, position)
            elif self._tracer is None:
                with attached(inside_of(trace)):
                    receive(name, data, position)
            else:
                attributes = _messaging("deliver", "process", name)
                with self._tracer.start_as_current_span("deliver", inside_of(trace), SpanKind.CONSUMER, attributes):
                    receive(name, data, position)

        return cast("FunctionT", receive_inside)

    @contextmanager
    def publishing(self, request: Request, topic: str) -> Iterator[None]:
        """See `TraceHooks.publishing`. The span belongs to the trace of the program that has signed the request."""
        if self._tracer is None:
            yield
            return
        caller, own = sent_by_client(request), trace_of(request)
        context, links = None, []
        if caller is not None and not self._trust_clients:
            context, links = inside_of(caller), [] if own is None else [Link(own)]
        attributes = _messaging("publish", "send", topic)
        with self._tracer.start_as_current_span("publish", context, SpanKind.PRODUCER, attributes, links):
            yield

    def note_context(self) -> Context:
        """See `TraceHooks.note_context`."""
        return get_current()

    def around_listener(self, function: Callable[..., Any], *, is_async: bool) -> Callable[..., Any]:
        """See `TraceHooks.around_listener`. The listener has a span if handlers have spans."""
        name = name_of(function)

        @wraps(function)
        async def call_async(context: Context, *arguments: Any) -> None:
            if self._handler_spans and self._tracer is not None:
                span = self._tracer.start_span(name, context, SpanKind.CONSUMER)
                await run_in_span(span, set_span_in_context(span, context), function(*arguments))
            else:
                with attached(context):
                    await function(*arguments)

        @wraps(function)
        def call(context: Context, *arguments: Any) -> None:
            if self._handler_spans and self._tracer is not None:
                with self._tracer.start_as_current_span(name, context, SpanKind.CONSUMER):
                    function(*arguments)
            else:
                function(*arguments)  # in the context of the broadcast already

        return call_async if is_async else call

    # -- webhooks ----------------------------------------------------------------------------------------------------

    def around_post(self, url: str, post: FunctionT) -> FunctionT:
        """See `TraceHooks.around_post`. The receiver gets the context of the span."""
        tracer = self._tracer
        if tracer is None:
            return post

        async def post_in_span(headers: Mapping[str, str], body: bytes) -> Answer:
            host = urlsplit(url).hostname or ""
            attributes = {"http.request.method": "POST", "url.full": url, "server.address": host}
            with tracer.start_as_current_span("POST", Context(), SpanKind.CLIENT, attributes) as span:
                traceparent = current_traceparent()
                fields = headers if traceparent is None else {**headers, "traceparent": traceparent}
                answer: Answer = await post(fields, body)
                span.set_attribute("http.response.status_code", answer.status)
                if answer.status >= _CLIENT_ERROR:
                    span.set_status(StatusCode.ERROR)
                return answer

        return cast("FunctionT", post_in_span)


def _messaging(name: str, kind: str, topic: str) -> dict[str, str]:
    """Return the attributes of a span about a message (semantic conventions, messaging spans)."""
    return {
        "messaging.system": "pywsapp",
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
        "messaging.destination.name": one_line(topic),
    }
