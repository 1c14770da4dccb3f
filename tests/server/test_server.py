"""The server: several listeners, and the kinds of shutdown."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trustme
from anyio.streams.tls import TLSStream
from support.services import free_port
from support.serving import CLOSE, GUARD, Recorder, close_frame
from support.waiting import until_blocked
from support.wire import Peer, Site, get, handshake, peer_of, serving

from pywsapp import ConfigurationError, Connection, EchoServer, MessageComponent, Options, Response
from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp._limits.connection_limits import ConnectionLimits
from pywsapp._outbox.awaitables import LazyCoroutine
from pywsapp._server import upgrade
from pywsapp._server.bind import ListeningSocket
from pywsapp._server.server import Server

try:
    import resource
except ImportError:
    resource = None  # type: ignore[assignment]

pytestmark = pytest.mark.anyio

SHORT_TIMEOUTS = Options(close_timeout=0.1, drain_timeout=0.3, on_close_timeout=0.2)


def port_of(server: Server, number: int) -> int:
    return int(server.addresses[number][1].rpartition(":")[2])


# -- listening ---------------------------------------------------------------------------------------------------------


async def test_several_listeners(tmp_path: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(tls)
    path = str(tmp_path / "socket")
    listeners = [ListeningSocket(port=0), ListeningSocket(port=0, tls=tls), ListeningSocket(unix_path=path)]
    async with serving(EchoServer(), listeners=listeners) as server:
        assert [listener for listener, _ in server.addresses] == listeners
        assert server.addresses[2][1] == f"unix:{path}"
        async with peer_of(server) as peer:
            await peer.open()
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        async with Peer(sock) as peer:
            await peer.open()
    assert len(server.addresses) == 3, "they are kept after the end"


async def test_no_socket_stays_open_if_one_listener_fails() -> None:
    free = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = Server(EchoServer(), Options())
        with pytest.raises(ConfigurationError, match="in use"):
            await server.run([ListeningSocket(port=free), ListeningSocket(port=taken.getsockname()[1])])
        socket.create_server(("127.0.0.1", free)).close()


async def test_date_field_is_now() -> None:
    async with serving(Site()) as server, peer_of(server) as peer:
        await peer.send(get())
        answer = await peer.response()
    assert abs(parsedate_to_datetime(answer.headers["date"]).timestamp() - time.time()) < 5


@pytest.mark.skipif(resource is None, reason="there is no such limit on Windows")
def test_max_connections_reserves_files() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert 0 < Server(EchoServer(), Options()).max_connections < (soft if soft != resource.RLIM_INFINITY else 10**9)
    assert Server(EchoServer(), Options(), ConnectionLimits(max_connections=7)).max_connections == 7


# -- draining ----------------------------------------------------------------------------------------------------------


async def test_drain_closes_all_connections(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pywsapp")
    component = Recorder()
    async with serving(component) as server, AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(peer_of(server)) for _ in range(150)]
        for peer in peers:
            await peer.open()
        server.stop()
        for peer in peers:
            assert await peer.receive_close() == (1012, "service restart")
    assert component.calls.count(("close", 1012, "service restart", True)) == 150
    assert caplog.messages == ["draining 150 connections"]


async def test_a_connection_that_cannot_be_closed_does_not_keep_others_open(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG, "pywsapp")
    failed: list[Lifecycle] = []

    class Failing(Lifecycle):
        def close(self, code: int, reason: str) -> LazyCoroutine[None]:
            if not failed:
                failed.append(self)
                raise AttributeError("the transport is half gone")
            return super().close(code, reason)

    monkeypatch.setattr(upgrade, "Lifecycle", Failing)
    async with serving(Recorder(), SHORT_TIMEOUTS) as server, AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(peer_of(server)) for _ in range(5)]
        for peer in peers:
            await peer.open()
        server.stop()
        ends = [await peer.read_to_end() for peer in peers]
    assert [end[:1] for end in ends].count(b"\x88") == 4, "the others get a close frame"
    assert "closing a connection failed" in caplog.messages


async def test_drain_stops_accepting_first() -> None:
    async with serving(EchoServer()) as server, peer_of(server) as peer, peer_of(server) as silent:
        await peer.open()
        await until_blocked()
        server.stop()
        assert await silent.read_to_end() == b"", "a connection without a request is closed"
        with pytest.raises(ConnectionRefusedError):
            peer_of(server)
        assert (await peer.receive_close())[0] == 1012


async def test_drain_waits_for_a_response() -> None:
    go_on = anyio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"one"
        await go_on.wait()
        yield b"two"

    site = Site(lambda request: Response(body(), content_length=6))
    async with serving(site) as server, peer_of(server) as peer:
        await peer.send(get())
        await peer.head()
        assert await peer.exactly(3) == b"one"
        server.stop()
        while not server.draining:
            await anyio.lowlevel.checkpoint()
        go_on.set()
        assert await peer.read_to_end() == b"two"


async def test_peer_that_does_not_answer_the_close_is_dropped() -> None:
    component = Recorder()
    options = Options(close_timeout=0.1)
    async with serving(component, options) as server, peer_of(server) as peer:
        await peer.open()
        server.stop()
        assert (await peer.frame())[0] == CLOSE
        with anyio.fail_after(GUARD / 2):
            await component.until_called("close")
    assert component.calls[-1] == ("close", 1012, "service restart", False)


async def test_handler_that_hangs_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    class Hangs(Recorder):
        async def on_message(self, conn: Connection, message: Any) -> None:
            self.record("message")
            try:
                await anyio.sleep_forever()
            finally:
                self.record("cancelled")

    component = Hangs()
    async with serving(component, SHORT_TIMEOUTS) as server, peer_of(server) as peer:
        await peer.open()
        await peer.send(b"\x81\x80\0\0\0\0")
        await component.until_called("message")
        server.stop()
    assert component.names() == ["open", "message", "cancelled", "close"]
    assert "1 connections did not end in time and are aborted" in caplog.messages


async def test_cancelled_server_aborts_its_connections() -> None:
    component = Recorder()
    server = Server(component, Options())
    listening = anyio.Event()

    async def started(_: Any) -> None:
        listening.set()

    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run, [ListeningSocket(port=0)], started)
            await listening.wait()
            peer = peer_of(server)
            await peer.open()
            await component.until_called("open")
            tasks.cancel_scope.cancel()
        assert await peer.read_to_end() == b""
        peer.disconnect()
        with pytest.raises(ConnectionRefusedError):
            peer_of(server)
    assert [call[:2] for call in component.calls] == [("open",), ("close", 1006)]


async def test_drain_does_not_wait_for_a_tls_handshake() -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(tls)
    with anyio.fail_after(GUARD):
        options = Options(handshake_timeout=1000)
        async with serving(EchoServer(), options, listeners=[ListeningSocket(port=0, tls=tls)]) as server:
            peer = peer_of(server)
            await peer.send(b"\x16\x03\x01")
            for _ in range(50):
                await anyio.lowlevel.checkpoint()
    peer.disconnect()


async def test_connection_that_begins_during_the_drain_is_closed() -> None:
    go_on = anyio.Event()

    async def body() -> AsyncIterator[bytes]:
        await go_on.wait()
        yield b"one"

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = trustme.CA()
    authority.issue_cert("localhost").configure_cert(tls)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    site = Site(lambda request: Response(body(), content_length=3))
    listeners = [ListeningSocket(port=0), ListeningSocket(port=0, tls=tls)]
    async with serving(site, listeners=listeners) as server, peer_of(server) as peer:
        await peer.send(get())
        await peer.head()
        late = await anyio.connect_tcp("127.0.0.1", port_of(server, 1))
        await until_blocked()
        server.stop()
        while not server.draining:
            await anyio.lowlevel.checkpoint()
        with contextlib.suppress(
            anyio.BrokenResourceError
        ):  # if the end of the connection overtakes the end of the handshake
            async with await TLSStream.wrap(late, hostname="localhost", ssl_context=trusting) as stream:
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await stream.receive()
        await anyio.aclose_forcefully(late)
        while len(server.runtime.connections) > 1:
            await anyio.lowlevel.checkpoint()
        go_on.set()
        assert await peer.read_to_end() == b"one"


async def test_handler_may_stop_the_server() -> None:
    class Stops(MessageComponent):
        def on_message(self, conn: Connection, message: Any) -> None:
            server.stop()

    async with serving(Stops()) as server, peer_of(server) as peer:
        await peer.open(trailing=b"\x81\x80\0\0\0\0")
        assert (await peer.receive_close())[0] == 1012


async def test_server_runs_again() -> None:
    server = Server(EchoServer(), Options())
    for _ in range(2):
        listening = anyio.Event()

        async def started(_: Any, listening: anyio.Event = listening) -> None:
            listening.set()

        with anyio.fail_after(GUARD):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.run, [ListeningSocket(port=0)], started)
                await listening.wait()
                async with peer_of(server) as peer:
                    await peer.send(handshake() + close_frame(1000))
                    assert (await peer.head())[0] == 101
                    assert (await peer.frame())[0] == CLOSE
                server.stop()
