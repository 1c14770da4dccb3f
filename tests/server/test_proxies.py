"""The client's address behind a proxy: from the request, from a PROXY header, never from untrusted peers."""

from __future__ import annotations

import logging
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from anyio.streams.tls import TLSStream
from support.serving import TEXT, frame
from support.waiting import until_blocked
from support.wire import HttpResponse, Peer, Site, get, handshake, peer_of, running

from pywsapp import App, ConfigurationError, IpBlackList, Options, Response

pytestmark = pytest.mark.anyio

V1 = b"PROXY TCP4 203.0.113.9 198.51.100.7 56324 443\r\n"
V1_UNKNOWN = b"PROXY UNKNOWN\r\n"
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_V2_BODY = bytes([203, 0, 113, 9, 198, 51, 100, 7, 0xDC, 4, 1, 0xBB])
V2 = _SIGNATURE + b"\x21\x11\0\x0c" + _V2_BODY
V2_TLS = _SIGNATURE + b"\x21\x11\0\x14" + _V2_BODY + b"\x20\0\x05\x01\0\0\0\0"
V2_LOCAL = _SIGNATURE + b"\x20\0\0\0"


def who(request: Any) -> Response:
    return Response(f"{request.scheme} {request.remote_address or 'local'}")


def made(**options: Any) -> App:
    app = App("*", 0, **options)
    app.http("/", who)
    app.route("/echo", Site())
    return app


def asking(**fields: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"GET / HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode()


async def answer_to(app: App, data: bytes) -> str:
    async with peer_of(app) as peer:
        await peer.send(data)
        answer: HttpResponse = await peer.response()
    assert answer.status == 200
    return answer.body.decode()


async def is_closed(peer: Peer) -> None:
    """Wait until the server has closed the connection, with or without a reset; it must not have answered."""
    received = b""
    with suppress(ConnectionResetError):
        received = await peer.read_to_end()
    assert received == b""


# -- X-Forwarded-For ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trusted", "fields", "seen"),
    [
        ([], {"x_forwarded_for": "203.0.113.9", "x_forwarded_proto": "https"}, "http 127.0.0.1"),
        (["unix", "10.0.0.0/8"], {"x_forwarded_for": "203.0.113.9", "x_forwarded_proto": "https"}, "http 127.0.0.1"),
        (["127.0.0.1"], {}, "http 127.0.0.1"),
        (["127.0.0.1"], {"x_forwarded_for": "203.0.113.9"}, "http 203.0.113.9"),
        (["127.0.0.0/8"], {"x_forwarded_for": "203.0.113.9", "x_forwarded_proto": "https"}, "https 203.0.113.9"),
        (["127.0.0.1"], {"x_forwarded_for": "192.0.2.66, 203.0.113.9"}, "http 203.0.113.9"),
        (["127.0.0.1", "10.0.0.0/8"], {"x_forwarded_for": "192.0.2.66, 203.0.113.9, 10.1.1.1"}, "http 203.0.113.9"),
        (["127.0.0.1", "10.0.0.0/8"], {"x_forwarded_for": "10.2.2.2:80, 10.1.1.1"}, "http 10.2.2.2"),
        (["127.0.0.1", "10.0.0.0/8"], {"x_forwarded_for": "192.0.2.66, junk, 10.1.1.1"}, "http 10.1.1.1"),
        (["127.0.0.1"], {"x_forwarded_for": "192.0.2.66, junk"}, "http 127.0.0.1"),
        (["127.0.0.1"], {"x_forwarded_for": "[2001:db8::9]:443", "x_forwarded_proto": "wss"}, "https 2001:db8::9"),
        (["127.0.0.1"], {"x_forwarded_proto": "gopher"}, "http 127.0.0.1"),
    ],
)
async def test_the_client_is_the_rightmost_untrusted_address(
    trusted: list[str], fields: dict[str, str], seen: str
) -> None:
    async with running(made(trusted_proxies=trusted)) as app:
        assert await answer_to(app, asking(**fields)) == seen


async def test_junk_is_logged_at_debug_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pywsapp")
    async with running(made(trusted_proxies=["127.0.0.1"])) as app:
        await answer_to(app, asking(x_forwarded_for="unknown"))
    (record,) = [record for record in caplog.records if "X-Forwarded-For" in record.getMessage()]
    assert record.levelname == "DEBUG"
    assert record.getMessage() == "X-Forwarded-For of <Request GET / from 127.0.0.1> has entries that are not addresses"
    assert "unknown" not in record.getMessage()


