"""Ratchet's IoServer: from a socket to the component. Here `App` and its listening sockets do its work.

The component gets on_open when the handshake is accepted, not when TCP connects.
"""

from __future__ import annotations

from typing import Any

import pytest
from support.ratchet_peer import Closed, Recorder, connected, opened, serving

from pywsapp import App, ConfigurationError, Connection, MessageComponent

pytestmark = pytest.mark.anyio


def routed(component: Recorder) -> App:
    app = App(port=0)
    app.route("/", component)
    return app


def test_io_server_1_there_is_no_loop_to_pass() -> None:
    """IoServer 1: Ratchet refuses a wrong loop; here no method accepts a loop."""
    with pytest.raises(TypeError, match="loop"):
        App(loop=object())  # type: ignore[call-arg]


async def test_io_server_2_a_connection_opens_once() -> None:
    """IoServer 2: in Ratchet TCP opens the connection; here the accepted handshake does, once."""
    recorder = Recorder()
    app = routed(recorder)
    async with serving(app), connected(app) as peer:
        async with connected(app):  # a client that sends nothing
            assert (await peer.handshake()).status == 101
            await recorder.until_called("on_open")
        [(conn,)] = recorder.arguments_of("on_open")
        assert isinstance(conn, Connection)
    assert recorder.names == ["on_open", "on_close"]


@pytest.mark.parametrize("message", ["Hello World! ✓", b"\x00\xff"])
async def test_io_server_3_a_message_arrives_once_as_it_was_sent(message: str | bytes) -> None:
    """IoServer 3: each message of the client leads to one call of on_message with that message; bytes stay bytes."""
    recorder = Recorder()
    app = routed(recorder)
    async with serving(app), opened(app) as peer:
        await peer.send(message)
        await recorder.until_called("on_message")
        assert recorder.arguments_of("on_message") == [(recorder.arguments_of("on_open")[0][0], message)]


@pytest.mark.parametrize("how", ["close frame", "end of stream", "reset"])
async def test_io_server_4_the_end_of_a_client_calls_on_close_once(how: str) -> None:
    """IoServer 4: on_close is called once however a client ends the connection; here the connection has the reason."""
    recorder = Recorder()
    app = routed(recorder)
    async with serving(app):
        async with opened(app) as peer:
            if how == "close frame":
                await peer.close(4000, "enough")
                assert await peer.receive() == Closed(4000, "")  # the server echoes the code (RFC 6455, section 5.5.1)
                await peer.read_to_end()
            elif how == "reset":
                await peer.reset()
        await recorder.until_called("on_close")
    assert recorder.names == ["on_open", "on_close"]
    [(conn,)] = recorder.arguments_of("on_close")
    expected = (4000, "enough", True) if how == "close frame" else (1006, "connection lost", False)
    assert (conn.close_code, conn.close_reason, conn.was_clean) == expected


async def test_io_server_5_a_free_port() -> None:
    """IoServer 5: factory(component, 0) uses a free port; here `App.port` is that port while the App runs."""
    app = routed(Recorder())
    assert app.port == 0
    async with serving(app), opened(app):
        assert app.port > 0
        assert app.urls == [f"http://localhost:{app.port}"]


async def test_io_server_6_run_fails_in_a_running_loop() -> None:
    """IoServer 6: Ratchet's run() fails without a loop; here it makes one, and fails if a loop is running."""
    with pytest.raises(ConfigurationError, match=r"app\.serve\(\)"):
        App(port=0).run()


@pytest.mark.parametrize("handler", ["on_open", "on_message", "on_close"])
async def test_io_server_7_and_8_an_exception_reaches_on_error_once(handler: str) -> None:
    """IoServer 7, IoServer 8: on_error gets the connection and the exception object, once.

    IoServer [src]: in Ratchet an exception in onOpen can end the process; here no exception does.
    """
    failure = RuntimeError("boom")

    class Failing(Recorder):
        def record(self, *call: Any) -> None:
            super().record(*call)
            if call[0] == handler:
                raise failure

    recorder = Failing()
    app = routed(recorder)
    async with serving(app):
        async with opened(app) as peer:
            await peer.send("hello")
            await recorder.until_called("on_message")  # on_error does not close the connection, as in Ratchet
        await recorder.until_called("on_close")
        await recorder.until_called("on_error")
        async with opened(app):
            await recorder.until_called("on_open", 2)  # the server still accepts connections
    [(conn, exc), *more] = recorder.arguments_of("on_error")
    assert (conn, exc) == (recorder.arguments_of("on_open")[0][0], failure)
    assert all(other is not conn for other, _ in more)


async def test_io_server_src_a_type_error_is_caught_too() -> None:
    """IoServer [src]: in PHP a TypeError is no \\Exception, and ends the process; here it is an exception like others.

    The default on_error logs it and closes the connection with 1011.
    """

    class Failing(Recorder):
        on_error = MessageComponent.on_error

        def on_message(self, conn: Connection, message: Any) -> Any:
            return message + 1

    app = routed(Failing())
    async with serving(app):
        async with opened(app) as peer:
            await peer.send("one")
            assert await peer.receive() == Closed(1011, "internal error")
        async with opened(app):
            pass


async def test_io_server_src_an_exception_in_on_error() -> None:
    """IoServer [src]: in Ratchet an exception in onError ends the process; here it closes that connection."""

    class Failing(Recorder):
        def on_message(self, conn: Connection, message: Any) -> Any:
            raise LookupError("first")

        def on_error(self, conn: Connection, exc: Exception) -> None:
            raise LookupError("second")

    recorder = Failing()
    app = routed(recorder)
    async with serving(app):
        async with opened(app) as peer:
            await peer.send("hello")
            assert await peer.receive() == Closed(1011, "internal error")
        async with opened(app):
            await recorder.until_called("on_open", 2)


async def test_io_server_src_a_close_in_on_open_leads_to_on_close() -> None:
    """IoServer [src]: in Ratchet close() in onOpen does not lead to onClose; here every on_open has its on_close."""

    class Closing(Recorder):
        def on_open(self, conn: Connection) -> None:
            super().on_open(conn)
            conn.close(4001, "full")

    recorder = Closing()
    app = routed(recorder)
    async with serving(app):
        async with opened(app) as peer:
            assert await peer.receive() == Closed(4001, "full")
        await recorder.until_called("on_close")
    assert recorder.names == ["on_open", "on_close"]


async def test_io_server_src_resource_id_and_remote_address() -> None:
    """IoServer [src]: remoteAddress is the IP address alone; resourceId is `id` here, and is never reused."""
    recorder = Recorder()
    app = routed(recorder)
    ids = []
    async with serving(app):
        for number in (1, 2):
            async with opened(app):
                await recorder.until_called("on_open", number)
            await recorder.until_called("on_close", number)
            [conn] = recorder.arguments_of("on_open")[-1]
            assert conn.remote_address == "127.0.0.1"
            ids.append(conn.id)
    assert ids[0] < ids[1]
