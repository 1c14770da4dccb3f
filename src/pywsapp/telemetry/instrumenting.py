"""Measuring an App with the providers of the program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pywsapp._extras import missing_extra
from pywsapp._version import __version__

try:
    from opentelemetry.metrics import MeterProvider, get_meter
except ModuleNotFoundError as exc:
    raise missing_extra(exc, "opentelemetry") from exc

from pywsapp.telemetry.metrics import create_instruments
from pywsapp.telemetry.numbers import numbers_of
from pywsapp.telemetry.scope import SCOPE

if TYPE_CHECKING:
    from pywsapp.app import App


def instrument(app: App, *, meter_provider: MeterProvider | None = None) -> None:
    """Measure an App with OpenTelemetry. Never blocks.

    The instruments are made when the App starts, in each worker. They read the numbers of the App when they are
    exported, so that a message costs nothing more than with `App(metrics=True)`.

    Args:
        app: the App that runs, before it runs.
        meter_provider: provides the meter; None for the one of the program when the App starts.

    Raises:
        ConfigurationError: the App runs already, or has been instrumented already.
    """
    numbers = numbers_of(app)
    numbers.claim()
    has_instruments = False

    def create_once() -> None:
        nonlocal has_instruments
        if not has_instruments:
            create_instruments(get_meter(SCOPE, __version__, meter_provider), numbers)
            has_instruments = True

    app.on_startup(create_once)
