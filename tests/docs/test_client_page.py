"""docs/howto/connect-to-a-server.md: every program on the page runs, and prints what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from support.program import Program
from support.services import free_port
from support.serving import GUARD

PAGE = Path(__file__).parent.parent.parent / "docs" / "howto" / "connect-to-a-server.md"
PROGRAMS: list[str] = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)

SERVER = """
import ssl
from pywsapp import App, CallError, EchoServer, MessageComponent, rpc

class Countdown(MessageComponent):
    def on_open(self, conn):
        for number in (3, 2, 1):
            conn.send(str(number))
        conn.close({code}, "lift-off")

class Rooms(MessageComponent):
    @rpc
    def members(self, conn, room: str) -> list[str]:
        if room != "tea":
            raise CallError("not_found", "there is no such room")
        return ["Ana"]

app = App(port=0, tls={tls})
app.route("/rooms", Rooms())
app.route("/echo", EchoServer(), subprotocols=["echo.v1", "echo.v2"])
app.route("/countdown", Countdown())
app.run()
"""

#: Random pauses, which double with each attempt to connect, are a twentieth of the longest ones.
SHORT_PAUSES = "import random\nrandom.uniform = lambda low, high: low + (high - low) / 20\n"

OUTPUT = {
    'await conn.send("hello")\n        print': "hello\n",
    "exc.raw": 'hello\nExpected `str`, got `int` (at $.text) {"type":"say","text":5}\n',
    '"members"': "['Ana']\nnot_found: there is no such room\n",
    "/countdown": "3\n2\n1\nthe server is done\n",
    "timeout=0.2": "no message within 0.2 seconds\n",
    "tick(conn)": "tick 0\ntick 1\ntick 2\n",
    "IMPATIENT": "gave up\n",
    "question": "question\n",
    "def headers": "3\n2\n1\n",
    '"Bearer token"}': "subprotocol: echo.v1\n",
    "ProxyError": "the proxy http://localhost:1 cannot be reached: ",
    "connect_sync": "hello\n",
    "run_client": "hello\n1000 True\n",
}


def program(part: str) -> str:
    """Return the first program of the page that contains a certain text."""
    return next(text for text in PROGRAMS if part in text)


def output_of(text: str, port: int, cwd: Path | None = None) -> str:
    text = re.sub(r"localhost:(8080|8443)", f"localhost:{port}", text)
    command = [sys.executable, "-W", "error", "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, timeout=GUARD * 2, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with Program(SERVER.format(code=1000, tls=None)) as server:
        yield server.port
        assert "Traceback" not in server.output


@pytest.mark.parametrize("part", OUTPUT)
def test_program(part: str, port: int) -> None:
    output = output_of(program(part), port)
    assert output == OUTPUT[part] or (part == "ProxyError" and output.startswith(OUTPUT[part]))


def test_every_program_is_tested() -> None:
    others = [program('subscribe news")\n        async for'), program("does not want us"), program("authority.pem")]
    assert {program(part) for part in OUTPUT} | set(others) == set(PROGRAMS)


def test_iteration_that_ends_with_another_code() -> None:
    with Program(SERVER.format(code=4000, tls=None)) as server:
        output = output_of(program("/countdown"), server.port)
    assert output == "3\n2\n1\nthe server closed with 4000 lift-off\n"


def test_certificate(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    certificate = tmp_path / "server.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
    with Program(SERVER.format(code=1000, tls=f"({str(certificate)!r}, {str(certificate)!r})")) as server:
        assert output_of(program("authority.pem"), server.port, tmp_path) == "hello\n"


def test_reconnecting() -> None:
    """The program at the end of the page survives a restart of the server, and ends when the server is done."""
    port = free_port()
    source = SERVER.format(code=1000, tls=None).replace("port=0", f"port={port}")
    text = program("does not want us").replace("8080", str(port))
    with Program(source) as server:
        assert server.port == port
        with Program(SHORT_PAUSES + text) as client:
            client.until("connected\nsubscribe news")
            server.process.terminate()
            client.until(r"the connection to ws://localhost:\d+/echo has ended \(code 1012")
            server.process.wait(GUARD)
            with Program(source) as second:
                assert second.port == port
                client.until(r"(?s)again after .*connected\nsubscribe news")
            assert "Traceback" not in client.output


def test_the_first_loop_of_the_page() -> None:
    with Program(SERVER.format(code=1000, tls=None)) as server:
        text = program('subscribe news")\n        async for').replace("8080", str(server.port))
        with Program(text) as client:
            client.until("subscribe news")
