"""`App.run` in its own process: signals, exit statuses, and the output for mistakes."""

from __future__ import annotations

import re
import signal
import socket
import sys

import pytest
from support.program import BlockingClient, Program, both_libraries, every_backend
from support.serving import CLOSE, GUARD, TEXT, frame

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send")

#: Longer than anything that should happen at once, shorter than anything that waits for a limit of 30 seconds.
SOON = 25

APP = """
import os, sys, time
import anyio
from pywsapp import App, EchoServer, MessageComponent, Options, in_thread
app = App("*", 0, options=Options({options}))
"""
ECHO = APP + 'app.route("/", EchoServer())\n'
#: Shortens the times that a process has to end, for handlers that do not end.
SHORT_LIMITS = """
from pywsapp._process import running, signals
running._SPARE_SECONDS = running._BROKER_SECONDS = running._HANDSHAKE_GRACE = signals._CANCEL_SECONDS = 0.3
"""

#: Writes a line for each signal, also while a handler blocks the event loop.
TELLING_SIGNALS = """
import os
from pywsapp._process.signals import _Signals
handle = _Signals._handle
def handle_and_tell(*arguments):
    handle(*arguments)
    os.write(1, b"signal\\n")
_Signals._handle = handle_and_tell
"""

HANDLERS = {
    "waiting": """
    async def on_message(self, conn, message):
        conn.send("begun")
        await anyio.sleep_forever()
""",
    "not to be cancelled": """
    async def on_message(self, conn, message):
        conn.send("begun")
        with anyio.CancelScope(shield=True):
            await anyio.sleep_forever()
""",
    "in a thread": """
    @in_thread
    def on_message(self, conn, message):
        anyio.from_thread.run_sync(conn.send, "begun")
        time.sleep(1000)
""",
    "blocking the loop": """
    def on_message(self, conn, message):
        os.write(1, b"begun\\n")
        while True:
            pass
""",
}


def echo(options: str = "") -> str:
    return ECHO.format(options=options)


def hanging(handler: str, options: str = "") -> str:
    return (
        f'{APP.format(options=options)}\nclass Hangs(MessageComponent):{HANDLERS[handler]}\napp.route("/", Hangs())\n'
    )


# -- signals -----------------------------------------------------------------------------------------------------------


@every_backend
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_closes_every_connection_and_exits_with_0(run: str, number: signal.Signals) -> None:
    with Program(f"{echo()}app.run({run})\nprint('behind run')") as program:
        clients = [BlockingClient(program.port, trailing=frame(TEXT, b"hello")) for _ in range(50)]
        assert all(client.frame() == (TEXT, b"hello") for client in clients)
        program.send(number)
        assert [client.receive_close() for client in clients] == [1012] * 50
        assert program.end(SOON) == 0
    for client in clients:
        with client:
            pass
    assert f"{number.name}: closing all connections" in program.output
    assert "draining 50 connections" in program.output
    assert "Traceback" not in program.output
    assert program.output.endswith("behind run\n")


@every_backend
@pytest.mark.parametrize("handler", HANDLERS)
def test_second_signal_ends_at_once_with_130(run: str, handler: str) -> None:
    source = TELLING_SIGNALS + hanging(handler)
    if handler != "waiting":
        source = SHORT_LIMITS + source
    with Program(f"{source}app.run({run})") as program, BlockingClient(program.port) as client:
        client.sock.sendall(frame(TEXT))
        if handler == "blocking the loop":
            program.until("begun")
        else:
            assert client.frame() == (TEXT, b"begun")
        program.send(signal.SIGINT)
        program.until("signal\n")
        if handler != "blocking the loop":
            assert client.frame()[0] == CLOSE
        assert program.process.poll() is None
        program.send(signal.SIGINT)
        assert program.end(SOON) == 130
    assert "Traceback" not in program.output


