"""TLS: messages about wrong files, and connections that are served, refused or time out, on every event loop."""

from __future__ import annotations

import logging
import os
import random
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
import trustme
from anyio.abc import TaskGroup
from anyio.streams.tls import TLSAttribute, TLSStream
from cryptography.hazmat.primitives import serialization
from support.stream_protocols import Collector, Echo
from support.waiting import until_blocked

from pywsapp._server.accept import serve_sockets
from pywsapp._server.bind import ListeningSocket, bind
from pywsapp._server.connect import open_connection
from pywsapp._server.pending import PendingConnections
from pywsapp._server.tls import client_context, server_context
from pywsapp._server.tls_reload import as_server_tls, context_of
from pywsapp.exceptions import ConfigurationError
from pywsapp.options import Options

GUARD = 20
MIB = 1024 * 1024


@dataclass
class Files:
    """PEM files of one certificate authority and two certificates it has issued."""

    authority: Path
    certificate: Path
    key: Path
    both: Path
    encrypted_key: Path
    other_key: Path
    text: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    directory = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"open sesame"),
    )

    def file(name: str, content: bytes) -> Path:
        path = directory / name
        path.write_bytes(content)
        return path

    return Files(
        authority=file("authority.pem", authority.cert_pem.bytes()),
        certificate=file("certificate.pem", issued.cert_chain_pems[0].bytes()),
        key=file("key.pem", issued.private_key_pem.bytes()),
        both=file("both.pem", issued.private_key_and_cert_chain_pem.bytes()),
        encrypted_key=file("encrypted_key.pem", encrypted),
        other_key=file("other_key.pem", authority.issue_cert("localhost").private_key_pem.bytes()),
        text=file("text.txt", b"neither a certificate nor a key"),
    )


# --- contexts


def test_server_context(files: Files) -> None:
    for context in (
        server_context(files.certificate, files.key),
        server_context(str(files.certificate), str(files.key)),
        server_context(files.both),
        server_context(files.certificate, files.encrypted_key, "open sesame"),
        server_context(files.certificate, files.encrypted_key, lambda: b"open sesame"),
    ):
        assert context.protocol == ssl.PROTOCOL_TLS_SERVER
        assert context.num_tickets == 1
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.parametrize(
    ("options", "oldest", "is_warned"),
    [
        (0, ssl.TLSVersion.TLSv1_2, True),
        (ssl.OP_NO_RENEGOTIATION, ssl.TLSVersion.TLSv1_2, False),
        (0, ssl.TLSVersion.TLSv1_3, False),
    ],
)
def test_a_context_that_permits_renegotiation_is_warned_about(
    options: int, oldest: ssl.TLSVersion, is_warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options &= ~ssl.OP_NO_RENEGOTIATION
    context.options |= options
    context.minimum_version = oldest
    assert as_server_tls(context) is context
    assert [record.levelname for record in caplog.records] == ["WARNING"] * is_warned
    assert not is_warned or "OP_NO_RENEGOTIATION" in caplog.text


def test_client_context(files: Files) -> None:
    for context in (client_context(), client_context(files.authority), client_context(str(files.authority))):
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda f: server_context("/no/cert.pem", f.key), "the TLS certificate file '/no/cert.pem' does not exist"),
        (lambda f: server_context(f.certificate, "/no/key.pem"), "the TLS key file '/no/key.pem' does not exist"),
        (lambda f: server_context(f.text, f.key), "text.txt' has no PEM certificate"),
        (lambda f: server_context(f.certificate, f.text), "text.txt' has no PEM private key"),
        (lambda f: server_context(f.certificate, f.certificate), "certificate.pem' has no PEM private key"),
        (lambda f: server_context(f.key, f.key), "key.pem' has no PEM certificate"),
        (lambda f: server_context(f.certificate), "certificate.pem' has no private key: pass the file of the key too"),
        (lambda f: server_context(f.certificate, f.other_key), "TLS certificate and key do not belong together: "),
        (lambda f: server_context(f.certificate, f.encrypted_key), "the TLS key is encrypted: pass its password"),
        (lambda f: server_context(f.certificate, f.encrypted_key, "wrong"), "damaged, or the password is wrong: "),
        (lambda f: server_context(f.certificate.parent, f.key), "cannot be read: Is a directory"),
        (lambda f: client_context("/no/ca.pem"), "the TLS authority file '/no/ca.pem' does not exist"),
        (lambda f: client_context(f.text), "the TLS authority file '"),
        (lambda f: as_server_tls("/no/cert.pem"), "'/no/cert.pem' does not exist"),
        (lambda f: as_server_tls(client_context()), "SSLContext is a client's and cannot serve: create it with"),
        (lambda f: as_server_tls(cast("Any", (f.both,))), "(certificate file, key file), not tuple"),
        (lambda f: as_server_tls(cast("Any", True)), "(certificate file, key file), not bool"),
    ],
)
def test_wrong_files(make: Callable[[Files], object], text: str, files: Files) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        make(files)


