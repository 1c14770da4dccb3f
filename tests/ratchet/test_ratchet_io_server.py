"""Ratchet's IoServer: from a socket to the component. Here it has no name of its own; `App` and its listeners are it.

The component hears of a connection when its handshake is accepted, not when TCP connects.
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
    """IoServer 1: a wrong loop is refused; ours takes none anywhere, and says so when it is asked for one."""
    with pytest.raises(TypeError, match="loop"):
        App(loop=object())  # type: ignore[call-arg]


async def test_io_server_2_a_connection_opens_once() -> None:
    """IoServer 2: TCP alone opens there; ours opens once, with a Connection, when the handshake is accepted."""
    recorder = Recorder()
    app = routed(recorder)
    async with serving(app), connected(app) as peer:
        async with connected(app):  # who never says anything
            assert (await peer.shake()).status == 101
            await recorder.until("on_open")
        [(conn,)] = recorder.of("on_open")
        assert isinstance(conn, Connection)
    assert recorder.names == ["on_open", "on_close"]


@pytest.mark.parametrize("message", ["Hello World! ✓", b"\x00\xff"])
async def test_io_server_3_a_message_arrives_once_as_it_was_sent(message: str | bytes) -> None:
    """IoServer 3: what the client sends calls on_message once, with exactly that; bytes stay bytes."""
    recorder = Recorder()
    app = routed(recorder)
    async with serving(app), opened(app) as peer:
        await peer.send(message)
        await recorder.until("on_message")
        assert recorder.of("on_message") == [(recorder.of("on_open")[0][0], message)]


@pytest.mark.parametrize("how", ["close frame", "end of stream", "reset"])
async def test_io_server_4_the_clients_leaving_closes_once(how: str) -> None:
    """IoServer 4: a client that leaves, in whatever way, calls on_close once; ours knows how it was."""
    recorder = Recorder()
    app = routed(recorder)
    async with serving(app):
        async with opened(app) as peer:
            if how == "close frame":
                await peer.close(4000, "enough")
                assert await peer.hear() == Closed(4000, "")  # the code comes back, which is what RFC 6455 asks for
                await peer.end()
            elif how == "reset":
                await peer.reset()
        await recorder.until("on_close")
    assert recorder.names == ["on_open", "on_close"]
    [(conn,)] = recorder.of("on_close")
    expected = (4000, "enough", True) if how == "close frame" else (1006, "connection lost", False)
    assert (conn.close_code, conn.close_reason, conn.was_clean) == expected


async def test_io_server_5_a_free_port() -> None:
    """IoServer 5: factory(component, 0) gives a server; ours is an App whose `port` is the real one once it runs."""
    app = routed(Recorder())
    assert app.port == 0
    async with serving(app), opened(app):
        assert app.port > 0
        assert app.urls == [f"http://localhost:{app.port}"]


async def test_io_server_6_run_in_a_running_loop() -> None:
    """IoServer 6: run() without a loop is an error there; ours makes one, and is an error where one runs already."""
    with pytest.raises(ConfigurationError, match=r"app\.serve\(\)"):
        App(port=0).run()


@pytest.mark.parametrize("handler", ["on_open", "on_message", "on_close"])
async def test_io_server_7_and_8_an_exception_reaches_on_error_once(handler: str) -> None:
    """IoServer 7, IoServer 8: on_error gets the connection and the very exception, once.

    IoServer [src]: an exception in onOpen of what IoServer runs kills the process; ours none does.
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
            await recorder.until("on_message")  # on_error left the connection open, as in Ratchet
        await recorder.until("on_close")
        await recorder.until("on_error")
        async with opened(app):
            await recorder.until("on_open", 2)  # and the server lives
    [(conn, exc), *more] = recorder.of("on_error")
    assert (conn, exc) == (recorder.of("on_open")[0][0], failure)
    assert all(other is not conn for other, _ in more)


async def test_io_server_src_an_error_that_is_no_exception_of_the_program_is_caught_too() -> None:
    """IoServer [src]: a TypeError is no \\Exception in PHP and ended the process; here it is, and the server lives.

    The default on_error logs it and closes with 1011.
    """

    class Failing(Recorder):
        on_error = MessageComponent.on_error

        def on_message(self, conn: Connection, message: Any) -> Any:
            return message + 1

    app = routed(Failing())
    async with serving(app):
        async with opened(app) as peer:
            await peer.send("one")
            assert await peer.hear() == Closed(1011, "internal error")
        async with opened(app):
            pass


async def test_io_server_src_an_exception_in_on_error() -> None:
    """IoServer [src]: an exception in onError ends the process there; ours is logged and closes that connection."""

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
            assert await peer.hear() == Closed(1011, "internal error")
        async with opened(app):
            await recorder.until("on_open", 2)


async def test_io_server_src_a_close_in_on_open_leads_to_on_close() -> None:
    """IoServer [src]: close() in onOpen never leads to onClose there; ours promises one for every on_open."""

    class Closing(Recorder):
        def on_open(self, conn: Connection) -> None:
            super().on_open(conn)
            conn.close(4001, "full")

    recorder = Closing()
    app = routed(recorder)
    async with serving(app):
        async with opened(app) as peer:
            assert await peer.hear() == Closed(4001, "full")
        await recorder.until("on_close")
    assert recorder.names == ["on_open", "on_close"]


async def test_io_server_src_resource_id_and_remote_address() -> None:
    """IoServer [src]: remoteAddress is the IP alone; resourceId is `id`, which ours never gives twice."""
    recorder = Recorder()
    app = routed(recorder)
    ids = []
    async with serving(app):
        for number in (1, 2):
            async with opened(app):
                await recorder.until("on_open", number)
            await recorder.until("on_close", number)
            [conn] = recorder.of("on_open")[-1]
            assert conn.remote_address == "127.0.0.1"
            ids.append(conn.id)
    assert ids[0] < ids[1]