@every_backend
@pytest.mark.parametrize("handler", ["not to be cancelled", "in a thread", "blocking the loop"])
def test_first_signal_ends_in_time_even_if_a_handler_does_not_end(run: str, handler: str) -> None:
    source = f"{SHORT_LIMITS}{hanging(handler, 'drain_timeout=0.2, on_close_timeout=0.2')}"
    with Program(f"{source}app.run({run})") as program, BlockingClient(program.port) as client:
        client.sock.sendall(frame(TEXT))
        program.until("begun") if handler == "blocking the loop" else client.frame()
        program.send(signal.SIGTERM)
        assert program.end(SOON) == 1
    assert "a handler does not end: ending the process without it" in program.output


@every_backend
def test_second_signal_calls_on_close_and_the_shutdown_hooks(run: str) -> None:
    source = f"""{hanging("waiting")}
Hangs.on_close = lambda self, conn: print("on_close", conn.close_code)
app.on_shutdown(lambda: print("shutdown"))
app.run({run})
"""
    with Program(source) as program, BlockingClient(program.port, trailing=frame(TEXT)) as client:
        assert client.frame() == (TEXT, b"begun")
        program.send(signal.SIGTERM)
        assert client.frame()[0] == CLOSE
        program.send(signal.SIGTERM)
        assert program.end(SOON) == 130
    assert program.output.endswith("SIGTERM again: ending at once\non_close 1012\nshutdown\n")


@both_libraries
def test_peer_that_does_not_answer_delays_the_end_for_a_limited_time(run: str) -> None:
    with Program(f"{echo('close_timeout=0.3')}app.run({run})") as program, BlockingClient(program.port):
        program.send(signal.SIGTERM)
        assert program.end(SOON) == 0


@both_libraries
def test_handler_that_hangs_delays_the_end_for_a_limited_time(run: str) -> None:
    source = hanging("waiting", "drain_timeout=0.3, on_close_timeout=0.3")
    with Program(f"{source}app.run({run})") as program, BlockingClient(program.port, trailing=frame(TEXT)) as client:
        client.frame()
        program.send(signal.SIGTERM)
        assert program.end(SOON) == 0
    assert "1 connections did not end in time" in program.output


@both_libraries
def test_a_delayed_drain_is_not_a_handler_that_hangs(run: str) -> None:
    # The delay alone is longer than the time limit without it.
    source = echo("drain_delay=2.6, drain_timeout=0.1, on_close_timeout=0.1, close_timeout=0.1")
    with Program(f"{source}app.run({run})") as program:
        port = program.port
        program.send(signal.SIGTERM)
        program.until("accepting connections for 2.6 s more")
        with BlockingClient(port, trailing=frame(TEXT, b"late")) as client:
            assert client.frame() == (TEXT, b"late")
            assert client.receive_close() == 1012
        assert program.end(SOON) == 0


@both_libraries
def test_a_second_signal_does_not_wait_for_the_delay(run: str) -> None:
    with Program(f"{echo('drain_delay=3600')}app.run({run})") as program:
        assert program.port
        program.send(signal.SIGTERM)
        program.until("accepting connections")
        program.send(signal.SIGTERM)
        assert program.end(SOON) == 130


@every_backend
def test_signal_during_startup_cancels_it(run: str) -> None:
    source = f"""{echo()}
@app.on_startup
async def hang():
    print("starting")
    await anyio.sleep_forever()

app.on_shutdown(lambda: print("shutdown"))
app.run({run})
"""
    with Program(source) as program:
        program.until("starting")
        program.send(signal.SIGTERM)
        assert program.end(SOON) == 0
    assert "shutdown" in program.output


@every_backend
def test_signal_handlers_are_restored_and_the_app_runs_again(run: str) -> None:
    source = f"""{echo()}
import signal
before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
for _ in range(2):
    app.run({run})
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    print("ended")
"""
    with Program(source) as program:
        for times in (1, 2):
            program.until(rf"(?s)(on \w+: http.*){{{times}}}")
            program.send(signal.SIGINT)
            program.until(rf"(?s)(ended.*){{{times}}}")
        assert program.end(SOON) == 0


@both_libraries
def test_in_another_thread_stop_ends_it(run: str) -> None:
    source = f"""{echo()}
import threading
app.http("/stop", lambda request: app.stop())
thread = threading.Thread(target=lambda: app.run({run}))
thread.start()
thread.join()
print("joined")
"""
    with Program(source) as program:
        with socket.create_connection(("127.0.0.1", program.port), GUARD) as sock:
            sock.sendall(b"GET /stop HTTP/1.0\r\n\r\n")
            assert b"204" in sock.recv(100)
        assert program.end(SOON) == 0
    assert program.output.endswith("joined\n")


