"""The proxy between a server and the broker delays bytes, breaks connections, and holds back new ones."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest

pytest.importorskip("fcntl", reason="the benchmarks run on Linux only")
sys.path.insert(0, str(Path(__file__).parent.parent.parent))
from benchmarks.fault_proxy import Proxy

#: The proxy runs in the harness, on asyncio only.
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def proxied(delay: float = 0.0) -> AsyncIterator[Proxy]:
    """Run a broker that returns what it receives, and a proxy before it."""

    async def echo(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            async for data in stream:
                await stream.send(data)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    proxy = Proxy("127.0.0.1", listener.extra(anyio.abc.SocketAttribute.local_port), delay)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, echo)
        tasks.start_soon(proxy.run)
        yield proxy
        tasks.cancel_scope.cancel()


async def connect(proxy: Proxy) -> anyio.abc.SocketStream:
    host, _, port = proxy.address.partition(":")
    return await anyio.connect_tcp(host, int(port))


async def test_bytes_pass_in_both_directions() -> None:
    async with proxied() as proxy, await connect(proxy) as stream:
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"


async def test_bytes_are_delayed_in_both_directions() -> None:
    async with proxied(delay=0.05) as proxy, await connect(proxy) as stream:
        began = time.monotonic()
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"
        assert time.monotonic() - began >= 0.1


async def test_connections_break_and_new_ones_are_held_back() -> None:
    async with proxied() as proxy, await connect(proxy) as broken:
        await broken.send(b"before")
        assert await broken.receive() == b"before"
        began = time.monotonic()
        proxy.hold_back(0.2)
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await broken.receive()
        async with await connect(proxy) as stream:
            await stream.send(b"after")
            assert await stream.receive() == b"after"
        assert time.monotonic() - began >= 0.2
