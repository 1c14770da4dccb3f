"""Requests that are slow, too large, or never complete, and bytes that come with them before the answer."""

from __future__ import annotations

import os

from attack.link import BLOCK_SIZE, Attack, Behaviour, Target
from attack.wire import TEXT, frame, request

_ENDED = frozenset({"end", "HTTP 408"})
_TIMEOUT = 14  # Options.handshake_timeout, and 4 seconds more
_MIB = 1 << 20


async def send_nothing(target: Target) -> None:
    """Connect, and wait for the server to close."""
    async with target.connect() as link:
        await link.end()


def drip_head(seconds: float) -> Behaviour:
    """Return a behaviour that sends a request with a byte at each interval."""

    async def behave(target: Target) -> None:
        async with target.connect() as link:
            for byte in request(target.ports["plain"], "/def"):
                await link.write(bytes((byte,)))
                await link.end(seconds)

    return behave


async def drip_fields(target: Target) -> None:
    """Send a request whose header fields never end, one every 50 ms: faster than `min_http_rate`."""
    async with target.connect() as link:
        await link.write(request(target.ports["plain"], "/def")[:-2])
        while True:
            await link.write(b"X-Field: value\r\n")
            await link.end(0.05)


def send_head(*parts: bytes, forever: bytes = b"") -> Behaviour:
    """Return a behaviour that sends a request, and waits for the server to end the connection.

    Args:
        parts: sent once.
        forever: sent after them again and again.
    """

    async def behave(target: Target) -> None:
        async with target.connect() as link:
            await link.write(b"".join(parts))
            while forever:
                await link.write(forever)
            await link.end()

    return behave


_START = b"GET /def HTTP/1.1\r\nHost: 127.0.0.1\r\n"
_FIELDS = b"".join(b"X-Field-%d: v\r\n" % number for number in range(BLOCK_SIZE // 20))
_LONG_FIELD = b"X-Field: " + b"v" * BLOCK_SIZE
_GET = b"GET /page HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def pipelined(tail: bytes) -> Behaviour:
    """Return a behaviour that sends bytes in one write with the request of a handshake."""

    async def behave(target: Target) -> None:
        async with target.connect() as link:
            await link.write(request(target.ports["plain"], "/def") + tail)
            await link.end(5)

    return behave


ATTACKS = [
    Attack("send-nothing", 2000, send_nothing, "connections that send nothing", _ENDED, least_seconds=_TIMEOUT),
    Attack("drip-heads", 500, drip_head(0.2), "requests, a byte every 200 ms", _ENDED, least_seconds=_TIMEOUT),
    Attack(
        "half-open-heads",
        10_000,
        drip_head(1),
        "requests, a byte every second; default limits",
        _ENDED,
        server=("--max-connections", "0"),
        least_seconds=_TIMEOUT,
    ),
    Attack(
        "half-open-heads-limited",
        10_000,
        drip_head(1),
        "the same with `max_pending=1000`",
        _ENDED | {"reset"},
        server=("--max-pending", "1000"),
        least_seconds=_TIMEOUT,
        ours_only=True,
    ),
    Attack(
        "drip-fields",
        500,
        drip_fields,
        "requests, a header field every 50 ms, for ever",
        _ENDED | {"HTTP 431"},
        least_seconds=_TIMEOUT,
    ),
    Attack(
        "many-headers",
        50,
        send_head(_START, forever=_FIELDS),
        "requests with header fields without end",
        frozenset({"HTTP 431"}),
    ),
    Attack(
        "long-header",
        50,
        send_head(_START, forever=_LONG_FIELD),
        "requests with a field without end",
        frozenset({"HTTP 431"}),
    ),
    Attack(
        "long-request-line",
        50,
        send_head(b"GET /", forever=b"x" * BLOCK_SIZE),
        "request lines without end",
        frozenset({"HTTP 414"}),
    ),
    Attack(
        "pipelined-frames",
        50,
        pipelined(frame(TEXT, b"x") * 2000),
        "2,000 texts with the request of a handshake",
        frozenset({"101"}),
    ),
    Attack(
        "pipelined-garbage",
        50,
        pipelined(b"\xff" + os.urandom(_MIB)),
        "1 MiB of random bytes with the request of a handshake",
        frozenset({"101", "close 1002"}),
    ),
    Attack("pipelined-requests", 50, send_head(_GET * 5000), "5,000 requests at once", frozenset({"HTTP 200"})),
]