# -- output and messages -----------------------------------------------------------------------------------------------


def last_line(source: str, status: int = 1) -> str:
    """Run a program that fails; return the last line of its output, which most users read first."""
    with Program(source) as program:
        assert program.end() == status, program.output
    assert "ExceptionGroup" not in program.output
    assert "During handling of the above" not in program.output
    return program.output.rstrip("\n").rpartition("\n")[2]


ERROR = "pywsapp.exceptions.ConfigurationError: "


@both_libraries
def test_address_in_use(run: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = last_line(f"from pywsapp import App\nApp('*', {port}).run({run})")
    assert line.startswith(f"{ERROR}cannot listen on 127.0.0.1:{port}: the address is in use; stop the other server")


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_run_inside_a_running_loop(loop: str) -> None:
    source = f"""
import {loop}
from pywsapp import App
async def main():
    App("*", 0).run()
{loop}.run(main{"()" if loop == "asyncio" else ""})
"""
    line = last_line(source)
    assert (
        line
        == f"{ERROR}App.run() starts an event loop, but this thread runs one already: use `await app.serve()` instead"
    )


@pytest.mark.parametrize(("module", "run"), [("uvloop", "uvloop=True"), ("trio", 'backend="trio"')])
def test_library_that_is_not_installed(module: str, run: str) -> None:
    source = f"import sys\nsys.modules[{module!r}] = None\nfrom pywsapp import App\nApp('*', 0).run({run})"
    assert last_line(source) == f"{ERROR}{module} is not installed: pip install 'pywsapp[{module}]'"


def test_without_uvloop_and_trio_it_runs_on_asyncio() -> None:
    hide = "import sys\nsys.modules['uvloop'] = sys.modules['trio'] = None\n"
    with Program(f"{hide}{echo()}app.run()") as program:
        program.until(" on asyncio: http")
        with BlockingClient(program.port) as client:
            program.send(signal.SIGTERM)
            assert client.receive_close() == 1012
        assert program.end(SOON) == 0


@both_libraries
def test_failing_startup_hook(run: str) -> None:
    source = f"""{echo()}
@app.on_startup
async def fail():
    raise LookupError("no database")
app.run({run})
"""
    assert last_line(source) == "LookupError: no database"


@both_libraries
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_startup_hook_that_exits(run: str, kind: str) -> None:
    source = f"""{echo()}
@app.on_startup
{kind} stop():
    sys.exit("no database")
app.run({run})
"""
    with Program(source) as program:
        assert program.end() == 1
    assert program.output == "no database\n"


@both_libraries
def test_handler_that_exits(run: str) -> None:
    source = f"""{echo()}
class Exits(MessageComponent):
    async def on_message(self, conn, message):
        sys.exit(3)
app.route("/exit", Exits())
app.run({run})
"""
    with Program(source) as program, BlockingClient(program.port, path="/exit", trailing=frame(TEXT)):
        assert program.end(SOON) == 3


def test_script_with_a_mistake_in_a_route() -> None:
    source = f"""{echo()}
class Chat(MessageComponent):
    def on_message(self, message):
        pass
app.route("/chat", Chat())
"""
    assert last_line(source).startswith(f"{ERROR}Chat.on_message must take (self, conn, message)")


# -- the log -----------------------------------------------------------------------------------------------------------


def test_log_goes_to_stderr_unless_the_program_has_set_up_logging() -> None:
    with Program(f"{echo()}app.run()") as program:
        program.until(r"\d\d:\d\d:\d\d,\d+ INFO pywsapp [\w.]+ on \w+: http://127.0.0.1:\d+( \(.*\))?\n")
    own = "import logging\nlogging.basicConfig(format='MINE %(message)s', level='INFO')\n"
    with Program(f"{own}{echo()}app.run()") as program:
        line = program.until(r".*http://127.0.0.1:\d+\n")[0]
        assert re.match(r"MINE pywsapp ", line)
        assert program.output.count("http://") == 1
