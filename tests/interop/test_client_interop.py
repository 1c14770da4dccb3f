"""The client of pywsapp with the servers of `websockets` and `aiohttp`, on every event loop."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trustme
from aiohttp import web
from anyio.from_thread import start_blocking_portal
from support.client_servers import websockets_server
from support.serving import GUARD
from websockets.sync.server import ServerConnection

from pywsapp import ConnectionClosed, Deflate, HandshakeError, Options, connect

pytestmark = pytest.mark.anyio

KIB, MIB = 1024, 1024 * 1024
TAKEOVER = Deflate(threshold=0, server_no_context_takeover=False, client_no_context_takeover=False)
MESSAGES: list[str | bytes] = ["text", b"\x00\xff", "", b"", "grüße 👋" * 5, "x" * MIB, "the end"]

deflates = pytest.mark.parametrize(
    "deflate", [None, Deflate(threshold=0), TAKEOVER], ids=["plain", "deflate", "takeover"]
)


def options_with(deflate: Deflate | None) -> Options:
    return Options(deflate=deflate, max_outbox=8 * MIB)


async def exchange(url: str, options: Options) -> None:
    async with connect(url, options=options) as conn:
        for message in MESSAGES:
            conn.send(message)
        assert [await conn.receive() for _ in MESSAGES] == MESSAGES
        assert await conn.ping() > 0
    assert (conn.close_code, conn.was_clean) == (1000, True)


# -- websockets --------------------------------------------------------------------------------------------------------


def echo(connection: ServerConnection) -> None:
    for message in connection:
        connection.send(message)


@deflates
async def test_websockets_exchange(deflate: Deflate | None) -> None:
    async with websockets_server(echo, max_size=2 * MIB) as address:
        await exchange(f"ws://{address}/", options_with(deflate))


async def test_websockets_with_tls() -> None:
    authority = trustme.CA()
    server_tls, client_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server_tls)
    authority.configure_trust(client_tls)
    async with (
        websockets_server(echo, ssl=server_tls) as address,
        connect(f"wss://{address}/", tls=client_tls) as conn,
    ):
        await conn.send("secret")
        assert await conn.receive() == "secret"


@pytest.mark.parametrize("code", [1000, 1001])
async def test_websockets_closes_normally(code: int) -> None:
    def count(connection: ServerConnection) -> None:
        for number in range(200):
            connection.send(str(number))
        connection.close(code, "done")

    async with websockets_server(count) as address, connect(f"ws://{address}/") as conn:
        assert [message async for message in conn] == [str(number) for number in range(200)]
    assert (conn.close_code, conn.close_reason, conn.was_clean) == (code, "done", True)


def close_with_4000(connection: ServerConnection) -> None:
    connection.close(4000, "enough")


def close_without_code(connection: ServerConnection) -> None:
    with connection.send_context():
        connection.protocol.send_close()


def shut_down(connection: ServerConnection) -> None:
    connection.socket.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("close", "code", "reason"),
    [(close_with_4000, 4000, "enough"), (close_without_code, 1005, ""), (shut_down, 1006, "connection lost")],
)
async def test_websockets_ends_the_connection(close: Any, code: int, reason: str) -> None:
    async with websockets_server(close) as address, connect(f"ws://{address}/") as conn:
        with pytest.raises(ConnectionClosed, match=str(code)) as caught:
            async for _ in conn:
                pass
        assert (caught.value.code, caught.value.reason) == (code, reason)


async def test_websockets_chooses_a_subprotocol() -> None:
    async with (
        websockets_server(echo, subprotocols=["b", "a"]) as address,
        connect(f"ws://{address}/", subprotocols=["a", "b"]) as conn,
    ):
        assert conn.subprotocol == "b"


async def test_a_server_of_websockets_that_floods_is_slowed_down() -> None:
    count, limit = 1000, 8
    sent = 0

    def flood(connection: ServerConnection) -> None:
        nonlocal sent
        for number in range(count):
            connection.send(number.to_bytes(4, "big") + bytes(64 * KIB))
            sent += 1

    async with (
        websockets_server(flood, compression=None) as address,
        connect(f"ws://{address}/", options=Options(max_queue=limit)) as conn,
    ):
        while len(conn._inbox._messages) < limit:
            await anyio.lowlevel.checkpoint()
        assert sent < count
        numbers = [int.from_bytes(message[:4], "big") async for message in conn if isinstance(message, bytes)]
    assert numbers == list(range(count))


# -- aiohttp -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def aiohttp_site(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


@asynccontextmanager
async def aiohttp_server(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """Run the server in a thread of its own, because it needs asyncio; yield its URL."""
    with ExitStack() as stack, anyio.fail_after(GUARD):
        portal = stack.enter_context(start_blocking_portal("asyncio"))
        port = stack.enter_context(portal.wrap_async_context_manager(aiohttp_site(handler)))
        try:
            yield f"ws://127.0.0.1:{port}/"
        finally:
            await anyio.to_thread.run_sync(stack.close)


async def aiohttp_echo(request: web.Request) -> web.WebSocketResponse:
    response = web.WebSocketResponse(max_msg_size=2 * MIB, protocols=["echo.example"])
    await response.prepare(request)
    async for message in response:
        if message.data == "close":
            await response.close(code=4000, message=b"enough")
        elif isinstance(message.data, str):
            await response.send_str(message.data)
        else:
            await response.send_bytes(message.data)
    return response


@deflates
async def test_aiohttp_exchange(deflate: Deflate | None) -> None:
    async with aiohttp_server(aiohttp_echo) as url:
        await exchange(url, options_with(deflate))


async def test_aiohttp_closes() -> None:
    async with aiohttp_server(aiohttp_echo) as url, connect(url, subprotocols=["echo.example"]) as conn:
        assert conn.subprotocol == "echo.example"
        await conn.send("close")
        with pytest.raises(ConnectionClosed, match="4000") as caught:
            await conn.receive()
        assert (caught.value.code, caught.value.reason) == (4000, "enough")


async def test_aiohttp_refuses() -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        raise web.HTTPForbidden

    async with aiohttp_server(refuse) as url:
        with pytest.raises(HandshakeError, match="403") as caught:
            async with connect(url):
                pytest.fail("the block is entered")
    assert caught.value.status == 403
