"""A span for each call of a handler: `on_open`, `on_message` and `on_close`.

A connection can last for hours, so the spans of its handlers are traces of their own, with a link to the handshake.
"""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from types import CoroutineType
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer, set_span_in_context

from pywsapp._lifecycle.delayed_call import DelayedCall, Wait
from pywsapp.component import Accept, MessageComponent
from pywsapp.connection import Connection
from pywsapp.middleware.base import ComponentMiddleware
from pywsapp.telemetry.contexts import attached
from pywsapp.telemetry.requests import trace_of


class HandlerSpans(ComponentMiddleware):
    """A span for each call of `on_open`, `on_message` and `on_close` of a component."""

    def __init__(self, component: MessageComponent, tracer: Tracer) -> None:
        super().__init__(component)
        self._tracer = tracer
        self._links: list[Link] = []
        self._attributes: dict[str, Any] = {}

    def around(self, accept: Accept) -> Accept:
        """Return what takes the place of an accepted handshake, whose component then has spans."""
        return self._around(accept)

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
        return call_in_span(span, set_span_in_context(span, Context()), function, *arguments)


def call_in_span(span: Span, context: Context, function: Any, *arguments: Any) -> Any:
    """Call a handler, and return what it has returned; the span ends when that has ended."""
    try:
        with attached(context):
            result = function(*arguments)
    except BaseException as exc:
        end_failed(span, exc)
        raise
    if type(result) is CoroutineType:
        return run_in_span(span, context, result)
    if type(result) is DelayedCall:  # its handler is called later
        wait = partial(_wait_in_span, span, context, result.wait)
        return result.around(lambda handler: partial(call_in_span, span, context, handler), wait)
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


async def run_in_span(span: Span, context: Context, coroutine: Coroutine[Any, Any, Any]) -> Any:
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
