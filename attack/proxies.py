"""PROXY headers that are too long, wrong, or never complete, for a server that expects them."""

from __future__ import annotations

import os
from itertools import count

from attack.link import BLOCK_SIZE, Attack, Target

_V2 = b"\r\n\r\n\0\r\nQUIT\n"
_HEADERS = [
    b"PROXY TCP4 " + b"1" * BLOCK_SIZE,
    b"PROXY TCP4 1.2.3.4 5.6.7.8 99999 -1\r\n",
    b"PROXY UNKNOWN " + b"x" * 200 + b"\r\n",
    _V2 + b"\x21\x11\xff\xff" + os.urandom(BLOCK_SIZE),  # 65,535 bytes announced
    _V2 + b"\x21\x11\x00\x0c" + b"\x7f",  # incomplete
    _V2 + b"\x31\x11\x00\x0c" + bytes(12),  # version 3
    _V2[:5],
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    os.urandom(BLOCK_SIZE),
]
_numbers = count()


async def send_proxy_header(target: Target) -> None:
    """Send the next one of the headers, and wait for the server to end the connection."""
    async with target.connect("proxy") as link:
        await link.write(_HEADERS[next(_numbers) % len(_HEADERS)])
        await link.end()


ATTACKS = [
    Attack(
        "proxy-headers",
        500,
        send_proxy_header,
        "9 kinds of wrong or incomplete PROXY headers",
        frozenset({"end", "HTTP 400", "HTTP 408"}),
        server=("--proxy",),
        least_seconds=14,  # Options.handshake_timeout, and 4 seconds more
        ours_only=True,
    )
]
