"""Connecting through real proxies: HTTP CONNECT, plain and over TLS, and SOCKS; and through hostile ones."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import trustme
from anyio.abc import SocketAttribute, SocketStream
from support.client_proxies import proxying
from support.client_servers import Server, echoing, silent
from support.services import free_port
from support.serving import GUARD
from support.tls_contexts import context_for_client, context_for_server

from pywsapp import App, Deflate, HandshakeError, Options, ProxyError, connect
from pywsapp._connecting.client_http_connection import ClientHttpConnection

pytestmark = pytest.mark.anyio
QUICK = Options(handshake_timeout=0.3)
#: For failures that come at once, also on a busy machine.
PATIENT = Options(handshake_timeout=GUARD)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    return context_for_server(authority, "localhost", "chat.test", "127.0.0.1")


@pytest.fixture
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    return context_for_client(authority)


async def echo(app: App, scheme: str, host: str = "localhost", **arguments: Any) -> None:
    options = Options(deflate=Deflate(threshold=0), max_message_size=2**21, max_outbox=2**23)
    with anyio.fail_after(GUARD):
        async with connect(f"{scheme}://{host}:{app.port}/", options=options, **arguments) as conn:
            for message in ("hello", b"\x00" * 100, "x" * 2**20):
                await conn.send(message)
                assert await conn.receive() == message
        assert conn.was_clean


@asynccontextmanager
async def server_of(scheme: str, tls: ssl.SSLContext) -> AsyncIterator[App]:
    async with echoing(tls=tls if scheme == "wss" else None, options=Options(max_message_size=2**21)) as app:
        yield app


@pytest.mark.parametrize("proxy_scheme", ["http", "https"])
@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_http(scheme: str, proxy_scheme: str, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    is_secure = proxy_scheme == "https"
    async with (
        server_of(scheme, server_tls) as app,
        proxying("http", password="hunter2", tls=server_tls if is_secure else None) as proxy,
    ):
        await echo(
            app,
            scheme,
            "chat.test",  # only the proxy can resolve it
            proxy=f"{proxy_scheme}://ana:hunter2@localhost:{proxy.port}",
            tls=client_tls if scheme == "wss" else None,
            proxy_tls=client_tls if is_secure else None,
        )
        assert proxy.requests == [("chat.test", app.port)]
        assert b"Proxy-Authorization: Basic YW5hOmh1bnRlcjI=\r\n" in proxy.heads[0]


@pytest.mark.parametrize(
    ("proxy_scheme", "host", "seen"),
    [
        ("socks5h", "chat.test", "chat.test"),
        ("socks5", "localhost", "127.0.0.1"),
        ("socks4a", "chat.test", "chat.test"),
        ("socks4", "127.0.0.1", "127.0.0.1"),
    ],
)
async def test_socks(
    proxy_scheme: str, host: str, seen: str, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with server_of("wss", server_tls) as app, proxying("socks") as proxy:
        await echo(app, "wss", host, proxy=f"{proxy_scheme}://127.0.0.1:{proxy.port}", tls=client_tls)
        assert proxy.requests == [(seen, app.port)]


async def test_socks_without_tls_and_with_a_password(server_tls: ssl.SSLContext) -> None:
    async with server_of("ws", server_tls) as app, proxying("socks", password="hunter2") as proxy:
        await echo(app, "ws", "chat.test", proxy=f"socks5h://ana:hunter2@127.0.0.1:{proxy.port}")
        assert proxy.requests == [("chat.test", app.port)]


async def test_the_environment(server_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    async with server_of("ws", server_tls) as app, proxying("http") as proxy:
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        await echo(app, "ws", "chat.test", proxy=True)
        monkeypatch.setenv("no_proxy", "localhost")
        await echo(app, "ws", "localhost", proxy=True)
        assert [host for host, _ in proxy.requests] == ["chat.test"]


@pytest.mark.parametrize(("kind", "proxy_scheme"), [("http", "http"), ("socks", "socks5h")])
async def test_the_certificate_of_the_server_is_checked_behind_a_proxy(
    kind: str, proxy_scheme: str, server_tls: ssl.SSLContext
) -> None:
    async with server_of("wss", server_tls) as app, proxying(kind) as proxy:
        with pytest.raises(ssl.SSLCertVerificationError):
            await echo(app, "wss", "chat.test", proxy=f"{proxy_scheme}://127.0.0.1:{proxy.port}")


async def test_another_name_for_the_certificate(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async with server_of("wss", server_tls) as app, proxying("http") as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        await echo(app, "wss", "other.test", proxy=url, tls=client_tls, server_hostname="chat.test")
        await echo(app, "wss", "127.0.0.1", tls=client_tls, server_hostname="chat.test")
        for host, name in (("other.test", None), ("chat.test", "other.test")):
            with pytest.raises(ssl.SSLCertVerificationError):
                await echo(app, "wss", host, proxy=url, tls=client_tls, server_hostname=name)


async def test_the_certificate_of_the_proxy_is_checked(server_tls: ssl.SSLContext) -> None:
    async with server_of("ws", server_tls) as app, proxying("http", tls=server_tls) as proxy:
        with pytest.raises(ssl.SSLCertVerificationError):
            await echo(app, "ws", "chat.test", proxy=f"https://localhost:{proxy.port}")
        assert proxy.heads == []


async def test_a_refusal_of_the_server_behind_a_proxy() -> None:
    async with echoing(Server()) as app, proxying("http") as proxy:
        with pytest.raises(HandshakeError, match="403 Forbidden: no access"):
            async with connect(f"ws://127.0.0.1:{app.port}/no", proxy=f"http://127.0.0.1:{proxy.port}"):
                pytest.fail("the block is entered")


# -- proxies that refuse, fail or attack -------------------------------------------------------------------------------


async def failing(url: str, options: Options = QUICK, target: str = "ws://chat.test/") -> OSError:
    with anyio.fail_after(GUARD), pytest.raises(OSError) as raised:  # noqa: PT011 - the text is checked below
        async with connect(target, proxy=url, options=options):
            pytest.fail("the block is entered")
    assert "hunter2" not in f"{raised.value!s}{raised.value!r}"
    assert "YW5hOmh1bnRlcjI" not in str(raised.value)
    assert len(str(raised.value)) < 400
    assert str(raised.value).isprintable()
    return raised.value


@pytest.mark.parametrize("scheme", ["http", "socks5", "socks5h", "socks4"])
async def test_no_proxy_listens(scheme: str) -> None:
    error = await failing(f"{scheme}://ana:hunter2@127.0.0.1:{free_port()}", PATIENT, "ws://127.0.0.1/")
    assert isinstance(error, ProxyError)
    assert "cannot be reached" in str(error)


@pytest.mark.parametrize("scheme", ["http", "https", "socks5h"])
async def test_a_proxy_that_does_not_answer(scheme: str) -> None:
    with silent() as sock:
        error = await failing(f"{scheme}://ana:hunter2@127.0.0.1:{sock.getsockname()[1]}")
    assert isinstance(error, TimeoutError)


HTTP_ANSWERS: list[tuple[bytes, int | None, str]] = [
    (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", 407, "answered 407"),
    (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 9999999\r\n\r\n" + b"x" * 5000, 502, "answered 502"),
    (b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1/\r\n\r\n", 302, "answered 302"),
    (b"HTTP/1.1 403 Basic YW5hOmh1bnRlcjI= hunter2\r\n\r\n", 403, r"answered 403 \.\.\. \.\.\."),
    (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 101 x\r\n\r\n", None, "bytes of its own"),
    (b"HTTP/1.1 200 OK\r\nA: " + b"x" * 100_000, None, "malformed or too long"),
    (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 5000 + b"\r\n", None, "malformed or too long"),
    (b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, 100, "interim"),
    (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", 101, "interim"),
    (b"HTTP/2.0 200 OK\r\n\r\n", None, "malformed"),
    (b"\x05\x00", None, "malformed"),
    (b"HTTP/1.1 403 \x9b31m\x85" + b"x" * 10_000 + b"\r\n\r\n", 403, "answered 403"),
]


async def test_answers_of_http_proxies() -> None:
    for answer, status, text in HTTP_ANSWERS:
        async with proxying("http", answer=answer) as proxy:
            error = await failing(f"http://ana:hunter2@127.0.0.1:{proxy.port}", PATIENT)
        assert isinstance(error, ProxyError), answer[:50]
        assert error.status == status
        with pytest.raises(ProxyError, match=text):
            raise error


SOCKS_ANSWERS = [
    b"",
    b"\x05\xff",
    b"\x04\x00",
    b"\x05\x00\x05\x02\x00",
    b"\x05\x00\x05\x00\x00\x03\x02\xff\xff\0\0",
    b"HTTP/1.1 400",
    b"\x05\x00\x05\x00\x00\x09\0\0\0\0\0\0",
    b"\x05\x00" + b"\0" * 100_000,
    b"\x05\x02\x01\x01",
]


async def test_answers_of_socks_proxies() -> None:
    for answer in SOCKS_ANSWERS:
        async with proxying("socks", answer=answer) as proxy:
            error = await failing(f"socks5h://ana:hunter2@127.0.0.1:{proxy.port}")
        assert isinstance(error, (ProxyError, TimeoutError)), answer[:50]


async def test_a_proxy_that_answers_slowly_ends_in_time() -> None:
    async with proxying("http", answer=b"HTTP/1.1 200 OK\r\nA: b") as proxy:
        assert isinstance(await failing(f"http://127.0.0.1:{proxy.port}"), TimeoutError)


async def test_a_wrong_password() -> None:
    async with proxying("socks", password="other") as proxy:
        assert isinstance(await failing(f"socks5h://ana:hunter2@127.0.0.1:{proxy.port}", PATIENT), ProxyError)


async def test_connecting_by_a_proxy_can_be_cancelled_at_any_moment(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async def enter(url: str, proxy_url: str) -> None:
        async with connect(url, proxy=proxy_url, tls=client_tls) as conn:
            await conn.receive()

    async with server_of("wss", server_tls) as app:
        for kind, scheme in (("http", "http"), ("socks", "socks5h")):
            async with proxying(kind) as proxy:
                for steps in range(0, 40, 3):
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(enter, f"wss://chat.test:{app.port}/", f"{scheme}://127.0.0.1:{proxy.port}")
                        for _ in range(steps):
                            await anyio.lowlevel.checkpoint()
                        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("scheme", ["direct", "http", "socks5h"])
async def test_nothing_is_left_of_a_connection_that_is_cancelled_as_it_is_made(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvloop calls `connection_made`, and no `connection_lost`, if the creation of the transport is cancelled then."""
    made: list[ClientHttpConnection] = []
    scope = anyio.CancelScope()
    connection_made = ClientHttpConnection.connection_made

    def cancel(http: ClientHttpConnection, transport: Any) -> None:
        connection_made(http, transport)
        made.append(http)
        scope.cancel()

    async with echoing() as app, proxying("http" if scheme == "http" else "socks") as proxy:
        url = None if scheme == "direct" else f"{scheme}://127.0.0.1:{proxy.port}"
        monkeypatch.setattr(ClientHttpConnection, "connection_made", cancel)
        with scope:
            async with connect(f"ws://127.0.0.1:{app.port}/", proxy=url, options=Options(on_close_timeout=0.05)):
                pytest.fail("the block is entered")
        assert scope.cancelled_caught
        assert [http._runtime.connections for http in made] == [set()]


async def test_a_client_that_is_cancelled_leaves_the_proxy() -> None:
    scope, has_left = anyio.CancelScope(), anyio.Event()

    async def serve(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            scope.cancel()  # while the client waits for the answer
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()
        has_left.set()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        with scope:
            async with connect(
                "ws://chat.test/", proxy=f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
            ):
                pytest.fail("the block is entered")
        with anyio.fail_after(GUARD):
            await has_left.wait()
        tasks.cancel_scope.cancel()
