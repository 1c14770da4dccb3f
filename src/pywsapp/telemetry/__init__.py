"""Metrics and traces of an App by OpenTelemetry. Needs the extra `opentelemetry`.

    instrument            measure an App with the providers of the program

`pywsapp.telemetry.otlp` has `export_over_otlp`, which also makes the providers, as the environment variables of
OpenTelemetry say. It needs the extra `otlp`.
"""

from pywsapp.telemetry.instrumenting import instrument

__all__ = ["instrument"]
