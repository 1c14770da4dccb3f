"""wsload, the load generator of the benchmarks, and a scripted server that it runs against."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import shutil
import ssl
import subprocess
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parents[2] / "benchmarks" / "wsload.c"
WARNINGS = ["-Wall", "-Wextra", "-Wshadow"]
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
SHORT = ["--conns", "2", "--seconds", "0.2", "--warmup", "0.01", "--settle", "0"]
QUANTILES = ["p50", "p90", "p99", "p999", "max"]

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
FIN, RSV1, RSV3 = 0x80, 0x40, 0x10


# -- the server --------------------------------------------------------------------------------------------------------


def frame(b0: int, data: bytes, mask: bool = False) -> bytes:
    n, bit = len(data), 0x80 if mask else 0
    if n < 126:
        head = bytes([b0, bit | n])
    elif n < 65536:
        head = bytes([b0, bit | 126]) + n.to_bytes(2, "big")
    else:
        head = bytes([b0, bit | 127]) + n.to_bytes(8, "big")
    return head + (b"\0\0\0\0" if mask else b"") + data


def pieces(data: bytes, count: int) -> list[bytes]:
    step = max(1, len(data) // count)
    return [data[i : i + step] for i in range(0, len(data), step)]


def inflate(data: bytes) -> bytes:
    return zlib.decompressobj(wbits=-15).decompress(data + b"\0\0\xff\xff")


#: Returns the answer to a message (first byte, payload, number), in chunks that are written one by one.
Script = Callable[[int, bytes, int], list[bytes]]


def echo(b0: int, data: bytes, seq: int) -> list[bytes]:
    return [frame(b0, data)]


def drip(b0: int, data: bytes, seq: int) -> list[bytes]:
    plain = frame(b0, data)
    return [bytes([byte]) for byte in plain] if len(plain) < 600 else pieces(plain, 97)


def fragments(b0: int, data: bytes, seq: int) -> list[bytes]:
    first, *others = pieces(data, 3)
    out = [frame(b0 & ~FIN, first)]
    out += [frame(FIN | PING, b"between fragments") + frame(0, part) for part in others]
    return [b"".join(out) + frame(FIN, b"")]


def ping(b0: int, data: bytes, seq: int) -> list[bytes]:
    return [frame(FIN | PING, b"x" * (seq % 126)), frame(b0, data), frame(FIN | PONG, b"")]


def final_block(b0: int, data: bytes, seq: int) -> list[bytes]:
    z = zlib.compressobj(wbits=-15)
    return [frame(b0, z.compress(inflate(data)) + z.flush(zlib.Z_FINISH) + b"\0")]


def fourth(script: Script) -> Script:
    """Return a script that echoes the first three messages, and follows another script for the fourth."""
    return lambda b0, data, seq: script(b0, data, seq) if seq == 3 else echo(b0, data, seq)


SCRIPTS: dict[str, Script] = {
    "/echo": echo,
    "/drip": drip,
    "/fragments": fragments,
    "/ping": ping,
    "/final-block": final_block,
    "/masked": lambda b0, data, seq: [frame(b0, data, mask=True)],
    "/rsv1": lambda b0, data, seq: [frame(b0 | RSV1, data)],
    "/rsv3": lambda b0, data, seq: [frame(b0 | RSV3, data)],
    "/overlong": lambda b0, data, seq: [bytes([b0, 126, 0, len(data)]) + data],
    "/long-ping": lambda b0, data, seq: [frame(FIN | PING, bytes(126))],
    "/cut-ping": lambda b0, data, seq: [frame(PING, b"")],
    "/stray": lambda b0, data, seq: [frame(FIN, data)],
    "/interleaved": lambda b0, data, seq: [frame(b0 & ~FIN, data[:1]) + frame(b0, data)],
    "/huge": lambda b0, data, seq: [bytes([b0, 127]) + (1 << 40).to_bytes(8, "big") + data],
    "/corrupt": fourth(lambda b0, data, seq: [frame(b0, data[:-1] + bytes([data[-1] ^ 1]))]),
    "/short": fourth(lambda b0, data, seq: [frame(b0, data[:-1])]),
    "/long": fourth(lambda b0, data, seq: [frame(b0, data + b"!")]),
    "/opcode": fourth(lambda b0, data, seq: [frame(b0 ^ 3, data)]),
    "/twice": fourth(lambda b0, data, seq: [frame(b0, data) * 2]),
    "/close": fourth(lambda b0, data, seq: [frame(FIN | CLOSE, (1011).to_bytes(2, "big"))]),
    "/silent": fourth(lambda b0, data, seq: []),
    "/events": lambda b0, data, seq: [frame(b0, b'42["m","%s"]' % json.loads(data[2:])[1].encode())],
    "/silent-after-three": lambda b0, data, seq: echo(b0, data, seq) if seq < 3 else [],
}
HEADERS = {
    "/final-block": b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n",
    "/unoffered": b"Sec-WebSocket-Extensions: permessage-deflate\r\n",
    "/protocol": b"Sec-WebSocket-Protocol: chat\r\n",
}


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    b0, b1 = await reader.readexactly(2)
    assert b1 & 0x80, "client frames must be masked"
    n = b1 & 127
    if n > 125:
        n = int.from_bytes(await reader.readexactly(2 if n == 126 else 8), "big")
    mask = await reader.readexactly(4)
    assert all(mask)
    data = await reader.readexactly(n)
    key = int.from_bytes((mask * (n // 4 + 1))[:n], "big")
    return b0, (int.from_bytes(data, "big") ^ key).to_bytes(n, "big")


class Server:
    """A server that answers on each path as its script says.

    Attributes:
        received: the number of messages on each path.
        first: the first message of each connection.
        resumed: the number of connections that resumed a TLS session.
        failures: the mistakes of the client.
    """

    def __init__(self) -> None:
        self.received: Counter[str] = Counter()
        self.first: list[bytes] = []
        self.resumed = 0
        self.failures: list[Exception] = []
        self.tasks: set[asyncio.Task[Any]] = set()
        self._members: list[asyncio.StreamWriter] = []
        self._held: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (asyncio.IncompleteReadError, OSError):
            pass  # wsload closes a connection after an error
        except Exception as exc:
            self.failures.append(exc)
        finally:
            if writer in self._members:
                self._members.remove(writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = await self._handshake(reader, writer)
        if path is None:
            return
        if path == "/events":
            writer.write(frame(FIN | PING, b"") + frame(FIN | TEXT, b'0{"sid":"a session"}'))
            assert (await read_frame(reader))[0] == FIN | PONG
            assert await read_frame(reader) == (FIN | TEXT, b"40")
            writer.write(frame(FIN | TEXT, b'40{"sid":"of the namespace"}'))
        seq = 0
        while True:
            b0, data = await read_frame(reader)
            if b0 == FIN | CLOSE:
                writer.write(frame(b0, data))
                with contextlib.suppress(asyncio.IncompleteReadError):
                    await reader.readexactly(1)
                    raise AssertionError("received data after the Close frame")
                return
            if b0 == FIN | PONG:
                continue
            self.received[path] += 1
            if seq == 0:
                self.first.append(data)
            await self._answer(path, writer, (b0, data, seq))
            seq += 1

    async def _handshake(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str | None:
        lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        path = lines[0].split()[1].decode()
        headers = dict(line.split(b": ", 1) for line in lines[1:] if line)
        key = headers[b"Sec-WebSocket-Key"]
        assert len(base64.b64decode(key)) == 16
        assert headers[b"Origin"] == b"http://localhost"
        assert (b"Sec-WebSocket-Extensions" in headers) == (path == "/final-block")
        channel = writer.get_extra_info("ssl_object")
        self.resumed += channel is not None and channel.session_reused
        if path == "/refused":
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            return None
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
        if path == "/bad-accept":
            accept = b"A" * 27 + b"="
        if path in ("/chat", "/skipping"):
            self._members.append(writer)
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nConnection: keep-alive, "
            b"Upgrade\r\nsec-websocket-accept:" + accept + b"\r\n" + HEADERS.get(path, b"") + b"\r\n"
        )
        return path

    async def _answer(self, path: str, writer: asyncio.StreamWriter, message: tuple[int, bytes, int]) -> None:
        b0, data, seq = message
        if path in ("/chat", "/skipping"):
            for number, member in enumerate(self._members):
                if member is not writer and (path == "/chat" or number or seq != 3):
                    member.write(frame(b0, data))
        elif path == "/hold" and seq < 5:  # the first five are answered together
            self._held.append(frame(b0, data))
            if seq == 4:
                writer.writelines(self._held)
        elif path == "/abort":
            writer.transport.abort()
        else:
            for chunk in SCRIPTS.get(path, echo)(b0, data, seq):
                writer.write(chunk)
                await writer.drain()
                if path == "/drip":
                    await asyncio.sleep(0)  # so that each chunk is written separately


# -- wsload ------------------------------------------------------------------------------------------------------------


@dataclass
class Wsload:
    """The compiled wsload."""

    program: Path
    tls: bool

    def run(
        self, path: str, *options: str, context: ssl.SSLContext | None = None
    ) -> tuple[int, dict[str, Any], Server]:
        """Run it against a new server; return the exit status, the output, and the server."""
        return asyncio.run(self._run(["--path", path, *SHORT, *options], context))

    async def _run(self, options: list[str], context: ssl.SSLContext | None) -> tuple[int, dict[str, Any], Server]:
        scripted = Server()
        server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0, limit=1 << 22, ssl=context)
        port = str(server.sockets[0].getsockname()[1])
        process = await asyncio.create_subprocess_exec(
            self.program, "--port", port, *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            stdout, stderr = await asyncio.wait_for(process.communicate(), 30)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            server.close()
            for task in scripted.tasks:  # a task ends after the end of its connection
                await asyncio.wait_for(task, 10)
        assert scripted.failures == []
        assert stderr == b""
        assert process.returncode is not None
        return process.returncode, json.loads(stdout.splitlines()[-1]), scripted

    def accepts(self, path: str, *options: str, context: ssl.SSLContext | None = None) -> dict[str, Any]:
        status, result, _ = self.run(path, *options, context=context)
        assert (status, result["errors"], result.get("first_error")) == (0, 0, None)
        assert result["unclean_closes"] == 0
        return result

    def refuses(self, path: str, *options: str, context: ssl.SSLContext | None = None) -> str:
        status, result, _ = self.run(path, *options, context=context)
        assert status == 1
        assert result["errors"] > 0
        return str(result["first_error"])

    def declines(self, *options: str) -> str:
        """Run it with invalid options; return the error message."""
        done = subprocess.run([self.program, *options], capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stdout) == (2, "")
        return done.stderr


def compiler() -> str:
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if found is None:
        pytest.skip("there is no C compiler")
    return found


def has_header(cc: str, header: str) -> bool:
    command = [cc, "-fsyntax-only", "-include", header, "-x", "c", "/dev/null"]
    return subprocess.run(command, capture_output=True).returncode == 0


def compiled(cc: str, program: Path, *options: str) -> Path:
    done = subprocess.run([cc, *WARNINGS, "-o", program, SOURCE, *options], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return program


#: A path and options.
Case = tuple[str, list[str]]


def case_name(case: Case) -> str:
    return " ".join([case[0], *case[1]])


def is_in_order(histogram: dict[str, float]) -> bool:
    values = [histogram[name] for name in QUANTILES]
    return values == sorted(values) and 0 < histogram["mean"] <= histogram["max"]
