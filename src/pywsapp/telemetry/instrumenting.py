"""Measuring and tracing an App with the providers of the program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pywsapp._extras import missing_extra
from pywsapp._version import __version__

try:
    from opentelemetry.metrics import MeterProvider, get_meter_provider
    from opentelemetry.trace import ProxyTracerProvider, TracerProvider, get_tracer_provider
except ModuleNotFoundError as exc:
    # `pywsapp.telemetry.otlp`, which needs more than the extra `opentelemetry`, imports this module first.
    raise missing_extra(exc, "otlp") from exc

from pywsapp.telemetry.metrics import create_instruments
from pywsapp.telemetry.numbers import numbers_of
from pywsapp.telemetry.tracing import Tracing

if TYPE_CHECKING:
    from pywsapp.app import App

#: The instrumentation scope of all metrics and spans.
SCOPE = "pywsapp"


class Instrumentation:
    """The metrics and spans of one App, which does not run yet.

    Args:
        app: the App.
        handler_spans: as for `instrument`.
        trust_clients: as for `instrument`.

    Raises:
        ConfigurationError: the App runs already, or is instrumented already.
    """

    def __init__(self, app: App, *, handler_spans: bool, trust_clients: bool) -> None:
        self.numbers = numbers_of(app)
        self.numbers.claim()
        self._tracing = app.topics.trace_hooks = Tracing(handler_spans=handler_spans, trust_clients=trust_clients)

    def create_instruments(self, provider: MeterProvider) -> None:
        """Create the instruments, once for each provider."""
        create_instruments(provider.get_meter(SCOPE, __version__), self.numbers)

    def trace(self, provider: TracerProvider) -> None:
        """Make spans from now on. A startup hook calls this, before the server starts."""
        self._tracing.use(provider.get_tracer(SCOPE, __version__))


def instrument(
    app: App,
    *,
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
    handler_spans: bool = False,
    trust_clients: bool = False,
) -> None:
    """Measure and trace an App with OpenTelemetry. Never blocks.

    The instruments are made when the App starts, in each worker. They read the numbers of the App when they are
    exported, so that a message costs nothing more than with `App(metrics=True)`. Each handshake that reaches a
    component has a span, and so has each plain request. Without a tracer provider there are no spans.

    Args:
        app: the App that runs, before it runs.
        meter_provider: provides the meter; None for that of the program when the App starts.
        tracer_provider: provides the tracer; None for that of the program when the App starts.
        handler_spans: make a span also for each call of `on_open`, `on_message`, `on_close` and of a listener of
            `App.on_broadcast`.
        trust_clients: continue the trace that a client names in its handshake, and record it if the client says so.
            By default a handshake begins a trace, with a link to that of the client.

    Raises:
        ConfigurationError: the App runs already, or is instrumented already.
    """
    instrumentation = Instrumentation(app, handler_spans=handler_spans, trust_clients=trust_clients)
    has_instruments = False

    def start() -> None:
        nonlocal has_instruments
        if not has_instruments:
            instrumentation.create_instruments(get_meter_provider() if meter_provider is None else meter_provider)
            has_instruments = True
        tracers = get_tracer_provider() if tracer_provider is None else tracer_provider
        if not isinstance(tracers, ProxyTracerProvider):  # the program has set none
            instrumentation.trace(tracers)

    app.on_startup(start)