async def test_a_proxy_on_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    for trusted, seen in (["unix"], "http 203.0.113.9"), (["127.0.0.1"], "http local"), ([], "http local"):
        async with running(made(unix_path=path, trusted_proxies=trusted)):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(path)
            async with Peer(sock) as peer:
                await peer.send(asking(x_forwarded_for="203.0.113.9"))
                assert (await peer.response()).body.decode() == seen


async def test_a_blocked_client_is_refused_and_logged_by_its_own_address(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pywsapp")
    app = made(trusted_proxies=["127.0.0.1"])
    app.route("/guarded", IpBlackList(Site(), ["203.0.113.0/24"]))
    async with running(app):
        for address, status in ("203.0.113.9", 403), ("192.0.2.1", 101):
            async with peer_of(app) as peer:
                await peer.send(handshake("/guarded", x_forwarded_for=address))
                assert (await peer.head())[0] == status
    assert any(message.startswith("203.0.113.9: GET /guarded answered with 403") for message in caplog.messages)


async def test_the_same_origin_follows_the_forwarded_scheme() -> None:
    async with running(made(trusted_proxies=["127.0.0.1"])) as app:
        for proto, origin, status in (
            ("https", "https://chat.example", 101),
            ("https", "http://chat.example", 403),
            ("http", "http://chat.example", 101),
            ("https", "https://evil.example", 403),
        ):
            async with peer_of(app) as peer:
                await peer.send(handshake("/echo", host="chat.example", origin=origin, x_forwarded_proto=proto))
                assert (await peer.head())[0] == status, (proto, origin)


async def test_half_closed_connections_work_behind_a_tls_proxy() -> None:
    go_on = anyio.Event()

    async def slow(request: Any) -> Response:
        await go_on.wait()
        return who(request)

    app = made(trusted_proxies=["127.0.0.1"])
    app.http("/slow", slow)
    async with running(app), peer_of(app) as peer:
        await peer.send(asking(x_forwarded_proto="https").replace(b"GET / ", b"GET /slow "))
        peer.end()
        async with peer_of(app) as other:  # what comes later is answered, so the end has come
            await other.send(asking())
            await other.response()
        go_on.set()
        assert (await peer.response()).body == b"https 127.0.0.1"


@pytest.mark.parametrize("trusted", ["127.0.0.1", ["localhost"], ["10.0.0.0/33"], [""], [7]])
def test_invalid_trusted_proxies_raise(trusted: Any) -> None:
    with pytest.raises(ConfigurationError):
        App(trusted_proxies=trusted)


# -- the PROXY protocol ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "seen"),
    [
        (V1, "http 203.0.113.9"),
        (V1_UNKNOWN, "http 127.0.0.1"),
        (V2, "http 203.0.113.9"),
        (V2_TLS, "https 203.0.113.9"),
        (V2_LOCAL, "http 127.0.0.1"),
    ],
)
async def test_a_header_gives_the_address(header: bytes, seen: str) -> None:
    async with running(made(proxy_protocol=True)) as app:
        assert await answer_to(app, header + get()) == seen


@pytest.mark.parametrize("header", [V1, V2_TLS], ids=["v1", "v2"])
async def test_a_header_can_come_byte_by_byte_and_no_data_after_it_is_lost(header: bytes) -> None:
    async with running(made(proxy_protocol=True)) as app:
        async with peer_of(app) as peer:
            await peer.send(header + handshake("/echo") + frame(TEXT, b"trailing"))
            assert (await peer.head())[0] == 101
            assert await peer.frame() == (TEXT, b"trailing")
        async with peer_of(app) as peer:
            for byte in header + handshake("/echo") + frame(TEXT, b"slow"):
                await peer.send(bytes([byte]))
            assert (await peer.head())[0] == 101
            assert await peer.frame() == (TEXT, b"slow")


