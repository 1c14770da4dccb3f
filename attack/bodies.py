"""Requests with bodies that lie about their length, or never end."""

from __future__ import annotations

from itertools import count

from attack.link import BLOCK_SIZE, Attack, Target

_POST = b"POST /form HTTP/1.1\r\nHost: 127.0.0.1\r\n"
_CHUNKED = _POST + b"Transfer-Encoding: chunked\r\n\r\n"
_BLOCK = b"x" * BLOCK_SIZE

#: What is sent once, and what is sent after it again and again.
_TRICKS = [
    (_POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b""),
    (_POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", b""),
    (_POST + b"Content-Length: -1\r\n\r\n", _BLOCK),
    (_POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", _BLOCK),
    (_POST + b"Content-Length: 1000000000000\r\n\r\n", _BLOCK),
    (_POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", b"1\r\nx\r\n"),
    (_CHUNKED + b"ffffffffffffffff\r\n", _BLOCK),
    (_CHUNKED + b"-1\r\n", _BLOCK),
    (_CHUNKED + b"1;", _BLOCK),  # an extension without end
    (_CHUNKED, b"1\r\nx\r\n" * 10_000),
    (_CHUNKED, b"0" * BLOCK_SIZE),  # a size without end
    (_CHUNKED + b"0\r\n", b"X-Trailer: v\r\n" * 1000),
    (b"GET /page HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n", _BLOCK),
    (b"POST /def HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n", _BLOCK),
]
_numbers = count()


async def lie(target: Target) -> None:
    """Send the next one of the requests, until the server ends the connection."""
    once, forever = _TRICKS[next(_numbers) % len(_TRICKS)]
    async with target.connect() as link:
        await link.write(once)
        while forever:
            await link.write(forever)
        await link.end()


ATTACKS = [
    Attack(
        "bodies",
        56,
        lie,
        "14 kinds of bodies with contradicting, wrong or endless lengths",
        frozenset({"HTTP 400", "HTTP 405", "HTTP 408", "HTTP 411", "HTTP 413", "HTTP 431", "HTTP 501", "end"}),
    ),
]
