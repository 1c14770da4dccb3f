"""Each worker exports its own metrics and spans, and the supervisor exports nothing."""

from __future__ import annotations

import signal
import sys

import pytest
from support.otlp_receiver import receiving_over_http
from support.program import BlockingClient, Program

pytestmark = [pytest.mark.skipif(sys.platform == "win32", reason="Windows has no workers"), pytest.mark.once]

PROGRAM = """
from pywsapp import App, EchoServer
from pywsapp.telemetry.otlp import export_over_otlp

app = App(port=0)
app.route("/", EchoServer())
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
        assert len(receiver.spans) == 4
