"""The field `traceparent` of W3C Trace Context: the trace in which something happens, as text."""

from __future__ import annotations

import sys

_SAMPLED = 1


def format_traceparent(trace_id: int, span_id: int, flags: int) -> str:
    """Return the `traceparent` of a span (W3C Trace Context, section 3.2)."""
    return f"00-{trace_id:032x}-{span_id:016x}-{flags & _SAMPLED:02x}"


def current_traceparent() -> str | None:
    """Return the `traceparent` of the span in which the caller runs; None without one.

    A program that has not imported OpenTelemetry has no span. So this looks for the imported module and imports
    nothing.
    """
    get_current_span = getattr(sys.modules.get("opentelemetry.trace"), "get_current_span", None)
    if get_current_span is None:
        return None
    context = get_current_span().get_span_context()
    return format_traceparent(context.trace_id, context.span_id, context.trace_flags) if context.is_valid else None