@pytest.mark.parametrize(
    "junk", [get(), b"PROXY nonsense\r\n", _SIGNATURE + b"\x31\x11\0\0", b"\x16\x03\x01", b"P" * 200]
)
async def test_without_a_header_the_connection_is_closed_at_once(junk: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pywsapp")
    async with running(made(proxy_protocol=True)) as app:
        async with peer_of(app) as peer:
            await peer.send(junk)
            await is_closed(peer)
        assert await answer_to(app, V1 + get()) == "http 203.0.113.9", "the others are served"
    (record,) = [record for record in caplog.records if "a connection failed before" in record.getMessage()]
    assert record.levelname == "DEBUG"


@pytest.mark.parametrize("second", [V1, V2, b"PROXY UNKNOWN\r\n"], ids=["v1", "v2", "unknown"])
@pytest.mark.parametrize("first", [V1, V2], ids=["v1", "v2"])
async def test_a_second_header_is_refused(first: bytes, second: bytes) -> None:
    """It comes from the client, who could name any address in it."""
    async with running(made(proxy_protocol=True)) as app:
        for cut in (0, len(second)):
            async with peer_of(app) as peer:
                await peer.send(first + second[:cut])
                await peer.send(second[cut:] + get())
                assert (await peer.response()).status == 400


async def test_a_header_must_come_in_time() -> None:
    async with running(made(proxy_protocol=True, options=Options(handshake_timeout=0.2))) as app:
        for part in b"", V2[:10]:
            async with peer_of(app) as peer:
                await peer.send(part)
                await is_closed(peer)


async def test_a_peer_that_is_lost_before_its_header_leaves_no_connection() -> None:
    async with running(made(proxy_protocol=True)) as app:
        for part in b"", V1[:20]:
            peer = peer_of(app)
            await peer.send(part)
            peer.disconnect()
        assert await answer_to(app, V1 + get()) == "http 203.0.113.9"


async def test_with_trusted_proxies_only_they_can_send_a_header() -> None:
    async with running(made(proxy_protocol=True, trusted_proxies=["127.0.0.1"])) as app:
        assert await answer_to(app, V2 + get()) == "http 203.0.113.9"
    async with running(made(proxy_protocol=True, trusted_proxies=["10.0.0.1"])) as app, peer_of(app) as peer:
        await is_closed(peer)


@pytest.mark.parametrize(
    ("trusted", "header", "seen"),
    [
        (["127.0.0.1"], V2, "http 203.0.113.9"),  # from the client, so not trusted
        (["127.0.0.1", "203.0.113.9"], V2, "https 192.0.2.5"),  # from a trusted CDN
        (["127.0.0.1"], V2_LOCAL, "https 192.0.2.5"),  # from the balancer
        (["127.0.0.1"], V1_UNKNOWN, "http 127.0.0.1"),  # the header names no client
        ([], V2, "http 203.0.113.9"),
    ],
)
async def test_forwarding_fields_are_read_if_the_address_in_the_header_is_trusted(
    trusted: list[str], header: bytes, seen: str
) -> None:
    async with running(made(proxy_protocol=True, trusted_proxies=trusted)) as app:
        asked = asking(x_forwarded_for="192.0.2.5", x_forwarded_proto="https")
        assert await answer_to(app, header + asked) == seen


async def test_a_header_before_tls() -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    app = made(proxy_protocol=True, tls=context)
    async with running(app):
        for header in V1, V2:
            async with await anyio.connect_tcp("127.0.0.1", app.port) as stream:
                await stream.send(header)
                tls = await TLSStream.wrap(
                    stream, hostname="localhost", ssl_context=trusting, standard_compatible=False
                )
                await tls.send(get())
                received = b""
                with suppress(anyio.EndOfStream):
                    while True:
                        received += await tls.receive()
            assert received.endswith(b"https 203.0.113.9")


async def test_a_header_on_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    async with running(made(unix_path=path, proxy_protocol=True, trusted_proxies=["unix"])):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        async with Peer(sock) as peer:
            await peer.send(V2[:5])
            await peer.send(V2[5:] + get()[:9])
            await peer.send(get()[9:])
            assert (await peer.response()).body == b"http 203.0.113.9"


async def test_listeners_with_and_without_it_side_by_side(tmp_path: Path) -> None:
    app = made(proxy_protocol=True)
    path = str(tmp_path / "socket")
    app.listen(unix_path=path)
    async with running(app):
        assert await answer_to(app, V2 + get()) == "http 203.0.113.9"
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        async with Peer(sock) as peer:
            await peer.send(get())
            assert (await peer.response()).body == b"http local"


async def test_a_connection_without_its_header_does_not_delay_the_end() -> None:
    async with running(made(proxy_protocol=True)) as app, peer_of(app) as peer:
        await peer.send(V2[:5])
        await until_blocked()
        app.stop()
        await is_closed(peer)
