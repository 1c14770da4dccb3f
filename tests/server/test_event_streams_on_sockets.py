"""Event streams on real sockets: curl, clients that leave in any way, and what a client sends."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from support.event_client import EventClient
from support.services import find_program
from support.serving import GUARD
from support.transports import SERVER_TLS
from support.waiting import until_blocked

from pywsapp import App, Connection, Options, Request
from pywsapp._server.streams import limit_silence

pytestmark = [pytest.mark.anyio, pytest.mark.once]


@asynccontextmanager
async def running(app: App) -> AsyncIterator[int]:
    """Run an App; return its port."""
    app.rebind(port=0)
    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
            yield app.port
            app.stop()


@pytest.fixture
def app() -> App:
    app = App(options=Options(close_timeout=0.2))
    app.history("kept", size=10)
    app.events("/kept", topic="kept")
    app.events("/plain", topic="plain")
    return app


async def until_left(app: App, name: str) -> None:
    """Wait until a topic has no subscriber, and the App no connection."""
    while len(app.topic(name)) or app.stats().open_connections:  # noqa: ASYNC110 - nothing tells it
        await anyio.sleep(0.001)


async def test_curl_is_a_client(app: App) -> None:
    command = [find_program("curl", "curl"), "-sSN", "-H", "Last-Event-ID: 1-x"]
    async with running(app) as port:
        app.topic("kept").broadcast("one\ntwo")
        async with await anyio.open_process([*command, f"http://localhost:{port}/kept"]) as curl:
            assert curl.stdout is not None
            received = b""
            while b"data: two\n\n" not in received:
                received += await curl.stdout.receive()
            app.topic("kept").broadcast("three")
            while b"data: three\n\n" not in received:
                received += await curl.stdout.receive()
            app.stop()
            async for part in curl.stdout:
                received += part
            assert await curl.wait() == 0
    assert received.count(b"retry: ") == 2
    assert b"event: lost\n" in received


@pytest.mark.parametrize("leave", ["disconnect", "reset", "end"])
async def test_a_client_that_leaves_is_noticed_at_once(app: App, leave: str) -> None:
    async with running(app) as port, EventClient(port) as client:
        await client.open("/plain")
        assert len(app.topic("plain")) == 1
        getattr(client, leave)()
        await until_left(app, "plain")


@pytest.mark.parametrize("during", ["authenticate", "authorize"])
async def test_a_client_that_leaves_before_the_stream_begins(app: App, during: str) -> None:
    asked, released = anyio.Event(), anyio.Event()

    async def ask() -> str:
        asked.set()
        await released.wait()
        return "ana"

    async def authenticate(request: Request) -> str:
        return await ask() if during == "authenticate" else "ana"

    async def authorize(conn: Connection, action: str, topic: str) -> bool:
        return during == "authenticate" or bool(await ask())

    app.events("/asks", topic="plain", authenticate=authenticate, authorize=authorize)
    async with running(app) as port, EventClient(port) as client:
        await client.send(b"GET /asks HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.end()
        await asked.wait()
        await until_blocked()
        released.set()
        assert await client.read_to_end() == b""
        assert len(app.topic("plain")) == 0


async def test_what_a_client_sends_is_dropped_up_to_a_limit(app: App) -> None:
    async with running(app) as port, EventClient(port) as client:
        await client.open("/plain", trailing=b"x" * 1000)
        await client.send(b"y" * 60_000)
        app.topic("plain").broadcast("still here")
        assert await client.text() == "still here"
        await client.send(b"z" * 10_000)
        await until_left(app, "plain")


async def test_over_tls_with_a_large_message(app: App) -> None:
    app = App(tls=SERVER_TLS)
    app.events("/plain", topic="plain")
    message = "x" * 1_000_000
    async with running(app) as port:
        command = [find_program("curl", "curl"), "-sSNk", f"https://localhost:{port}/plain"]
        async with await anyio.open_process(command) as curl:
            assert curl.stdout is not None
            received = await curl.stdout.receive()
            app.topic("plain").broadcast(message)
            while not received.endswith(b"x\n\n"):
                received += await curl.stdout.receive()
            app.stop()
    assert f"data: {message}\n\n".encode() in received


@pytest.mark.skipif(sys.platform != "linux", reason="an option of Linux")
async def test_a_machine_that_is_gone_is_noticed(app: App) -> None:
    async with running(app) as port, EventClient(port) as client:
        await client.open("/plain")
        (conn,) = app.topic("plain")
        sock = conn._outbox.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 35_000  # keepalive and ping_timeout


class _NoSocket:
    def get_extra_info(self, name: str) -> None: ...


def test_other_transports_have_no_such_option() -> None:
    limit_silence(_NoSocket(), 1)  # type: ignore[arg-type]
