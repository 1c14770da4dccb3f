"""Checks wsload against a scripted server: what it must accept, what it must refuse, and what it says about it.

Run:  python -m pytest benchmarks/test_wsload.py
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import shutil
import socket
import ssl
import subprocess
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

SOURCE = Path(__file__).with_name("wsload.c")
WARNINGS = ["-Wall", "-Wextra", "-Wshadow"]
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
SHORT = ["--conns", "2", "--seconds", "0.07", "--warmup", "0.01", "--settle", "0"]
QUANTILES = ["p50", "p90", "p99", "p999", "max"]

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
FIN, RSV1, RSV3 = 0x80, 0x40, 0x10


# --- What the server says.


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


Script = Callable[[int, bytes, int], list[bytes]]  # (first byte, payload, number) of a message: what is written back


def echo(b0: int, data: bytes, seq: int) -> list[bytes]:
    return [frame(b0, data)]


def drip(b0: int, data: bytes, seq: int) -> list[bytes]:
    plain = frame(b0, data)
    return [bytes([byte]) for byte in plain] if len(plain) < 600 else pieces(plain, 97)


def fragments(b0: int, data: bytes, seq: int) -> list[bytes]:
    first, *others = pieces(data, 3)
    out = [frame(b0 & ~FIN, first)]
    out += [frame(FIN | PING, b"are you there") + frame(0, part) for part in others]
    return [b"".join(out) + frame(FIN, b"")]


def ping(b0: int, data: bytes, seq: int) -> list[bytes]:
    return [frame(FIN | PING, b"x" * (seq % 126)), frame(b0, data), frame(FIN | PONG, b"")]


def final_block(b0: int, data: bytes, seq: int) -> list[bytes]:
    z = zlib.compressobj(wbits=-15)
    return [frame(b0, z.compress(inflate(data)) + z.flush(zlib.Z_FINISH) + b"\0")]


def fourth(script: Script) -> Script:
    """Let the first three messages come back as they should."""
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
    "/mute": lambda b0, data, seq: echo(b0, data, seq) if seq < 3 else [],
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
    """Answers each path by its script.

    Attributes:
        received: how many messages came on each path.
        first: the first message of each connection.
        resumed: how many connections resumed a TLS session.
        failures: what the server found wrong with its client.
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
            pass  # wsload drops a connection it found an error on
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
            writer.write(frame(FIN | TEXT, b'40{"sid":"one of its namespaces"}'))
        seq = 0
        while True:
            b0, data = await read_frame(reader)
            if b0 == FIN | CLOSE:
                writer.write(frame(b0, data))
                with contextlib.suppress(asyncio.IncompleteReadError):
                    await reader.readexactly(1)
                    raise AssertionError("something came behind the Close frame")
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
        if path in ("/chat", "/deaf"):
            self._members.append(writer)
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nConnection: keep-alive, "
            b"Upgrade\r\nsec-websocket-accept:" + accept + b"\r\n" + HEADERS.get(path, b"") + b"\r\n"
        )
        return path

    async def _answer(self, path: str, writer: asyncio.StreamWriter, message: tuple[int, bytes, int]) -> None:
        b0, data, seq = message
        if path in ("/chat", "/deaf"):
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
                    await asyncio.sleep(0)  # each chunk is a write of its own


# --- wsload.


@dataclass
class Wsload:
    """wsload as it was compiled here."""

    program: Path
    tls: bool

    def run(
        self, path: str, *options: str, context: ssl.SSLContext | None = None
    ) -> tuple[int, dict[str, Any], Server]:
        """Give the exit status, what was printed, and the server that it ran against."""
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
            for task in scripted.tasks:  # a server that has been told of the end of a connection ends by itself
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
        """Run it with options that it does not take."""
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


@pytest.fixture(scope="module")
def wsload(tmp_path_factory: pytest.TempPathFactory) -> Wsload:
    cc = compiler()
    if not has_header(cc, "zlib.h"):
        pytest.skip("there is no zlib.h")
    tls = has_header(cc, "openssl/ssl.h")
    libraries = ["-lz", "-lssl", "-lcrypto"] if tls else ["-DNO_TLS", "-lz"]
    return Wsload(compiled(cc, tmp_path_factory.mktemp("bin") / "wsload", "-O2", *libraries), tls)


@pytest.fixture(scope="module")
def certificate() -> trustme.LeafCert:
    return trustme.CA().issue_cert("localhost")


@pytest.fixture
def context(wsload: Wsload, certificate: trustme.LeafCert) -> ssl.SSLContext:
    if not wsload.tls:
        pytest.skip("there is no openssl/ssl.h")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


Case = tuple[str, list[str]]  # a path and options


