"""Large frames leave in pieces, so that a peer that does not read makes no transport hold all of them."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trustme
from anyio.streams.tls import TLSStream
from hypothesis import given
from hypothesis import strategies as st
from support.serving import BINARY, CLOSE, GUARD, PING, Client, Pipe, Recorder, close_frame, frame

from pywsapp._server.bind import ListeningSocket
from pywsapp._server.server import Server
from pywsapp._transports.large_write import PIECE, LargeWrite
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection, broadcast
from pywsapp.options import Options, SlowConsumer

HIGH = 64 * 1024
LARGE = 3 * PIECE
LARGEST_BUFFER = HIGH + 2 * PIECE


def stuck(options: Options | None = None) -> Pipe:
    """Return a connection whose peer does not read."""
    pipe = Pipe(Recorder(), options)
    pipe.client.transport.pause_reading()
    return pipe


def read_on(pipe: Pipe) -> None:
    pipe.client.transport.resume_reading()
    for _ in range(50):
        pipe.turn()


@pytest.mark.parametrize("before", [[], ["small"], ["x" * 5000] * 3])
@pytest.mark.parametrize("message", [bytes(range(256)) * (LARGE // 256), "é" * (LARGE // 2)], ids=["bytes", "text"])
@pytest.mark.parametrize("send", ["send", "broadcast"])
def test_a_transport_gets_a_large_frame_in_pieces(send: str, message: Any, before: list[str]) -> None:
    pipe = stuck()
    for small in before:
        pipe.conn.send(small)
    pipe.conn.send(message) if send == "send" else broadcast([pipe.conn], message)
    pipe.conn.send("after")
    pipe.turn()
    assert HIGH < pipe.transport.get_write_buffer_size() <= LARGEST_BUFFER
    assert pipe.conn.buffered > LARGE  # the rest waits, and counts
    read_on(pipe)
    assert pipe.messages() == [*before, message, "after"]
    assert pipe.conn.buffered == 0
    assert pipe.lifecycle.machine.outbox.transport is not pipe.transport  # it is the recorder again
    assert not isinstance(pipe.lifecycle.machine.outbox.transport, LargeWrite)


def test_pings_and_pongs_wait_for_the_end_of_a_large_frame() -> None:
    pipe = stuck()
    pipe.conn.send(bytes(LARGE))
    pipe.host.flush()
    pipe.conn.ping(b"ours")
    pipe.lifecycle.data_received(frame(PING, b"theirs"))
    read_on(pipe)
    assert pipe.client.frames[0] == (BINARY, bytes(LARGE))
    assert sorted(payload for _, payload in pipe.client.frames[1:]) == [b"ours", b"theirs"]


@pytest.mark.parametrize("policy", SlowConsumer)
def test_a_policy_never_cuts_a_large_frame(policy: SlowConsumer) -> None:
    pipe = stuck(Options(max_outbox=HIGH, slow_consumer=policy))
    pipe.conn.send(bytes(LARGE))
    pipe.host.flush()
    for _ in range(5):
        pipe.conn.send(b"x" * (HIGH // 2))
        pipe.host.flush()
    read_on(pipe)
    assert pipe.client.frames[0] == (BINARY, bytes(LARGE))
    assert pipe.codes() == ([1013] if policy is SlowConsumer.CLOSE else [])


@pytest.mark.parametrize("how", ["close", "peer closes", "failure"])
def test_a_close_frame_waits_for_the_end_of_a_large_frame(how: str) -> None:
    pipe = stuck()
    pipe.conn.send(bytes(LARGE))
    pipe.host.flush()
    if how == "close":
        pipe.conn.close()
    else:
        pipe.lifecycle.data_received(close_frame() if how == "peer closes" else frame(CLOSE, b"x"))
    read_on(pipe)
    assert pipe.client.frames[0] == (BINARY, bytes(LARGE))
    assert pipe.codes() == [1002 if how == "failure" else 1000]


def test_an_abort_drops_the_rest_of_a_large_frame() -> None:
    pipe = stuck()
    pipe.conn.send(bytes(LARGE))
    pipe.host.flush()
    pipe.conn.abort()
    assert pipe.lifecycle.machine.outbox.transport.get_write_buffer_size() == 0
    pipe.conn.ping(b"too late")
    pipe.turn()
    assert pipe.conn.buffered == 0
    assert pipe.conn.close_code == 1006
    assert pipe.client.frames == []


@given(st.lists(st.sampled_from([1, 4000, HIGH, PIECE, 2 * PIECE - 1, 2 * PIECE + 11, LARGE]), max_size=6))
def test_messages_of_any_sizes_keep_their_order(sizes: list[int]) -> None:
    pipe = stuck(Options(max_outbox=1 << 30))
    messages = [bytes([number]) * size for number, size in enumerate(sizes)]
    for message in messages:
        pipe.conn.send(message)
    pipe.turn()
    assert pipe.transport.get_write_buffer_size() <= LARGEST_BUFFER + 1000
    read_on(pipe)
    assert pipe.messages() == messages


class Site(MessageComponent):
    """Keeps its connections."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []

    def on_open(self, conn: Connection) -> None:
        self.connections.append(conn)

    def on_close(self, conn: Connection) -> None:
        self.connections.remove(conn)


@asynccontextmanager
async def connected(site: Site, number: int, *, over_tls: bool) -> AsyncIterator[None]:
    """Serve a component, and connect clients that do not read; they are reset at the end."""
    authority = trustme.CA()
    tls, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(tls)
    authority.configure_trust(trusting)
    server, listening = Server(site, Options(max_outbox=1 << 30)), anyio.Event()

    async def started(_: Any) -> None:
        listening.set()

    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run, [ListeningSocket(port=0, tls=tls if over_tls else None)], started)
            await listening.wait()
            clients: list[Client] = []
            for _ in range(number):
                stream: Any = await anyio.connect_tcp("127.0.0.1", server.sockets[0].getsockname()[1])
                if over_tls:
                    stream = await TLSStream.wrap(
                        stream, hostname="localhost", ssl_context=trusting, standard_compatible=False
                    )
                clients.append(Client(stream))
                await clients[-1].handshake()
            yield
            for client in clients:
                await client.reset()
            while site.connections:
                await anyio.lowlevel.checkpoint()
            server.stop()


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


KINDS = pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])


@pytest.mark.anyio
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="only Linux says how much memory a process holds")
@pytest.mark.skipif("ASAN_OPTIONS" in os.environ, reason="AddressSanitizer holds freed memory back")
@KINDS
async def test_a_broadcast_to_peers_that_do_not_read_is_held_once(over_tls: bool) -> None:
    site, readers, message = Site(), 12, os.urandom(12 * 1024 * 1024)
    async with connected(site, readers, over_tls=over_tls):
        before = resident_bytes()
        broadcast(site.connections, message)
        while any(conn._outbox.is_writable for conn in site.connections):
            await anyio.lowlevel.checkpoint()
        held = resident_bytes() - before
    assert held < len(message) + readers * 2 * LARGEST_BUFFER


@pytest.mark.anyio
@KINDS
async def test_a_transport_queues_no_more_than_high_water_and_a_message(over_tls: bool) -> None:
    site, message = Site(), bytes(16 * 1024)
    async with connected(site, 1, over_tls=over_tls):
        [conn] = site.connections
        while conn._outbox.is_writable:
            conn.send(message)
            await anyio.lowlevel.checkpoint()
        assert conn._outbox.transport.get_write_buffer_size() <= HIGH + 2 * len(message)
