"""The likeliest mistakes of a beginner, and the message that each of them gets; docs/howto/fix-common-mistakes.md.

Each test runs the code that a beginner writes, and compares the whole message. The page quotes the same messages.
"""

from __future__ import annotations

import inspect
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from support.program import Program, every_backend
from support.serving import CLOSE, GUARD, TEXT, frame
from support.wire import handshake, peer_of, running

from pywsapp import App, ConfigurationError, Connection, MessageComponent, connect

PAGE = Path(__file__).parent.parent.parent / "docs" / "howto" / "fix-common-mistakes.md"
NORMAL_CLOSE = frame(CLOSE, b"\x03\xe8")
has_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send")


def on_the_page(*changes: tuple[str, str]) -> list[str]:
    """Return the messages that the page quotes, with what differs in a test replaced."""
    messages = re.findall(r"^```text\n(.*?)\n```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(messages) >= 10
    for written, here in changes:
        messages = [message.replace(written, here) for message in messages]
    return messages


def logged(caplog: pytest.LogCaptureFixture) -> Iterator[str]:
    """Return the lines of the log, and the exceptions in it."""
    for record in caplog.records:
        yield record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            yield str(record.exc_info[1])


# -- when the program starts -------------------------------------------------------------------------------------------


def test_a_coroutine_function_as_component() -> None:
    app: Any = App("localhost", 0)
    with pytest.raises(ConfigurationError) as raised:

        @app.route("/chat")  # type: ignore[untyped-decorator]
        async def chat(conn: Any) -> None:
            async for message in conn:
                await conn.send(message)

    assert str(raised.value) in on_the_page(("def chat", f"def {inspect.stack()[0].function}.<locals>.chat"))


def test_a_misspelt_hook() -> None:
    class Chat(MessageComponent):
        def on_mesage(self, conn: Connection, message: Any) -> None:
            conn.send(message)

    with pytest.raises(ConfigurationError) as raised:
        App("localhost", 0).route("/chat", Chat())
    assert str(raised.value) in on_the_page()


def test_an_address_as_the_first_argument() -> None:
    with pytest.raises(ConfigurationError) as raised:
        App("0.0.0.0", 0)
    assert str(raised.value) in on_the_page()


@has_signals
@every_backend
def test_a_port_in_use(run: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Program(f"from pywsapp import App\nApp('localhost', {port}).run({run})") as program:
            assert program.end() == 1
    error = program.output.splitlines()[-1]
    assert error.removeprefix("pywsapp.exceptions.ConfigurationError: ") in on_the_page(("8080", str(port)))


@has_signals
def test_an_app_that_runs_while_it_is_imported(tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text("from pywsapp import App\napp = App('localhost', 0)\napp.run()\n")
    with Program(["-m", "pywsapp", "run", "chat"], cwd=tmp_path) as program:
        assert program.end() == 1
    assert program.output.removeprefix("pywsapp: ").rstrip("\n") in on_the_page()


@pytest.mark.anyio
async def test_a_loop_that_runs_already() -> None:
    with pytest.raises(ConfigurationError) as raised:
        App("localhost", 0).run()
    assert str(raised.value) in on_the_page()


# -- when a message comes ----------------------------------------------------------------------------------------------


async def talk(
    component: MessageComponent, caplog: pytest.LogCaptureFixture, then: bytes = b""
) -> tuple[int, list[str]]:
    """Send a message to a component; return the code that the connection closes with, and the log."""
    app = App("localhost", 0)
    app.route("/", component)
    async with running(app), peer_of(app) as peer:
        await peer.open(trailing=frame(TEXT, b"hello") + then)
        opcode, payload = await peer.frame()
        assert opcode == CLOSE
    return int.from_bytes(payload[:2], "big"), list(logged(caplog))


def found(log: list[str], *changes: tuple[str, str]) -> list[str]:
    """Return the messages of the page that are in the log."""
    return [message for message in on_the_page(*changes) if message in log]


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_a_returned_reply(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    class Chat(MessageComponent):
        def on_message(self, conn: Connection, message: Any) -> str:
            return "hello"

    if kind == "async def":

        class Chat(MessageComponent):  # type: ignore[no-redef]
            async def on_message(self, conn: Connection, message: Any) -> str:
                await anyio.lowlevel.checkpoint()
                return "hello"

    code, log = await talk(Chat(), caplog, then=NORMAL_CLOSE)
    assert (code, len(found(log))) == (1000, 1)


@pytest.mark.anyio
async def test_a_dict_as_message(caplog: pytest.LogCaptureFixture) -> None:
    class Chat(MessageComponent):
        def on_message(self, conn: Connection, message: Any) -> None:
            conn.send({"text": message})

    code, log = await talk(Chat(), caplog)
    assert (code, len(found(log))) == (1011, 1)


@pytest.mark.anyio
async def test_an_attribute_on_a_connection(caplog: pytest.LogCaptureFixture) -> None:
    class Chat(MessageComponent):
        def on_message(self, conn: Connection, message: Any) -> None:
            conn.name = message  # type: ignore[attr-defined]

    code, log = await talk(Chat(), caplog)
    # the name of the class is with its module in the compiled build
    assert (code, len(found(log) + found(log, ("'pywsapp.connection.", "'")))) == (1011, 1)


@pytest.mark.anyio
async def test_a_connection_in_another_thread(caplog: pytest.LogCaptureFixture) -> None:
    class Chat(MessageComponent):
        async def on_message(self, conn: Connection, message: Any) -> None:
            await anyio.to_thread.run_sync(conn.send, message)

    code, log = await talk(Chat(), caplog)
    assert (code, len(found(log))) == (1011, 1)


@pytest.mark.anyio
async def test_a_handler_that_blocks(caplog: pytest.LogCaptureFixture) -> None:
    class Chat(MessageComponent):
        async def on_message(self, conn: Connection, message: Any) -> None:
            end = time.monotonic() + GUARD
            while not caplog.records and time.monotonic() < end:
                time.sleep(0.01)  # noqa: ASYNC251 - the mistake

    line = inspect.getsourcelines(Chat.on_message)[1]
    _, log = await talk(Chat(), caplog, then=NORMAL_CLOSE)
    written, places = "Chat.on_message (/srv/chat.py:31)", range(line, line + 4)
    code = Chat.on_message.__code__
    name = getattr(code, "co_qualname", code.co_name)  # Python 3.10 knows the name of the method only
    here = [f"{name} ({__file__}:{place})" for place in places]
    assert sum(len(found(log, (written, place))) for place in here) == 1, log


@pytest.mark.anyio
async def test_a_topic_without_a_history(caplog: pytest.LogCaptureFixture) -> None:
    class Chat(MessageComponent):
        async def on_message(self, conn: Connection, message: Any) -> None:
            assert conn.app is not None
            await conn.app.topic("room:1").recover(conn, None)

    code, log = await talk(Chat(), caplog)
    assert (code, len(found(log))) == (1011, 1)


@pytest.mark.anyio
async def test_a_new_session_on_an_open_connection(caplog: pytest.LogCaptureFixture) -> None:
    class Counter(MessageComponent):
        async def on_message(self, conn: Connection, message: Any) -> None:
            conn.session["messages"] = 1
            await conn.session.save()

    app = App("localhost", 0, session_store="memory")
    app.route("/counter", Counter())
    async with running(app), peer_of(app) as peer:
        await peer.open("/counter")
        await peer.send(frame(TEXT, b"hello"))
        await peer.receive_close()
    assert set(logged(caplog)) & set(on_the_page())


# -- when a client connects --------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_page_of_another_origin(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    app = App("localhost", 0)
    app.route("/", MessageComponent())
    async with running(app), peer_of(app) as peer:
        port = str(app.port)
        await peer.send(handshake(origin="http://localhost:3000", host=f"localhost:{port}"))
        answer = await peer.response()
    assert (answer.status, answer.body) == (403, b"this origin is not allowed here\n")
    assert len(found(list(logged(caplog)), ("8080", port))) == 1


@pytest.mark.anyio
async def test_a_client_without_async_with() -> None:
    with pytest.raises(ConfigurationError) as raised:
        await connect("ws://localhost:8080/echo")  # type: ignore[misc]
    assert str(raised.value) in on_the_page()
