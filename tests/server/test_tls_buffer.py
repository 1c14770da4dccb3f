"""TLS connections of one selector loop share a read buffer, and nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from support.serving import TEXT, Client, frame
from support.transports import connect_tls
from support.wire import serving_tls

from pywsapp._transports import tls_buffer
from pywsapp._transports.tls_buffer import share_read_buffer
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection

pytestmark = pytest.mark.anyio

SHARES = (3, 11) <= sys.version_info < (3, 14)


class Echo(MessageComponent):
    """Sends every message back."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []

    def on_open(self, conn: Connection) -> None:
        self.connections.append(conn)

    def on_message(self, conn: Connection, message: str | bytes) -> Any:
        return conn.send(message)


@asynccontextmanager
async def clients(site: Echo, number: int) -> AsyncIterator[list[Client]]:
    async with serving_tls(site) as server:
        port = server.sockets[0].getsockname()[1]
        connected = [Client(await connect_tls(port)) for _ in range(number)]
        for client in connected:
            await client.handshake()
        yield connected
        for client in connected:
            await client.reset()


def buffers(site: Echo) -> list[Any]:
    transports: list[Any] = [conn._outbox.transport for conn in site.connections]
    return [getattr(getattr(transport, "_ssl_protocol", None), "_ssl_buffer", None) for transport in transports]


async def test_selector_loops_have_one_read_buffer(anyio_backend: tuple[str, dict[str, bool]]) -> None:
    site = Echo()
    async with clients(site, 3):
        found = buffers(site)
        if SHARES and anyio_backend == ("asyncio", {"use_uvloop": False}):
            assert isinstance(found[0], bytearray)
            assert len({id(buffer) for buffer in found}) == 1
        else:
            assert found == [None] * 3


async def test_connections_that_share_a_buffer_do_not_mix_their_bytes() -> None:
    site, numbers = Echo(), random.Random(1)
    async with clients(site, 8) as connected:

        async def talk(client: Client, seed: int) -> None:
            own = random.Random(seed)
            for _ in range(12):
                text = hashlib.sha256(own.randbytes(8)).hexdigest() * own.choice([1, 30, 900, 4000])
                data = frame(TEXT, text.encode())
                cut = own.randrange(len(data))  # a TLS record ends inside a frame
                async with anyio.create_task_group() as sending:
                    sending.start_soon(_send, client, [data[:cut], data[cut:]])
                    assert await client.message() == text

        async with anyio.create_task_group() as tasks:
            for client in connected:
                tasks.start_soon(talk, client, numbers.randrange(1 << 30))


async def _send(client: Client, pieces: list[bytes]) -> None:
    for piece in pieces:
        await client.stream.send(piece)


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"])
@pytest.mark.parametrize("difference", ["version", "protocol", "no buffer", "view", "size", "transport"])
async def test_an_unknown_implementation_keeps_its_buffers(difference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not SHARES:
        pytest.skip("this version has an unknown implementation")
    loop = asyncio.get_running_loop()
    site = Echo()
    async with clients(site, 1):
        transport: Any = site.connections[0]._outbox.transport
        protocol: Any = transport._ssl_protocol
        own = bytearray(protocol.max_size)
        protocol._ssl_buffer, protocol._ssl_buffer_view = own, memoryview(own)
        if difference == "version":
            monkeypatch.setattr(tls_buffer, "_IS_KNOWN", False)
        elif difference == "protocol":
            monkeypatch.setattr(protocol, "__class__", type("Other", (type(protocol),), {}))
        elif difference == "no buffer":
            protocol._ssl_buffer = None
        elif difference == "view":
            protocol._ssl_buffer_view = memoryview(bytes(own))
        elif difference == "size":
            protocol.max_size = 1000
        else:
            raw, protocol._transport = protocol._transport, None
        assert not share_read_buffer(transport)
        assert loop in tls_buffer._views
        assert protocol._ssl_buffer is (None if difference == "no buffer" else own)
        protocol._ssl_buffer, protocol._ssl_buffer_view = own, memoryview(own)
        if difference == "transport":
            protocol._transport = raw


async def test_a_plain_transport_is_left_alone() -> None:
    assert not share_read_buffer(object())