def test_damaged_files(files: Files, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.pem"
    damaged.write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    with pytest.raises(ConfigurationError, match=r"is damaged, or the password is wrong: '.*damaged\.pem' and"):
        server_context(damaged, files.key)
    with pytest.raises(ConfigurationError, match=r"authority file '.*damaged\.pem' is damaged"):
        client_context(damaged)


def test_as_server_tls(files: Files) -> None:
    ready = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    assert as_server_tls(ready) is ready
    for given in (files.both, str(files.both), (files.certificate, files.key), (str(files.certificate), files.key)):
        assert context_of(as_server_tls(given)).protocol == ssl.PROTOCOL_TLS_SERVER


# --- connections


@dataclass
class Running:
    """A TLS server, its protocols in the order of their creation, and the task group for it and its clients."""

    address: tuple[str, int]
    protocols: list[Echo]
    tasks: TaskGroup


@asynccontextmanager
async def served(files: Files, handshake_timeout: float = GUARD) -> AsyncIterator[Running]:
    protocols: list[Echo] = []

    def make_protocol(_: object) -> Echo:
        protocols.append(Echo())
        return protocols[-1]

    def fail(exc: OSError) -> None:
        raise AssertionError(exc)

    sockets = bind(ListeningSocket(port=0))
    address = sockets[0].getsockname()
    context = server_context(files.certificate, files.key)
    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tasks:
            serving = await serve_sockets(
                sockets,
                context,
                make_protocol,
                tasks,
                pending=PendingConnections(Options(), 10**6, lambda: 0, 10**6),
                handshake_timeout=handshake_timeout,
                on_accept_error=fail,
            )
            try:
                yield Running(address, protocols, tasks)
            finally:
                serving.stop_accepting()
                tasks.cancel_scope.cancel()
                for protocol in protocols:
                    if protocol.transport is not None:
                        protocol.transport.abort()
        # uvloop closes transports later; it must finish before its event loop is closed.
        await until_blocked()


async def connect(server: Running, files: Files) -> TLSStream:
    return await anyio.connect_tcp(
        *server.address,
        ssl_context=client_context(files.authority),
        tls_hostname="localhost",
        tls_standard_compatible=False,
    )


async def echoes(stream: TLSStream, size: int) -> bool:
    message, received = os.urandom(size), bytearray()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.send, message)
        while len(received) < size:
            received += await stream.receive()
    return bytes(received) == message


async def read_to_end(sock: socket.socket) -> bytes:
    data = b""
    while True:
        await anyio.wait_readable(sock)
        try:
            piece = sock.recv(65536)
        except ConnectionResetError:
            piece = b""
        if not piece:
            return data
        data += piece


def silent_client(server: Running) -> socket.socket:
    sock = socket.create_connection(server.address)
    sock.setblocking(False)
    return sock


@pytest.mark.anyio
async def test_echo_over_tls(files: Files) -> None:
    async with served(files) as server:
        async with await connect(server, files) as client:
            assert await echoes(client, 1)
            assert await echoes(client, 8 * MIB)
            assert client.extra(TLSAttribute.alpn_protocol) == "http/1.1"
            transport = server.protocols[0].transport
            assert transport.get_extra_info("ssl_object").version() == client.extra(TLSAttribute.tls_version)
            assert transport.get_extra_info("peername")[0] == "127.0.0.1"
        await server.protocols[0].lost.wait()


