"""The time that an App takes to shut down: handlers that wait for a broker, and shutdown hooks that take their time."""

from __future__ import annotations

import signal
import socket
import sys

import anyio
import pytest
from support.program import Program
from support.serving import GUARD, TEXT, Recorder, frame
from support.wire import peer_of, running

from pywsapp import App, BrokerUnavailable, Connection

#: Seconds; shorter than the limits of 30 seconds that a test could reach by mistake.
SOON = 25


@pytest.mark.anyio
async def test_drain_does_not_wait_for_broadcasts_that_the_broker_does_not_accept() -> None:
    pytest.importorskip("redis")
    failures: list[Exception] = []

    class Chat(Recorder):
        async def on_message(self, conn: Connection, message: str | bytes) -> None:
            conn.send("begun")
            assert conn.app is not None
            try:
                await conn.app.topic("chat").broadcast(message)
            except BrokerUnavailable as exc:
                failures.append(exc)

        async def on_close(self, conn: Connection) -> None:
            await self.on_message(conn, "gone")

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))  # refuses connections, since it does not listen
        app = App("*", 0, broker=f"redis://127.0.0.1:{server.getsockname()[1]}")
        app.history("chat")
        app.route("/", Chat())
        with anyio.fail_after(GUARD):
            async with running(app), peer_of(app) as peer:
                await peer.open()
                await peer.send(frame(TEXT, b"hello"))
                assert await peer.frame() == (TEXT, b"begun")
                began = anyio.current_time()
                app.stop()
            assert anyio.current_time() - began < 10
    assert len(failures) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send")
@pytest.mark.parametrize("run", ["", "workers=2"])
def test_shutdown_hooks_have_their_own_time_each(run: str) -> None:
    source = f"""
import anyio, sys
from pywsapp import App, Options
from pywsapp._process import running, supervisor, worker_process
running._SPARE_SECONDS = running._BROKER_SECONDS = running._HANDSHAKE_GRACE = 0.2
supervisor._SPARE_SECONDS = worker_process._SPARE_SECONDS = 0.2

app = App("*", 0, options=Options(drain_timeout=2, on_close_timeout=0.1))

@app.on_startup
def add():
    for _ in range(7):
        app.on_shutdown(end)

async def end():
    await anyio.sleep(0.6)
    sys.stdout.write("ended\\n")

app.run({run})
"""
    with Program(source) as program:
        program.port  # noqa: B018 - waits until all listen
        program.send(signal.SIGTERM)
        assert program.end(SOON) == 0
    assert program.output.count("ended\n") == (14 if run else 7)
    assert "killed" not in program.output
