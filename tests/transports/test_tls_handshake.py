"""The handshake of TLS on sockets, and connections of TLS under pressure, on every event loop."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import pytest
import trustme
from anyio.abc import SocketStream
from anyio.streams.tls import TLSAttribute, TLSStream
from support.transports import (
    CLIENT_TLS,
    MIB,
    SERVER_TLS,
    TIMEOUT,
    Recorder,
    client_tls,
    connected,
    receive_exactly,
    secured,
    tcp_pair,
)
from support.waiting import until_blocked

from pywsapp._transports.large_write import PIECE, LargeWrite
from pywsapp._transports.socket import SocketTransport
from pywsapp._transports.tls import TlsTransport, secure

pytestmark = pytest.mark.anyio


@contextmanager
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = tcp_pair()
    with ours, theirs:
        for sock in (ours, theirs):
            sock.setblocking(False)
        yield ours, theirs


async def read(sock: socket.socket, size: int = 65536) -> bytes:
    await anyio.wait_readable(sock)
    return sock.recv(size)


async def until_shaken(client: TlsTransport, sock: socket.socket) -> None:
    """Do the client's part of a handshake, up to its last message, which is left to the caller."""
    is_complete = client.handshake()
    while not is_complete:
        sock.send(client.outgoing.read())
        is_complete = client.handshake(await read(sock))


@pytest.mark.parametrize("size", [1, 5000])
async def test_bytes_that_follow_the_handshake_at_once(size: int) -> None:
    """A client of TLS 1.3 sends its first request together with the end of its handshake."""
    client, protocol = TlsTransport(client_tls(ssl.TLSVersion.TLSv1_3), "localhost"), Recorder()
    with anyio.fail_after(TIMEOUT), sockets() as (ours, theirs):
        async with anyio.create_task_group() as tasks:

            async def serve() -> None:
                tls, received = await secure(ours, SERVER_TLS)
                assert len(received) > size
                tls.set_protocol(protocol)
                protocol.on_made = tls.pause_reading
                await SocketTransport(ours, tls, tasks, received).run()

            tasks.start_soon(serve)
            await until_shaken(client, theirs)
            client.ssl_object.write(bytes(size))
            theirs.send(client.outgoing.read())
            await protocol.until(lambda: protocol.events)
            await until_blocked()
            assert protocol.events == ["made"]
            protocol.transport.resume_reading()
            await protocol.until(lambda: len(protocol.received) == size)
            protocol.transport.abort()
    protocol.check()


async def test_a_peer_that_does_not_read_the_handshake() -> None:
    """The server waits, without using the processor, until its part of the handshake can be sent."""

    class Counting(socket.socket):
        sent = 0

        def send(self, *args: Any) -> int:
            Counting.sent += 1
            return super().send(*args)

    client, (plain, theirs) = TlsTransport(CLIENT_TLS, "localhost"), socket.socketpair()
    with anyio.fail_after(TIMEOUT), theirs, Counting(fileno=plain.detach()) as ours:
        for sock in (ours, theirs):
            sock.setblocking(False)
        unread = 0
        with suppress(BlockingIOError):
            while True:
                unread += ours.send(bytes(100))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(secure, ours, SERVER_TLS)
            client.handshake()
            theirs.send(client.outgoing.read())
            Counting.sent = 0
            for _ in range(5):
                await until_blocked()
            assert Counting.sent <= 2
            while unread:
                unread -= len(await read(theirs, min(unread, 65536)))
            await until_blocked()
            is_complete = False
            while not is_complete:
                is_complete = client.handshake(await read(theirs))
            theirs.send(client.outgoing.read())


@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize("begin", [b"", b"\x16\x03\x01"])
async def test_a_peer_that_closes_during_the_handshake(role: str, begin: bytes) -> None:
    with anyio.fail_after(TIMEOUT), sockets() as (ours, theirs):
        theirs.send(begin)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionResetError, match="closed the connection during the TLS handshake"):
            await (secure(ours, SERVER_TLS) if role == "server" else secure(ours, CLIENT_TLS, "localhost"))


async def test_the_server_says_why_it_refuses() -> None:
    """The client reads an alert, and not only that the connection has ended."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = trustme.CA()
    authority.issue_cert("localhost").configure_cert(context)
    context.verify_mode = ssl.CERT_REQUIRED
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with anyio.fail_after(TIMEOUT), sockets() as (ours, theirs):
        client = await SocketStream.from_socket(theirs)
        async with anyio.create_task_group() as tasks:

            async def serve() -> None:
                with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
                    await secure(ours, context)
                ours.shutdown(socket.SHUT_WR)

            tasks.start_soon(serve)
            stream = await TLSStream.wrap(client, hostname="localhost", ssl_context=trusting, standard_compatible=False)
            with pytest.raises(ssl.SSLError, match=r"(?i)alert.*certificate.*required"):
                await stream.receive()
        await anyio.aclose_forcefully(client)


async def test_server_name_client_certificate_and_alpn() -> None:
    authority, names = trustme.CA(), []
    context, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    context.sni_callback = lambda _, name, __: names.append(name)
    authority.configure_trust(trusting)
    authority.issue_cert("client@example.com").configure_cert(trusting)
    for each in (context, trusting):
        each.set_alpn_protocols(["http/1.1"])
    with anyio.fail_after(TIMEOUT), sockets() as (ours, theirs):
        (server, _), client = await secured(ours, await SocketStream.from_socket(theirs), trusting, context)
        assert names == ["localhost"]
        assert client.extra(TLSAttribute.alpn_protocol) == server.ssl_object.selected_alpn_protocol() == "http/1.1"
        assert server.get_extra_info("peercert")["subjectAltName"] == (("email", "client@example.com"),)
        await anyio.aclose_forcefully(client)


async def test_a_large_message_to_a_slow_reader_stays_within_the_limits() -> None:
    protocol, size, sizes = Recorder(), 16 * MIB, []
    async with connected("tls", protocol) as connection:
        large = LargeWrite(connection.transport, PIECE)
        connection.transport.set_write_buffer_limits(high=65536)

        def send() -> None:
            protocol.events.append("resume")
            while protocol.events[-1] != "pause" and large.send_piece():
                sizes.append(connection.transport.get_write_buffer_size())

        protocol.resume_writing = send  # type: ignore[method-assign]
        large.write(bytes(size))
        large.send_piece()
        while protocol.events[-1] != "pause" and large.send_piece():
            pass
        received = 0
        while received < size:
            received += len(await receive_exactly(connection.peer, min(100_000, size - received)))
            await until_blocked()
    assert max(sizes) <= 65536 + PIECE + 1024
