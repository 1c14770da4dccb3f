"""The Origin field as bytes on a socket: what clients write to look like a page of the site, and what is no origin."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest
from support.serving import GUARD, Serving, serving

from pywsapp import App, EchoServer

pytestmark = pytest.mark.anyio

UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"  # the check does no I/O


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Serving]:
    app = App(port=0)
    app.route("/", EchoServer())
    app.route("/strict", EchoServer(), require_origin=True)
    app.route("/listed", EchoServer(), allowed_origins=["https://example.com", "https://*.parent.example", "null"])
    async with serving(app) as server:
        yield server


async def status(server: Serving, path: str, host: str, fields: bytes) -> int:
    head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{UPGRADE}".encode()
    async with await anyio.connect_tcp("127.0.0.1", server.port) as stream:
        await stream.send(head + fields + b"\r\n")
        with anyio.fail_after(GUARD):
            answer = await stream.receive()
    return int(answer.split()[1])


BESIDE_A_PORT = [
    (b"http://localhost:PORT", 101),
    (b"HTTP://LOCALHOST:PORT", 101),
    (b"https://localhost:PORT", 101),  # TLS can end at a proxy
    (b" \t http://localhost:PORT \t ", 101),  # blanks around a value are not a part of it
    (b"http://127.0.0.1:PORT", 101),
    (b"http://[::1]:PORT", 101),
    (b"", 403),
    (b"null", 403),
    (b"NULL", 403),
    (b"http://localhost", 403),
    (b"http://localhost:80", 403),
    (b"http://localhost:", 403),
    (b"http://localhost:PORT:80", 403),
    (b"http://localhost:+PORT", 403),
    (b"http://localhost.:PORT", 403),
    (b"http://.localhost:PORT", 403),
    (b"http://localhost..:PORT", 403),
    (b"http://localhost:PORT/", 403),
    (b"http://localhost:PORT#", 403),
    (b"http://localhost:PORT?", 403),
    (b"http:localhost:PORT", 403),
    (b"http:/localhost:PORT", 403),
    (b"http:///localhost:PORT", 403),
    (b"http:\\\\localhost:PORT", 403),
    (b"//localhost:PORT", 403),
    (b"localhost:PORT", 403),
    (b"ws://localhost:PORT", 403),
    (b"ftp://localhost:PORT", 403),
    (b"javascript://localhost:PORT", 403),
    (b"http://user@localhost:PORT", 403),
    (b"http://evil.example@localhost:PORT", 403),
    (b"http://localhost:PORT@evil.example", 403),
    (b"http://evil.example\\@localhost:PORT", 403),
    (b"http://evil.example/localhost:PORT", 403),
    (b"http://evil.example#localhost:PORT", 403),
    (b"http://localhost.evil.example:PORT", 403),
    (b"http://evil-localhost:PORT", 403),
    (b"http://evillocalhost:PORT", 403),
    (b"http://sub.localhost:PORT", 403),
    (b"http://localhost,evil.example:PORT", 403),
    (b"http://localhost:PORT, http://localhost:PORT", 403),
    (b"http://localhost:PORT,http://evil.example", 403),
    (b"http://localhost:PORT http://evil.example", 403),
    (b"http://evil.example http://localhost:PORT", 403),
    (b"http://local host:PORT", 403),
    (b"http://local\thost:PORT", 403),
    (b"\xa0http://localhost:PORT", 403),
    (b"http://localhost:PORT\xa0", 403),
    (b"\xef\xbb\xbfhttp://localhost:PORT", 403),
    (b"http://loc%61lhost:PORT", 403),
    (b"http://localhost%00.evil.example:PORT", 403),
    ("http://l\u014dcalhost:PORT".encode(), 403),
    (b"http://l\xf3calhost:PORT", 403),
    ("http://\uff4cocalhost:PORT".encode(), 403),
    (b"http://xn--lcalhost-n1a:PORT", 403),
    (b"http://127.1:PORT", 403),
    (b"http://2130706433:PORT", 403),
    (b"http://0x7f000001:PORT", 403),
    (b"http://0177.0.0.1:PORT", 403),
    (b"http://0.0.0.0:PORT", 403),
    (b"http://[::ffff:127.0.0.1]:PORT", 403),
    (b"http://[::1%25lo]:PORT", 403),
    (b"http://[::1:PORT", 403),
    (b"http://" + b"a" * 2000 + b":PORT", 403),
    (b"http://localhost:PORT\0", 400),
    (b"http://localhost:PORT\r", 400),
    (b"http://localhost:PORT\nOrigin: http://evil.example", 400),
    (b"http://localhost:PORT\r\n http://evil.example", 400),
    (b"\r\n http://localhost:PORT", 400),
    (b"http://localhost:PORT\r\nOrigin: http://localhost:PORT", 400),
    (b"http://localhost:PORT\r\nORIGIN: http://evil.example", 400),
    (b"null\r\nOrigin: null", 400),
]


async def test_an_origin_beside_a_host_with_a_port(server: Serving) -> None:
    for origin, expected in BESIDE_A_PORT:
        field = b"Origin:" + origin.replace(b"PORT", str(server.port).encode()) + b"\r\n"
        assert await status(server, "/", f"localhost:{server.port}", field) == expected, origin


BESIDE_ANOTHER_HOST = [
    ("localhost", b"http://localhost", 101),
    ("localhost", b"http://localhost:80", 101),
    ("LOCALHOST:80", b"http://localhost", 101),
    ("localhost:", b"http://localhost", 101),
    ("localhost", b"https://localhost:443", 101),
    ("localhost", b"http://localhost:443", 403),
    ("localhost", b"https://localhost:80", 403),
    ("localhost:443", b"http://localhost", 403),
    ("localhost", b"http://localhost:65616", 403),  # 65536 + 80
    ("localhost", b"http://localhost:4294967376", 403),  # 2**32 + 80
    ("localhost", b"http://localhost:080000", 403),
]


async def test_an_origin_beside_another_host_field(server: Serving) -> None:
    for host, origin, expected in BESIDE_ANOTHER_HOST:
        assert await status(server, "/", host, b"Origin: " + origin + b"\r\n") == expected, (host, origin)


OTHER_FIELDS = [
    (b"", "/", 101),
    (b"", "/strict", 403),
    (b"oRiGiN: http://evil.example\r\n", "/", 403),
    (b"Origin : http://localhost\r\n", "/", 400),
    (b" Origin: http://localhost\r\n", "/", 400),
    (b"Sec-WebSocket-Origin: http://localhost\r\n", "/strict", 403),
    (b"X-Origin: http://localhost\r\nReferer: http://localhost/\r\n", "/strict", 403),
    (b"Origin: http://evil.example\r\nX-Forwarded-Host: evil.example\r\n", "/", 403),
    (b"Origin: http://evil.example\r\nForwarded: host=evil.example\r\n", "/", 403),
    (b"Origin: http://evil.example\r\nSec-Fetch-Site: same-origin\r\n", "/", 403),
    (b"Origin: null\r\n", "/listed", 101),
    (b"Origin: https://example.com\r\n", "/listed", 101),
    (b"Origin: http://example.com\r\n", "/listed", 403),
    (b"Origin: https://example.com.\r\n", "/listed", 403),
    (b"Origin: https://example.com:8443\r\n", "/listed", 403),
    (b"Origin: https://a.parent.example\r\n", "/listed", 101),
    (b"Origin: https://parent.example\r\n", "/listed", 403),
    (b"Origin: https://.parent.example\r\n", "/listed", 403),
    (b"Origin: https://evilparent.example\r\n", "/listed", 403),
    (b"Origin: https://a.parent.example.evil.example\r\n", "/listed", 403),
    (b"Origin: https://*.parent.example\r\n", "/listed", 403),
    (b"Origin: https://evil.example/a.parent.example\r\n", "/listed", 403),
    (b"Origin: http://localhost\r\n", "/listed", 403),
]


async def test_other_fields(server: Serving) -> None:
    for fields, path, expected in OTHER_FIELDS:
        assert await status(server, path, "localhost", fields) == expected, (fields, path)
