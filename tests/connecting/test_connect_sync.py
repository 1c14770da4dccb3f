"""`connect_sync`: a connection without an event loop, to a server of another process."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import pytest
from support.client_servers import silent
from support.program import Program
from support.services import free_port
from support.serving import GUARD
from support.typed import Join, Say

from pywsapp import (
    ConfigurationError,
    ConnectionClosed,
    HandshakeError,
    InvalidMessage,
    Options,
    SyncConnection,
    connect_sync,
)
from pywsapp.codecs import MessagePackCodec

SERVER = """
from pywsapp import App, MessageComponent, Options, Refuse, rpc
from pywsapp.codecs import JsonCodec, MessagePackCodec

class Remote(MessageComponent):
    subprotocols = ("v1",)
    def on_handshake(self, request):
        if request.path == "/no":
            raise Refuse(403, body="no access")
    def on_message(self, conn, message):
        command, _, argument = str(message).partition(" ")
        if command == "close":
            conn.close(int(argument), "reason")
        elif command in ("count", "flood"):
            for number in range(int(argument)):
                conn.send(str(number))
            if command == "count":
                conn.close()
        elif command != "quiet":
            conn.send(message)
    def on_close(self, conn):
        print("closed", conn.close_code, conn.was_clean, flush=True)

class Typed(MessageComponent):
    def on_message(self, conn, message: dict):
        conn.send(message)
    @rpc
    def add(self, conn, a: int, b: int) -> int:
        conn.send({"type": "say", "text": "before the reply"})
        return a + b

app = App(port=0, metrics=True)
app.route("/typed", Typed(), allowed_origins=["*"], codec=[JsonCodec(), MessagePackCodec()])
app.route("/pinged", Remote(), allowed_origins=["*"], options=Options(ping_interval=0.1))
app.route("/{rest:path}", Remote(), allowed_origins=["*"])

@app.http("/pongs")
def pongs(request):
    answered = app.stats().routes["/pinged"].ping_seconds
    return str(answered.number if answered else 0)

app.run()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Program]:
    with Program(SERVER) as program:
        yield program
        assert "Traceback" not in program.output


@pytest.fixture
def url(server: Program) -> str:
    return f"ws://127.0.0.1:{server.port}/"


def threads() -> int:
    return sum(thread.name == "pywsapp client" for thread in threading.enumerate())


def test_messages(url: str) -> None:
    with connect_sync(url, subprotocols=["v1"], headers={"A": "b"}) as conn:
        for message in ("hello", b"\x00\xff", "", "x" * 100_000):
            conn.send(message)
            assert conn.receive(timeout=GUARD) == message
        assert (conn.subprotocol, conn.is_open, conn.close_code) == ("v1", True, None)
        assert conn.request.path == "/"
        assert conn.ping() > 0
        assert "SyncConnection" in repr(conn)
    assert (conn.close_code, conn.close_reason, conn.was_clean, conn.is_open) == (1000, "", True, False)
    assert threads() == 0


def test_iteration_ends_when_the_server_closes(url: str) -> None:
    with connect_sync(url) as conn:
        conn.send("count 1000")
        assert list(conn) == [str(number) for number in range(1000)]
        assert list(conn) == []
        with pytest.raises(ConnectionClosed, match="1000"):
            conn.send("late")


def test_typed_messages(url: str) -> None:
    with connect_sync(f"{url}typed", codec=MessagePackCodec(), message_type=Say) as conn:
        assert conn.subprotocol == "msgpack"
        assert conn.call("add", {"a": 1, "b": 2}, timeout=GUARD, result_type=int) == 3
        assert next(iter(conn)) == Say("before the reply")
        conn.send(Say("hello"))
        assert conn.receive(timeout=GUARD) == Say("hello")
        conn.send(Join("tea"))
        with pytest.raises(InvalidMessage):
            conn.receive()
        conn.send(Join("tea"))
        assert conn.receive(Join, timeout=GUARD) == Join("tea")
        with pytest.raises(InvalidMessage, match=r"Expected `str`, got `int` \(at \$.result\)"):
            conn.call("add", {"a": 1, "b": 2}, result_type=str)


