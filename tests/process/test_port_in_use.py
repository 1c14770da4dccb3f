"""A program whose port is in use: the traceback ends with the reason and is short enough to find it."""

from __future__ import annotations

import socket
import sys

import pytest
from support.program import Program, both_libraries

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send")


@both_libraries
@pytest.mark.parametrize("workers", [1, 2])
def test_the_traceback_shows_the_program_and_not_the_event_loop(run: str, workers: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        source = f"from pywsapp import App\nApp('*', {port}).run({run}, workers={workers})"
        with Program(source) as program:
            assert program.end() == 1
    lines = program.output.splitlines()
    assert lines[-1].endswith(
        "the address is in use; stop the other server, choose another port, or use port 0 for a free one"
    )
    assert program.output.count("Traceback") == 1
    assert len([line for line in lines if line.startswith("  File ")]) == 3  # the program, App.run, Runner.run


@both_libraries
def test_a_mistake_in_a_startup_hook_keeps_its_traceback(run: str) -> None:
    source = f"""from pywsapp import App
app = App("*", 0)
@app.on_startup
def listen():
    app.topic("room:*").broadcast("x")
app.run({run})
"""
    with Program(source) as program:
        assert program.end() == 1
    assert "in listen" in program.output
