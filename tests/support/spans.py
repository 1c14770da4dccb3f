"""The spans of an App, kept in memory."""

from __future__ import annotations

from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, get_current_span

from pywsapp import App, telemetry

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


class _Processor(SimpleSpanProcessor):
    """Counts the spans that have begun, and exports those that have ended."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        super().__init__(exporter)
        self.begun = 0

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.begun += 1


class Spans:
    """The spans of an App, with a tracer for the test."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._processor = _Processor(self._exporter)
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(self._processor)
        self.tracer = self.provider.get_tracer("test")

    def instrument(self, app: App, **arguments: Any) -> App:
        telemetry.instrument(app, tracer_provider=self.provider, **arguments)
        return app

    @property
    def open(self) -> int:
        """How many spans have not ended."""
        return self._processor.begun - len(self.finished)

    @property
    def finished(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.finished]

    def one(self, name: str) -> ReadableSpan:
        (found,) = [span for span in self.finished if span.name == name]
        return found

    def attributes(self, name: str) -> dict[str, Any]:
        """Return the attributes of the one span of a name."""
        return dict(self.one(name).attributes or {})


def current_trace_id() -> str:
    """Return the trace in which the caller runs, in hexadecimal; only zeros without one."""
    return hexadecimal(get_current_span().get_span_context().trace_id)


def identity(span: ReadableSpan) -> SpanContext:
    found = span.get_span_context()
    assert found is not None
    return found


def hexadecimal(number: int) -> str:
    return f"{number:032x}"