def named(case: Case) -> str:
    return " ".join([case[0], *case[1]])


# --- Frames and handshakes.

SIZES = ["0", "1", "125", "126", "65535", "65536", "300000"]
EVENTS = ["--greetings", "2", "--hello", "40", "--prefix", '42["m","', "--suffix", '"]']
GOOD: list[Case] = [
    *[("/echo", ["--size", size]) for size in SIZES],
    *[("/echo", ["--size", size, "--binary", "--pipeline", "5"]) for size in SIZES],
    *[(path, ["--size", size]) for path in ("/drip", "/fragments", "/ping") for size in ("9", "400", "70000")],
    ("/drip", ["--size", "300", "--pipeline", "7"]),
    ("/ping", ["--pipeline", "16"]),
    ("/ping", ["--size", "300000", "--pipeline", "30"]),
    ("/echo", ["--rate", "500"]),
    ("/echo", ["--mode", "connect", "--concurrency", "3"]),
    ("/echo", ["--mode", "idle", "--touch", "--conns", "30"]),
    ("/echo", ["--mode", "ramp", "--touch", "--conns", "30"]),
    *[("/echo", ["--utf8", "--size", str(size)]) for size in range(60, 67)],
    ("/final-block", ["--deflate", "--verify", "1", "--size", "900"]),
    ("/protocol", ["--protocol", "talk, chat"]),
    ("/chat", ["--mode", "broadcast"]),
    ("/chat", ["--mode", "broadcast", "--ack", "all", "--conns", "20", "--window", "9"]),
    ("/echo", ["--host", "localhost"]),
    *[("/events", [*EVENTS, "--size", size]) for size in ("10", "74", "3000")],
    ("/events", [*EVENTS, "--mode", "connect", "--concurrency", "3", "--size", "10"]),
]


@pytest.mark.parametrize("case", GOOD, ids=named)
def test_accepts(wsload: Wsload, case: Case) -> None:
    wsload.accepts(case[0], *case[1])


BAD: list[tuple[str, list[str], str]] = [
    ("/corrupt", [], "payload of message 3 differs"),
    ("/short", [], "reply of 15 bytes"),
    ("/long", [], "reply longer than 16 bytes"),
    ("/opcode", [], "opcode 2, expected 1"),
    ("/masked", [], "masked frame"),
    ("/rsv1", [], "RSV1 without permessage-deflate"),
    ("/rsv3", [], "reserved bit"),
    ("/twice", [], "message"),
    ("/close", [], "closed by the server, code 1011"),
    ("/overlong", [], "not in its shortest form"),
    ("/long-ping", [], "bad control frame"),
    ("/cut-ping", [], "bad control frame"),
    ("/stray", [], "stray continuation"),
    ("/interleaved", [], "bad opcode"),
    ("/huge", ["--verify", "1000"], "reply longer than 16 bytes"),
    ("/silent", ["--timeout", "0.3"], "2 messages never came back"),
    ("/refused", [], "403 Forbidden"),
    ("/bad-accept", [], "wrong Sec-WebSocket-Accept"),
    ("/unoffered", [], "extension not offered"),
    ("/protocol", [], "protocol not offered"),
    ("/abort", [], "read: "),
    ("/echo", ["--mode", "broadcast"], "the publisher got its own message"),
    ("/deaf", ["--mode", "broadcast"], "payload of message 3 differs"),
    ("/events", ["--greetings", "2", "--timeout", "0.3"], "only 0 of 2 connections opened"),
    ("/echo", ["--greetings", "1", "--timeout", "0.3"], "only 0 of 2 connections opened"),
]


@pytest.mark.parametrize(("path", "options", "error"), BAD, ids=[named((path, options)) for path, options, _ in BAD])
def test_refuses(wsload: Wsload, path: str, options: list[str], error: str) -> None:
    assert error in wsload.refuses(path, *options)