@pytest.mark.anyio
async def test_close_sends_the_tls_closing_alert(files: Files) -> None:
    """A client that requires the closing handshake sees that no data is missing."""
    async with served(files) as server:
        client = await anyio.connect_tcp(
            *server.address, ssl_context=client_context(files.authority), tls_hostname="localhost"
        )
        assert await echoes(client, 1)
        server.protocols[0].transport.write(b"bye")
        server.protocols[0].transport.close()
        assert await client.receive() == b"bye"
        with pytest.raises(anyio.EndOfStream):
            await client.receive()
        await client.aclose()
        await server.protocols[0].lost.wait()


@pytest.mark.anyio
async def test_silent_peers_do_not_block_others_and_time_out(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    async with served(files, handshake_timeout=1.5) as server:
        silent = [silent_client(server) for _ in range(20)]
        async with await connect(server, files) as client:
            assert await echoes(client, 100)
            for sock in silent:
                assert await read_to_end(sock) == b""
                sock.close()
            assert await echoes(client, 100)
        made = [protocol for protocol in server.protocols if protocol.transport is not None]
        assert len(made) == 1
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    "request_",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01", bytes(300), random.Random(1).randbytes(3000)],
    ids=["http", "begun", "zeros", "random"],
)
async def test_a_client_without_tls_does_no_harm(
    request_: bytes, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(files) as server:
        sock = silent_client(server)
        sock.send(request_)
        sock.shutdown(socket.SHUT_WR)
        await read_to_end(sock)
        sock.close()
        async with await connect(server, files) as client:
            assert await echoes(client, 100)
        assert len([protocol for protocol in server.protocols if protocol.transport is not None]) == 1
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


@pytest.mark.anyio
async def test_a_client_that_trusts_no_authority_does_no_harm(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    async with served(files) as server:
        with pytest.raises(ssl.SSLError):
            await anyio.connect_tcp(*server.address, ssl_context=client_context(), tls_hostname="localhost")
        async with await connect(server, files) as client:
            assert await echoes(client, 100)
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


@pytest.mark.anyio
async def test_old_tls_is_refused(files: Files) -> None:
    old = client_context(files.authority)
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("DEFAULT@SECLEVEL=0")
    async with served(files) as server:
        with pytest.raises((OSError, anyio.BrokenResourceError)):
            await anyio.connect_tcp(*server.address, ssl_context=old, tls_hostname="localhost")


@pytest.mark.anyio
async def test_connect_over_tls(files: Files) -> None:
    protocol, message = Collector(), os.urandom(MIB)
    async with served(files) as server:
        host, port = server.address
        transport = await open_connection(
            lambda: protocol,
            host=host,
            port=port,
            tls=client_context(files.authority),
            server_hostname="localhost",
            task_group=server.tasks,
            timeout=GUARD,
        )
        assert protocol.transport is not None
        assert transport.get_extra_info("ssl_object") is not None
        transport.write(message)
        assert await protocol.until_received(len(message)) == message
        transport.close()
        await protocol.lost.wait()
        await server.protocols[0].lost.wait()


@pytest.mark.anyio
async def test_connect_verifies_the_name(files: Files) -> None:
    async with served(files) as server:
        host, port = server.address
        for name in ("example.com", None):
            tls = client_context(files.authority if name else None)
            with pytest.raises(ssl.SSLCertVerificationError):
                await open_connection(
                    Collector,
                    host=host,
                    port=port,
                    tls=tls,
                    server_hostname=name,
                    task_group=server.tasks,
                    timeout=GUARD,
                )


@pytest.mark.anyio
@pytest.mark.parametrize("answer", [None, b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_connect_to_a_server_without_tls(answer: bytes | None, files: Files) -> None:
    """A silent server makes the connection time out; one that closes or answers without TLS makes it fail."""
    with socket.create_server(("127.0.0.1", 0)) as server, anyio.fail_after(GUARD):
        host, port = server.getsockname()
        async with anyio.create_task_group() as tasks:

            async def reply() -> None:
                server.setblocking(False)
                await anyio.wait_readable(server)
                sock, _ = server.accept()
                with sock:
                    sock.setblocking(False)
                    await anyio.wait_readable(sock)
                    if answer is None:
                        await read_to_end(sock)
                    else:
                        sock.recv(65536)
                        sock.send(answer)

            tasks.start_soon(reply)
            with pytest.raises(TimeoutError if answer is None else OSError):
                await open_connection(
                    Collector,
                    host=host,
                    port=port,
                    tls=client_context(files.authority),
                    task_group=tasks,
                    timeout=GUARD if answer is not None else 0.3,
                )
