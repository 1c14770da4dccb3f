"""A client of a server that breaks the protocol, floods, or never does what it should."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
import struct
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from support.serving import BINARY, CLOSE, GUARD, PING, PONG, TEXT, frame

from pywsapp import ConfigurationError, ConnectionClosed, Deflate, HandshakeError, Options, connect

pytestmark = pytest.mark.anyio

CONTINUATION = 0
MIB = 2**20
LIMIT = 64 * 1024
OPTIONS = Options(max_message_size=LIMIT, close_timeout=0.2, handshake_timeout=2 * GUARD)
QUICK = Options(close_timeout=0.2, handshake_timeout=0.2)
Script = Callable[[SocketStream], Awaitable[None]]


class HostileServer:
    """A server that does what a script says with each connection.

    Attributes:
        url: where it listens.
        connections: the number of connections so far.
        ended: set when a connection has ended.
        received: what clients have sent after their requests.
    """

    def __init__(self, script: Script) -> None:
        self.url = ""
        self.connections = 0
        self.ended = anyio.Event()
        self.request = b""
        self.received = bytearray()
        self._script = script

    async def serve(self, stream: SocketStream) -> None:
        self.connections += 1
        try:
            await self._serve(stream)
        finally:
            self.ended.set()

    async def _serve(self, stream: SocketStream) -> None:
        async with stream:
            with suppress(anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError):
                while b"\r\n\r\n" not in self.request:
                    self.request += await stream.receive()
                await self._script(stream)
                while True:
                    self.received += await stream.receive()

    def accept(self, fields: bytes = b"") -> bytes:
        """Return the response that accepts the request."""
        key = re.findall(rb"Sec-WebSocket-Key: (\S+)", self.request)[0]
        token = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        return (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + token + b"\r\n" + fields + b"\r\n"
        )


@asynccontextmanager
async def hostile(
    data: bytes = b"", *, fields: bytes = b"", script: Script | None = None, accepts: bool = True
) -> AsyncIterator[HostileServer]:
    """Run a server that accepts, sends data and reads; or that runs a script, after it has accepted."""

    async def run(stream: SocketStream) -> None:
        if accepts:
            await stream.send(server.accept(fields) + data)
        if script is not None:
            await script(stream)

    server = HostileServer(run)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server.url = f"ws://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/"
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, server.serve)
        with anyio.fail_after(GUARD):
            yield server
            await server.ended.wait()  # it has read everything
        tasks.cancel_scope.cancel()


def plain(opcode: int, payload: bytes = b"", first: int = 0x80) -> bytes:
    """Return a frame as a server sends it; `first` has the upper bits of its first byte."""
    size = len(payload)
    head = bytes([first | opcode, size]) if size < 126 else bytes([first | opcode, 126]) + struct.pack(">H", size)
    return head + payload


def close(code: int, reason: bytes = b"") -> bytes:
    return plain(CLOSE, struct.pack(">H", code) + reason)


def long_head(size: int, marker: int = 127) -> bytes:
    return bytes([0x80 | BINARY, marker]) + (struct.pack(">Q", size) if marker == 127 else struct.pack(">H", size))


FAULTS: dict[str, tuple[bytes, int]] = {
    "masked": (frame(TEXT, b"hello"), 1002),
    "masked and empty": (frame(TEXT, b""), 1002),
    "masked ping": (frame(PING, b""), 1002),
    "rsv1": (plain(TEXT, b"a", 0xC0), 1002),
    "rsv2": (plain(TEXT, b"a", 0xA0), 1002),
    "rsv3 of a ping": (plain(PING, b"a", 0x90), 1002),
    "opcode 3": (plain(3), 1002),
    "opcode 15": (plain(15), 1002),
    "long ping": (plain(PING, bytes(126)), 1002),
    "long pong": (plain(PONG, bytes(126)), 1002),
    "long close": (plain(CLOSE, struct.pack(">H", 1000) + bytes(124)), 1002),
    "fragmented ping": (plain(PING, b"", 0), 1002),
    "fragmented close": (plain(CLOSE, b"", 0), 1002),
    "continuation of nothing": (plain(CONTINUATION, b"a"), 1002),
    "message inside of another": (plain(TEXT, b"a", 0) + plain(TEXT, b"b"), 1002),
    "16 bits for 125": (long_head(125, 126) + bytes(125), 1002),
    "16 bits for 0": (long_head(0, 126), 1002),
    "64 bits for 65535": (long_head(65535) + bytes(65535), 1002),
    "64 bits for 0": (long_head(0), 1002),
    "the highest bit": (long_head(2**63), 1002),
    "all bits": (long_head(2**64 - 1), 1002),
    "2**63 - 1": (long_head(2**63 - 1), 1009),
    "2**62": (long_head(2**62), 1009),
    "2**32": (long_head(2**32), 1009),
    "2**31": (long_head(2**31), 1009),
    "one byte more than the limit": (long_head(LIMIT + 1), 1009),
    "fragments above the limit": (
        plain(BINARY, bytes(LIMIT // 2), 0) + plain(CONTINUATION, bytes(LIMIT // 2 + 1)),
        1009,
    ),
    "not utf-8": (plain(TEXT, b"\xff"), 1007),
    "half a character": (plain(TEXT, b"\xc3"), 1007),
    "surrogate": (plain(TEXT, b"\xed\xa0\x80"), 1007),
    "half a character in fragments": (plain(TEXT, b"\xc3", 0) + plain(CONTINUATION, b"a"), 1007),
    "close with one byte": (plain(CLOSE, b"\x03"), 1002),
    "close with a reason that is not utf-8": (close(1000, b"\xff"), 1007),
    **{
        f"close with {code}": (close(code), 1002)
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    },
    "another response": (b"HTTP/1.1 200 OK\r\n\r\n", 1002),
}


async def test_a_fault_ends_the_connection_with_its_code() -> None:
    for name, (data, code) in FAULTS.items():
        await check_fault(name, data, code)


async def check_fault(name: str, data: bytes, code: int) -> None:
    async with hostile(plain(TEXT, b"before") + data) as server, connect(server.url, options=OPTIONS) as conn:
        assert await conn.receive() == "before", name
        with pytest.raises(ConnectionClosed) as caught:
            await conn.receive()
        assert (caught.value.code, conn.was_clean) == (code, False), name
    first, second, *masked = server.received
    assert (first, second & 0x80) == (0x80 | CLOSE, 0x80), name
    assert bytes(byte ^ masked[at % 4] for at, byte in enumerate(masked[4:6])) == struct.pack(">H", code), name


async def test_a_valid_close_frame_is_answered_and_nothing_after_it_is_read() -> None:
    reason = b"a\r\nb\x1b[31m" + b"x" * 100
    for code in (1000, 1001, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 4999):
        data = close(code, reason) + plain(TEXT, b"late") + frame(TEXT, b"late")
        async with hostile(data) as server, connect(server.url, options=OPTIONS) as conn:
            with pytest.raises(ConnectionClosed) as caught:
                await conn.receive()
            assert (caught.value.code, caught.value.reason) == (code, reason.decode())


async def test_control_frames_between_fragments() -> None:
    pieces = [plain(TEXT, b"a", 0), plain(PING, b"1"), plain(CONTINUATION, b"b", 0), plain(PONG, b"x")]
    pieces += [plain(PING, b"2"), plain(CONTINUATION, b"c"), close(1000)]
    async with hostile(b"".join(pieces)) as server, connect(server.url, options=OPTIONS) as conn:
        assert [message async for message in conn] == ["abc"]
    assert server.received.count(bytes([0x80 | PONG, 0x80 | 1])) == 2


# -- compression -------------------------------------------------------------------------------------------------------


@functools.cache
def bomb(size: int) -> bytes:
    compressor = zlib.compressobj(9, wbits=-15)
    zeros = bytes(MIB)
    payload = b"".join(compressor.compress(zeros) for _ in range(size // MIB))
    payload += compressor.flush(zlib.Z_SYNC_FLUSH)[:-4]
    head = bytes([0xC0 | BINARY, 127]) + struct.pack(">Q", len(payload))
    return head + payload


@pytest.mark.parametrize("config", [Deflate(), Deflate(server_no_context_takeover=False)], ids=["reset", "takeover"])
async def test_a_bomb_is_not_inflated_beyond_the_limit(config: Deflate) -> None:
    fields = b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; server_max_window_bits=12\r\n"
    options = Options(max_message_size=MIB, deflate=config, close_timeout=0.2)
    data = bomb(100 * MIB)
    async with hostile(data, fields=fields) as server:
        tracemalloc.start()
        try:
            async with connect(server.url, options=options) as conn:
                with pytest.raises(ConnectionClosed) as caught:
                    await conn.receive()
                _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert caught.value.code == 1009
    assert peak < 8 * MIB


@pytest.mark.parametrize("name", ["server_max_window_bits", "client_max_window_bits"])
async def test_every_number_of_window_bits(name: str) -> None:
    compressor = zlib.compressobj(wbits=-9)
    payload = compressor.compress(b"hello" * 100) + compressor.flush(zlib.Z_SYNC_FLUSH)[:-4]
    for bits in (*range(18), 99, -1):
        parameters = f"permessage-deflate; server_no_context_takeover; {name}={bits}"
        is_allowed = 8 <= bits <= 12
        if name == "client_max_window_bits":
            is_allowed = 9 <= bits <= 15
            parameters += "; server_max_window_bits=12"
        fields = f"Sec-WebSocket-Extensions: {parameters}\r\n".encode()
        async with hostile(plain(TEXT, payload, 0xC0) + close(1000), fields=fields) as server:
            try:
                async with connect(server.url, options=Options(deflate=Deflate())) as conn:
                    assert is_allowed, bits
                    assert await conn.receive() == "hello" * 100
            except HandshakeError:
                assert not is_allowed, bits


# -- floods ------------------------------------------------------------------------------------------------------------


async def endlessly(stream: SocketStream, data: bytes) -> None:
    while True:
        await stream.send(data)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("pings", plain(PING, b"x" * 100) * 500),
        ("pongs", plain(PONG, b"x" * 100) * 500),
        ("empty fragments", plain(CONTINUATION, b"", 0) * 20_000),
        ("messages", plain(BINARY, bytes(1000)) * 50),
        ("an endless message", bytes(50_000)),
    ],
)
async def test_the_memory_of_a_flood_is_bounded(name: str, data: bytes) -> None:
    """The server neither reads nor stops, and the client does not receive; closing takes `close_timeout` at most."""
    sent = 0

    async def flood(stream: SocketStream) -> None:
        nonlocal sent
        if name == "empty fragments":
            await stream.send(plain(TEXT, b"", 0))
        elif name == "an endless message":
            await stream.send(long_head(60 * 1024))
        while True:
            await stream.send(data)
            sent += len(data)

    async with hostile(script=flood) as server:
        tracemalloc.start()
        try:
            async with connect(server.url, options=OPTIONS):
                with anyio.move_on_after(0.15):
                    await anyio.sleep_forever()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 4 * MIB


# -- the handshake -----------------------------------------------------------------------------------------------------


async def refused(server: HostileServer, options: Options = OPTIONS) -> HandshakeError:
    with pytest.raises(HandshakeError) as caught:
        async with connect(server.url, options=options, headers={"Authorization": "Bearer secret"}):
            pytest.fail("the block is entered")
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()
    return caught.value


@pytest.mark.parametrize(
    ("status", "location"),
    [(301, "{}"), (302, "http://127.0.0.1:1/"), (303, "//evil.example/"), (307, "ws://127.0.0.1:1/"), (308, "")],
)
async def test_redirects_are_not_followed(status: int, location: str) -> None:
    async def redirect(stream: SocketStream) -> None:
        await stream.send(f"HTTP/1.1 {status} Found\r\nLocation: {location.format(server.url)}\r\n\r\n".encode())

    async with hostile(script=redirect, accepts=False) as server:
        assert (await refused(server)).status == status
        assert server.connections == 1


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 403 \x9b31m\x85\x1b",
        b"HTTP/1.1 403 \x9b31m\x85" + b"x" * 10_000 + b"\r\n\r\n",
        b"HTTP/1.1 101 ok\r\n" + b"".join(b"A%d: b\r\n" % number for number in range(5000)) + b"\r\n",
        b"HTTP/1.1 101 ok\r\nSec-WebSocket-Extensions: \x9b" + b"x" * 10_000 + b"\r\n\r\n",
        b"HTTP/1.1 101 ok\r\n\xe9" + b"x" * 5000 + b": y\r\n\r\n",
        b"HTTP/1.1 100 ok\r\n\r\n" * 1000,
        b"\r\n" * 100_000,
        b"\0" * 100,
        b"HTTP/1.1 " * 100_000,
    ],
    ids=["unfinished", "reason", "fields", "extension", "name", "interim", "blank", "null", "line"],
)
async def test_the_text_about_an_invalid_answer_is_short(head: bytes) -> None:
    async with hostile(script=lambda stream: stream.send(head), accepts=False) as server:
        await refused(server, QUICK)


@pytest.mark.parametrize(
    "piece", [b"A", b"\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"\r"], ids=["a", "crlf", "interim", "cr"]
)
async def test_an_answer_that_comes_slowly_ends_in_time(piece: bytes) -> None:
    async def dribble(stream: SocketStream) -> None:
        while True:
            await stream.send(piece)
            await anyio.sleep(0.02)

    is_interim = piece.startswith(b"HTTP")  # a number of these is refused, not their time
    async with hostile(script=dribble, accepts=False) as server:
        refusal = await refused(server, OPTIONS if is_interim else QUICK)
        assert refusal.status == (100 if is_interim else None)


# -- the content of an answer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [b"", b"Content-Length: 999999999999\r\n", b"Transfer-Encoding: chunked\r\n"],
    ids=["endless", "length", "chunked"],
)
async def test_the_content_of_a_refusal_is_bounded(fields: bytes) -> None:
    piece = b"10000\r\n" + b"x" * 65536 + b"\r\n" if b"chunked" in fields else b"x" * 65536

    async def flood(stream: SocketStream) -> None:
        await stream.send(b"HTTP/1.1 503 Busy\r\n" + fields + b"\r\n")
        await endlessly(stream, piece)

    async with hostile(script=flood, accepts=False) as server:
        tracemalloc.start()
        try:
            error = await refused(server)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (error.status, error.body) == (503, b"x" * 1024)
    assert peak < 4 * MIB


async def test_the_content_of_a_followed_redirect_is_not_read() -> None:
    async def flood(stream: SocketStream) -> None:
        await stream.send(b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n")
        await endlessly(stream, bytes(65536))

    async with hostile(script=flood, accepts=False) as server:
        with pytest.raises(HandshakeError, match="more than 2 redirects"):
            async with connect(server.url, options=OPTIONS, max_redirects=2):
                pytest.fail("the block is entered")
        assert server.connections == 3


async def test_redirects_that_come_slowly_end_in_time() -> None:
    async def redirect(stream: SocketStream) -> None:
        await anyio.sleep(0.05)
        await stream.send(b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n")

    async with hostile(script=redirect, accepts=False) as server:
        with pytest.raises((HandshakeError, TimeoutError)):
            async with connect(server.url, options=QUICK, max_redirects=10_000):
                pytest.fail("the block is entered")


async def test_a_server_that_repeats_the_request_reveals_nothing() -> None:
    async def repeat(stream: SocketStream) -> None:
        await stream.send(b"HTTP/1.1 403 no\r\nContent-Length: 900\r\n\r\n" + server.request.ljust(900))

    async with hostile(script=repeat, accepts=False) as server:
        error = await refused(server)
    assert b"Bearer secret" in error.body, "the program can look at it"
    assert "secret" not in str(error)
    assert "secret" not in repr(error)


@pytest.mark.parametrize(
    "url",
    [
        "ws://127.0.0.1:1/a\r\nX: y",
        "ws://127.0.0.1:1/a\nb",
        "ws://good.example\t.evil.example/",
        "ws://127.0.0.1:1/?a\rb",
    ],
    ids=["header", "path", "host", "query"],
)
async def test_line_ends_in_a_url_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="control"):
        connect(url)
