"""Batches of a fallback connection that reach another worker than the one that has the stream."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import pytest
from support.program import Program
from support.serving import GUARD

pytestmark = pytest.mark.once

SOURCE = """
from pywsapp import App, TopicComponent
from pywsapp.topics.fallback import service

service.ANSWER_SECONDS = 1000

class Rooms(TopicComponent):
    def authorize(self, conn, action, topic):
        return True

    def on_call(self, conn, method, params):
        return params


app = App("localhost", 0)
app.route("/live", Rooms(), fallback=True)

if __name__ == "__main__":
    app.run(workers=2)
"""
BATCHES = 20


def test_batches_reach_the_stream_from_every_worker(tmp_path: Path) -> None:
    (tmp_path / "rooms.py").write_text(SOURCE)
    with Program([str(tmp_path / "rooms.py")]) as program:
        down = http.client.HTTPConnection("localhost", program.port, timeout=30)
        down.request("GET", "/live", headers={"Accept": "text/event-stream;protocol=pywsapp.topics.v1"})
        stream = down.getresponse()
        data = (line[6:] for line in iter(stream.readline, b"") if line.startswith(b"data: "))
        headers = {"Pywsapp-Stream": json.loads(next(data))["stream"]}
        messages = [{"type": "connect", "id": 1}]
        messages += [
            {"type": "call", "id": number, "method": "echo", "params": [number]} for number in range(2, BATCHES)
        ]
        for number, message in enumerate(messages, 1):
            up = http.client.HTTPConnection("localhost", program.port, timeout=30)
            up.request("POST", "/live", json.dumps({"number": number, "messages": [json.dumps(message)]}), headers)
            assert up.getresponse().status == 204
            up.close()
        for number in range(4):  # either worker refuses an invented id at once
            up = http.client.HTTPConnection("localhost", program.port, timeout=GUARD)
            invented = {"Pywsapp-Stream": f"{'0' * 16}.x"}
            up.request("POST", "/live", json.dumps({"number": 1, "messages": []}), invented)
            assert up.getresponse().status == 404, number
            up.close()
        assert [json.loads(next(data))["id"] for _ in messages] == list(range(1, BATCHES))
        down.close()
