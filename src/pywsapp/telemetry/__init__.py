"""Metrics and traces of an App by OpenTelemetry. Needs the extra `opentelemetry`.

    instrument            measure and trace an App with the providers of the program
    context_of            the context of a connection's handshake, for spans of the program
    link_to               a link to a connection's handshake

`pywsapp.telemetry.otlp` has `export_over_otlp`, which also makes the providers, as the environment variables of
OpenTelemetry say. It needs the extra `otlp`.
"""

from pywsapp.telemetry.instrumenting import instrument
from pywsapp.telemetry.requests import context_of, link_to

__all__ = ["context_of", "instrument", "link_to"]
