"""An App without a broker in several workers of an ASGI server says that its topics end at the process."""

from __future__ import annotations

import os
import re
import signal

import pytest
from support.program import Program
from support.services import free_port

APP = "support.asgi_program:app"
WARNING = r"this process is one of (.+), and the App has no broker: topics, presence and users end at the process"


@pytest.mark.parametrize(
    ("command", "workers", "lines"),
    [
        (["uvicorn", APP, "--port", "PORT", "--workers", "2"], "2 workers of uvicorn", 2),
        (["granian", "--interface", "asgi", APP, "--port", "PORT", "--workers", "2"], "several workers of granian", 1),
    ],
    ids=["uvicorn", "granian"],
)
def test_a_warning_at_the_start(command: list[str], workers: str, lines: int) -> None:
    port = str(free_port())
    with Program(["-W", "ignore", "-m", *[part.replace("PORT", port) for part in command]]) as program:
        position = 0
        for _ in range(lines):
            found = program.until(WARNING, position)
            assert found[1] == workers
            position = found.end()
        # granian does not always end its workers.
        for worker in re.findall(r"worker-\d with PID: (\d+)", program.output):
            os.kill(int(worker), signal.SIGKILL)
        program.send(signal.SIGTERM)
        program.end()
    assert program.output.count("the App has no broker") == lines