def test_nobody_there(wsload: Wsload) -> None:
    """A port that is bound and does not listen refuses connections, and nobody else can take it meanwhile."""
    with contextlib.closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        command = [str(wsload.program), "--port", str(bound.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, timeout=30)
    assert done.returncode == 1
    assert "refused" in json.loads(done.stdout)["first_error"]


# --- What is printed.


def in_order(histogram: dict[str, float]) -> bool:
    values = [histogram[name] for name in QUANTILES]
    return values == sorted(values) and 0 < histogram["mean"] <= histogram["max"]


def test_echo_figures(wsload: Wsload) -> None:
    status, result, server = wsload.run("/echo", "--pipeline", "3")
    assert status == 0
    assert 0 < result["messages"] <= server.received["/echo"]
    assert in_order(result["latency_us"])
    assert in_order(result["handshake_us"])
    assert {"rate", "mb_s", "open_rate", "cpu_pct", "rx_bytes", "tx_bytes"} <= set(result)
    assert not {"probe_us", "tls", "deflate", "fanout_us"} & set(result)


def test_connections_begin_with_messages_of_their_own(wsload: Wsload) -> None:
    _, _, server = wsload.run("/echo", "--conns", "7", "--size", "100", "--verify", "1")
    assert len(set(server.first)) == 7


def test_fan_out_figures(wsload: Wsload) -> None:
    result = wsload.accepts("/chat", "--mode", "broadcast", "--rate", "100", "--conns", "5")
    assert in_order(result["fanout_us"])
    assert in_order(result["latency_us"])
    assert result["fanout_us"]["p50"] >= result["latency_us"]["p50"]  # the last delivery is what counts
    assert result["fanout_us"]["max"] <= result["latency_us"]["max"]


def test_a_schedule_is_kept(wsload: Wsload) -> None:
    """What is sent follows from the time alone, whatever the server does."""
    _, result, server = wsload.run("/echo", "--rate", "1000", "--warmup", "0", "--seconds", "0.3")
    assert 200 <= server.received["/echo"] <= 310
    assert result["offered_rate"] == 1000


# --- TLS.

OVER_TLS: list[Case] = [
    ("/echo", []),
    ("/echo", ["--size", "300000", "--pipeline", "3"]),
    ("/ping", ["--size", "300000", "--pipeline", "30"]),  # a Pong waits while a record is sent in parts
    ("/drip", ["--size", "300", "--pipeline", "7"]),
    ("/fragments", ["--size", "70000", "--binary"]),
    ("/echo", ["--rate", "500"]),
    ("/echo", ["--mode", "idle", "--touch", "--conns", "10"]),
    ("/echo", ["--mode", "ramp", "--conns", "10"]),
    ("/chat", ["--mode", "broadcast", "--conns", "5"]),
    ("/final-block", ["--deflate", "--verify", "1", "--size", "900"]),
]


@pytest.mark.parametrize("case", OVER_TLS, ids=named)
def test_accepts_over_tls(wsload: Wsload, context: ssl.SSLContext, case: Case) -> None:
    assert wsload.accepts(case[0], "--tls", *case[1], context=context)["tls"].startswith("TLSv1.3 ")


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/corrupt", "payload of message 3 differs"),
        ("/close", "closed by the server, code 1011"),
        ("/refused", "403 Forbidden"),
        ("/abort", "read: "),
    ],
)
def test_refuses_over_tls(wsload: Wsload, context: ssl.SSLContext, path: str, error: str) -> None:
    assert error in wsload.refuses(path, "--tls", context=context)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_every_tls_handshake_is_a_full_one(wsload: Wsload, context: ssl.SSLContext, version: ssl.TLSVersion) -> None:
    names = set()

    def note_name(channel: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        names.add(name)

    context.maximum_version = version
    # typeshed has it return nothing but numbers, and None is what means to go on
    context.sni_callback = note_name  # type: ignore[assignment,unused-ignore]
    status, result, server = wsload.run("/echo", "--tls", "--mode", "connect", "--concurrency", "2", context=context)
    assert (status, result["errors"]) == (0, 0)
    assert result["handshakes"] > 2
    assert in_order(result["handshake_us"])
    assert result["tls"].startswith("TLSv1.2 " if version == ssl.TLSVersion.TLSv1_2 else "TLSv1.3 ")
    assert names == {"localhost"}
    assert server.resumed == 0


def test_tls_to_a_server_without(wsload: Wsload, context: ssl.SSLContext) -> None:
    assert "only 0 of 2 connections opened" in wsload.refuses("/echo", "--tls", "--timeout", "0.2")


def test_no_tls_to_a_server_with(wsload: Wsload, context: ssl.SSLContext) -> None:
    assert "read: " in wsload.refuses("/echo", context=context)


# --- The probe.

PROBED: list[list[str]] = [
    ["--path", "/echo", "--binary", "--size", "500"],
    ["--path", "/echo", "--rate", "300"],
    ["--path", "/chat", "--mode", "broadcast", "--conns", "5"],
    ["--path", "/echo", "--mode", "connect", "--concurrency", "3"],
    ["--path", "/echo", "--mode", "idle"],
    ["--path", "/echo", "--mode", "ramp", "--conns", "20"],
    ["--path", "/final-block", "--deflate", "--size", "900"],
]


@pytest.mark.parametrize("options", PROBED, ids=" ".join)
def test_probe(wsload: Wsload, options: list[str]) -> None:
    status, result, server = wsload.run(*options[1:], "--probe-ms", "4", "--probe-path", "/probe")
    assert (status, result["errors"], result["unclean_closes"]) == (0, 0, 0)
    assert 0 < result["probes"] <= server.received["/probe"]
    assert in_order(result["probe_us"])
    assert result["probe_ms"] == 4


def test_probe_over_tls(wsload: Wsload, context: ssl.SSLContext) -> None:
    result = wsload.accepts("/echo", "--tls", "--size", "70000", "--probe-ms", "4", context=context)
    assert in_order(result["probe_us"])


def test_probe_is_in_no_other_figure(wsload: Wsload) -> None:
    alone, probed = (
        wsload.accepts("/echo", "--mode", "idle", "--touch", *probe)
        for probe in ([], ["--probe-ms", "2", "--probe-path", "/drip"])
    )
    assert [alone[key] for key in ("rx_bytes", "tx_bytes", "sends")] == [
        probed[key] for key in ("rx_bytes", "tx_bytes", "sends")
    ]
    assert "latency_us" in alone
    assert "latency_us" not in wsload.accepts("/echo", "--mode", "idle", "--probe-ms", "2")


def test_probe_sees_a_stall(wsload: Wsload) -> None:
    """Five probes are answered at once, when the last of them has come: the first has waited for four intervals."""
    result = wsload.accepts("/echo", "--mode", "idle", "--probe-ms", "10", "--probe-path", "/hold", "--seconds", "0.2")
    assert result["probes"] >= 5
    assert result["probe_us"]["max"] >= 40_000
    assert result["probe_us"]["p50"] <= result["probe_us"]["max"]


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/corrupt", "probe: payload of message 3 differs"),
        ("/masked", "probe: masked frame"),
        ("/twice", "probe: "),
        ("/refused", "probe: handshake refused"),
        ("/unoffered", "probe: extension not offered"),
        ("/mute", "probes never came back"),
    ],
)
def test_refuses_what_the_probe_gets(wsload: Wsload, path: str, error: str) -> None:
    options = ["--mode", "idle", "--probe-ms", "4", "--probe-path", path, "--timeout", "0.3"]
    assert error in wsload.refuses("/echo", *options)


