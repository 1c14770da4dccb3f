"""Small proxies for tests of the client: HTTP CONNECT, SOCKS4, SOCKS4a and SOCKS5, plain or over TLS."""

from __future__ import annotations

import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSListener

from support.serving import GUARD

_GONE = (OSError, anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError, anyio.BusyResourceError)


class TestProxy:
    """A proxy that serves one kind of clients.

    Args:
        kind: "http" or "socks".
        answer: what an HTTP proxy answers in place of connecting, or before.
        password: what a client must know; the user is "ana".

    Attributes:
        port: the port that it listens on.
        requests: what clients have asked for: hosts and ports, as the proxy got them.
        heads: the heads of HTTP requests.
    """

    __test__ = False

    def __init__(self, kind: str, answer: bytes | None, password: str | None) -> None:
        self.port = 0
        self.requests: list[tuple[str, int]] = []
        self.heads: list[bytes] = []
        self._kind, self._answer, self._password = kind, answer, password

    async def serve(self, stream: ByteStream) -> None:
        async with stream:
            with suppress(*_GONE):
                found = await (self._http(stream) if self._kind == "http" else self._socks(stream))
                if found is None:
                    return
                self.requests.append(found[:2])
                host, port, answer = found
                async with await anyio.connect_tcp("127.0.0.1" if host.endswith(".test") else host, port) as server:
                    await stream.send(answer)
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(_copy, stream, server, tasks)
                        tasks.start_soon(_copy, server, stream, tasks)

    async def _http(self, stream: ByteStream) -> tuple[str, int, bytes] | None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive()
        self.heads.append(head)
        if self._answer is not None:
            await stream.send(self._answer)
            await stream.receive()
            return None
        if self._password is not None and b"Proxy-Authorization: Basic " not in head:
            await stream.send(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return None
        method, address, _ = head.split(b" ", 2)
        assert method == b"CONNECT"
        host, _, port = address.decode().rpartition(":")
        return host.strip("[]"), int(port), b"HTTP/1.1 200 Connection established\r\nContent-Length: 5\r\n\r\n"

    async def _socks(self, stream: ByteStream) -> tuple[str, int, bytes] | None:
        first = await stream.receive(9)
        if first[0] == 4:
            return await self._socks4(stream, first)
        assert first[0] == 5
        if self._answer is not None:
            await stream.send(self._answer)
            return None
        if self._password is None:
            await stream.send(b"\x05\x00")
        else:
            await stream.send(b"\x05\x02" if 2 in first[2:] else b"\x05\xff")
            given = await stream.receive()
            user = given[2 : 2 + given[1]]
            is_right = (user, given[3 + len(user) :]) == (b"ana", self._password.encode())
            await stream.send(b"\x01\x00" if is_right else b"\x01\x01")
            if not is_right:
                return None
        request = await stream.receive()
        kind, rest = request[3], request[4:]
        if kind == 3:
            host, port = rest[1 : 1 + rest[0]].decode(), rest[1 + rest[0] :]
        else:
            host, port = ".".join(map(str, rest[:4])), rest[4:]
        return host, struct.unpack(">H", port[:2])[0], b"\x05\x00\x00\x01\0\0\0\0\0\0"

    async def _socks4(self, stream: ByteStream, data: bytes) -> tuple[str, int, bytes]:
        data += await stream.receive() if data[4:7] == b"\0\0\0" else b""
        host = ".".join(map(str, data[4:8]))
        if data[4:7] == b"\0\0\0":
            host = data[9:].rstrip(b"\0").decode()
        return host, struct.unpack(">H", data[2:4])[0], b"\x00\x5a\0\0\0\0\0\0"


async def _copy(source: Any, target: Any, tasks: Any) -> None:
    with suppress(*_GONE):
        while True:
            await target.send(await source.receive())
    with suppress(NotImplementedError, *_GONE):  # TLS streams of anyio cannot
        await target.send_eof()
    tasks.cancel_scope.cancel()


@asynccontextmanager
async def proxying(
    kind: str, *, answer: bytes | None = None, password: str | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[TestProxy]:
    """Run a proxy; see `TestProxy`."""
    proxy = TestProxy(kind, answer, password)
    plain: Any = await anyio.create_tcp_listener(local_host="127.0.0.1")
    proxy.port = plain.extra(SocketAttribute.local_port)
    listener = plain if tls is None else TLSListener(plain, tls, standard_compatible=False)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, proxy.serve)
        with anyio.fail_after(GUARD):
            yield proxy
        tasks.cancel_scope.cancel()
