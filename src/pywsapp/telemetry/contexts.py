"""Contexts of traces: those of clients, those that envelopes carry, and that of the current task.

A client can send any `traceparent`. A client that is trusted decides whether its spans are recorded, and can join the
trace of another client. Without trust, the span of a handshake begins a trace of its own, with a link to what the
client sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.context import Context, attach, detach
from opentelemetry.propagate import extract
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    set_span_in_context,
)

from pywsapp.http import Headers, Request

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_MAX_TRACEPARENT = 200  # characters; later versions can have more fields than the 55 of the first one


def parse_traceparent(text: str) -> SpanContext | None:
    """Return the context that a `traceparent` names (W3C Trace Context, section 3.2); None if it is not valid."""
    found = _TRACEPARENT.match(text) if len(text) <= _MAX_TRACEPARENT else None
    if found is None or found[1] == "ff" or not _ends_there(text, found):
        return None
    context = SpanContext(int(found[2], 16), int(found[3], 16), is_remote=True, trace_flags=_flags(found[4]))
    return context if context.is_valid else None


def _ends_there(text: str, found: re.Match[str]) -> bool:
    rest = text[found.end() :]
    return not rest or (found[1] != "00" and rest.startswith("-"))


def _flags(text: str) -> TraceFlags:
    return TraceFlags(int(text, 16) & TraceFlags.SAMPLED)


def inside_of(context: SpanContext) -> Context:
    """Return a context for spans that are children of a span of which only the identity is known."""
    return set_span_in_context(NonRecordingSpan(context), Context())


@contextmanager
def attached(context: Context) -> Iterator[None]:
    """Make a context the current one during a block."""
    token = attach(context)
    try:
        yield
    finally:
        detach(token)


def sent_by_client(request: Request) -> SpanContext | None:
    """Return the context that a client names in a request; None without a valid one."""
    fields = request.headers.getlist("traceparent")
    return parse_traceparent(fields[0]) if len(fields) == 1 else None


class _Fields(Getter[Headers]):
    """Reads header fields for the propagators of OpenTelemetry, which join repeated fields themselves."""

    def get(self, carrier: Headers, key: str) -> list[str] | None:
        return carrier.getlist(key) or None

    def keys(self, carrier: Headers) -> list[str]:
        return list(carrier)


def context_of_client(request: Request, *, trusted: bool) -> tuple[Context, list[Link]]:
    """Return the context and the links of the span for a request.

    Args:
        request: the request.
        trusted: whether the span belongs to the trace of the client. The propagators of the program then read it.
    """
    headers = request.headers
    if trusted:
        is_repeated = len(headers.getlist("traceparent")) > 1  # which is invalid
        return Context() if is_repeated else extract(headers, Context(), _Fields()), []
    context = sent_by_client(request)
    return Context(), [] if context is None else [Link(context)]
