"""Each worker exports its own metrics and spans, and the supervisor exports nothing."""

from __future__ import annotations

import signal
import sys

import pytest
from support.otlp_receiver import receiving_over_http
from support.program import BlockingClient, Program

pytestmark = [pytest.mark.skipif(sys.platform == "win32", reason="Windows has no workers"), pytest.mark.once]

PROGRAM = """
from opentelemetry import trace
from pywsapp import App, MessageComponent
from pywsapp.telemetry import context_of, otlp
from pywsapp.telemetry.otlp import export_over_otlp

otlp._LAST_EXPORT_SECONDS = 20  # also on a busy machine
app = App(port=0)
tracer = trace.get_tracer("program")

@app.route("/")
class Program(MessageComponent):
    def on_open(self, conn):
        with tracer.start_as_current_span("own", context_of(conn)):
            pass

export_over_otlp(app)
if __name__ == "__main__":
    app.run(workers=2)
"""


def test_each_worker_exports_its_own_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving_over_http() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        with Program(PROGRAM) as program:
            for _ in range(4):
                with BlockingClient(program.port):
                    pass
            program.send(signal.SIGINT)
            assert program.end() == 0
        assert sorted(resource["pywsapp.worker"] for resource in receiver.resources) == [1, 2]
        assert len({resource["service.instance.id"] for resource in receiver.resources}) == 2
        assert sum(value for _, value in receiver.values("pywsapp.handshakes")) == 4
        own = [span for span in receiver.spans if span.name == "own"]
        handshakes = [span for span in receiver.spans if span.name == "GET /"]
        assert sorted(span.parent_span_id for span in own) == sorted(span.span_id for span in handshakes)
        assert len(own) == 4