# --- The command line.


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "10.0.0.1",
        "126.255.255.255",
        "128.0.0.1",
        "192.168.1.1",
        "8.8.8.8",
        "::1",
        "example.com",
        "",
        "127.1",
    ],
)
def test_only_loopback(wsload: Wsload, host: str) -> None:
    assert "only addresses in 127.0.0.0/8 are accepted" in wsload.declines("--port", "9", "--host", host)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ([], "usage: wsload"),
        (["--port", "0"], "--port: expected a number from 1 to 65535"),
        (["--port", "9", "--conns", "20001"], "--conns: expected a number from 1 to 20000"),
        (["--port", "9", "--probe-ms", "0"], "--probe-ms: expected a number"),
        (["--port", "9", "--probe-ms", "nan"], "--probe-ms: expected a number"),
        (["--port", "9", "--mode", "flood"], "unknown mode flood"),
        (["--port", "9", "--ack", "some"], "--ack: expected one or all"),
        (["--port", "9", "--hello", "40"], "--hello: at most 20 bytes, with --greetings"),
        (["--port", "9", "--prefix", "0" * 17], "--prefix and --suffix: at most --size bytes"),
        (["--port", "9", "--binary", "--suffix", "0"], "--prefix and --suffix: at most --size bytes, of --text"),
        (["--port", "9", "--greetings", "1", "--deflate"], "--greetings: not with --deflate"),
        (["--port", "9", "--watch", "1"] + ["--watch", "1"] * 64, "--watch: at most 64"),
        (["--port", "9", "--tls-resume"], "usage: wsload"),
        (["--port", "9", "more"], "usage: wsload"),
    ],
    ids=lambda value: " ".join(value[:4]) if isinstance(value, list) else None,
)
def test_wrong_options(wsload: Wsload, options: list[str], error: str) -> None:
    assert error in wsload.declines(*options)


def test_help(wsload: Wsload) -> None:
    done = subprocess.run([wsload.program, "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for option in ("--mode", "--rate", "--window", "--tls", "--probe-ms", "--probe-path"):
        assert option in done.stdout


def test_without_zlib_and_openssl(tmp_path: Path) -> None:
    bare = Wsload(compiled(compiler(), tmp_path / "bare", "-DNO_ZLIB", "-DNO_TLS"), tls=False)
    assert "built without TLS" in bare.declines("--port", "9", "--tls")
    assert "built without zlib" in bare.declines("--port", "9", "--deflate")
    bare.accepts("/ping", "--size", "300", "--probe-ms", "5")