@pytest.mark.parametrize(("ending", "code"), [(None, 1000), (LookupError, 1011), (SystemExit, 1006)])
def test_messages_that_were_not_received_are_dropped(
    url: str, ending: type[BaseException] | None, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.suppress(LookupError, SystemExit), connect_sync(url) as conn:
        conn.send("flood 1000")
        assert conn.receive() == "0"
        if ending is not None:
            raise ending
    assert conn.close_code == code
    assert caplog.text == ""


def test_iteration_raises_at_other_codes(url: str) -> None:
    with connect_sync(url) as conn:
        conn.send("close 4000")
        with pytest.raises(ConnectionClosed, match=r"4000 \(reason\)") as caught:
            list(conn)
        assert caught.value.code == 4000


def test_a_timeout_loses_no_message(url: str) -> None:
    with connect_sync(url) as conn:
        for timeout in (0.01, 0):
            with pytest.raises(TimeoutError, match=rf"no message within {timeout} seconds"):
                conn.receive(timeout=timeout)
        conn.send("one")
        assert conn.receive() == "one"


def test_pings_are_answered_while_the_program_is_busy(server: Program, url: str) -> None:
    with connect_sync(f"{url}pinged") as conn:
        deadline, pongs = time.monotonic() + GUARD, 0
        while pongs < 3:
            assert time.monotonic() < deadline
            with urlopen(f"http://127.0.0.1:{server.port}/pongs", timeout=GUARD) as answer:
                pongs = int(answer.read())
        conn.send("still here")
        assert conn.receive(timeout=GUARD) == "still here"


def test_leaving_the_block_by_an_exception(server: Program, url: str) -> None:
    with pytest.raises(LookupError), connect_sync(url) as conn:
        raise LookupError
    assert (conn.close_code, conn.was_clean) == (1011, True)
    before = len(server.output)
    with pytest.raises(KeyboardInterrupt), connect_sync(url) as conn:
        raise KeyboardInterrupt
    server.until("closed 1006 False", before)
    assert threads() == 0


def test_after_close(url: str) -> None:
    conn = connect_sync(url)
    conn.send("unread")
    conn.close(4000, "enough")
    conn.close()
    assert (conn.close_code, conn.close_reason) == (4000, "enough")
    calls: list[Any] = [conn.receive, conn.ping, lambda: conn.send("a"), lambda: next(conn)]
    for call in calls:
        with pytest.raises(ConnectionClosed, match="4000"):
            call()


def test_mistakes(url: str) -> None:
    with connect_sync(url) as conn:
        with pytest.raises(TypeError):
            conn.send(3)
        with pytest.raises(ConfigurationError):
            conn.close(999)
        conn.send("still open")
        assert conn.receive() == "still open"
    with pytest.raises(ConfigurationError):
        connect_sync("http://localhost/")


def test_failing_to_connect(url: str) -> None:
    with pytest.raises(HandshakeError, match="403 Forbidden: no access"):
        connect_sync(f"{url}no")
    with silent() as sock:
        port = sock.getsockname()[1]
        with pytest.raises(HandshakeError, match="in time"):
            connect_sync(f"ws://127.0.0.1:{port}/", options=Options(handshake_timeout=0.5))
    with pytest.raises(OSError):  # noqa: PT011 - the text is the system's
        connect_sync(f"ws://127.0.0.1:{free_port()}/")
    assert threads() == 0


def test_several_threads(url: str) -> None:
    received: list[str | bytes] = []

    def send() -> None:
        for _ in range(25):
            conn.send("x")

    with connect_sync(url) as conn:
        receiver = threading.Thread(target=lambda: received.extend(conn.receive() for _ in range(100)))
        receiver.start()
        senders = [threading.Thread(target=send) for _ in range(4)]
        for sender in senders:
            sender.start()
        for thread in (receiver, *senders):
            thread.join(GUARD)
    assert received == ["x"] * 100


def test_two_threads_cannot_receive_at_once(url: str) -> None:
    with connect_sync(url) as conn:
        ended: list[Exception] = []

        def receive() -> None:
            try:
                conn.receive()
            except Exception as exc:
                ended.append(exc)

        waiting = threading.Thread(target=receive)
        waiting.start()
        while not conn._conn._inbox._receiving:
            time.sleep(0.001)
        with pytest.raises(ConfigurationError, match="receive from one connection"):
            conn.receive()
        conn.close(4001)  # it ends the call of the other thread
        waiting.join(GUARD)
        assert [type(exc) for exc in ended] == [ConnectionClosed]


def test_a_connection_that_is_forgotten(server: Program, url: str) -> None:
    conn = connect_sync(url)
    with pytest.warns(ResourceWarning, match="write `with connect_sync"):  # noqa: PT031 - both lines are needed
        del conn
        gc.collect()
    for thread in threading.enumerate():
        if thread.name == "pywsapp client":
            thread.join(GUARD)
    assert threads() == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork(url: str) -> None:
    program = f"""
import os
from pywsapp import ConfigurationError, connect_sync
conn = connect_sync({url!r})
if os.fork() == 0:
    try:
        conn.receive()
    except ConfigurationError as exc:
        print(exc, flush=True)
    conn.close()
    os._exit(0)
os.wait()
conn.send("parent")
print(conn.receive())
conn.close()
"""
    done = run(program)
    assert done.stdout.splitlines() == [
        "this connection belongs to the process that has opened it, not to its fork",
        "parent",
    ]


def run(program: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=True, env=environment)


def test_the_end_of_the_interpreter_closes_what_is_open(server: Program, url: str) -> None:
    before = len(server.output)
    done = run(f"from pywsapp import connect_sync\nconn = connect_sync({url!r})\nprint(conn.is_open)")
    assert (done.stdout, done.stderr) == ("True\n", "")
    server.until("closed 1001 True", before)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_ctrl_c(url: str) -> None:
    source = f"""
        from pywsapp import connect_sync
        with connect_sync({url!r}) as conn:
            try:
                print("waiting", flush=True)
                conn.receive()
            except KeyboardInterrupt:
                conn.send("after")
                print(conn.receive(), flush=True)
    """
    with Program(source) as program:
        program.until("waiting")
        program.send(signal.SIGINT)
        program.until("after")
        assert program.end() == 0


def test_the_type_is_public() -> None:
    assert SyncConnection.__doc__
