"""Connecting that fails, by `connect` and by `run_client`: one plain exception, never an exception group."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from support.client_servers import answering, echoing, silent, websockets_server
from support.services import free_port
from support.serving import GUARD, Recorder

from pywsapp import ConfigurationError, HandshakeError, Options, connect, run_client

pytestmark = pytest.mark.anyio

QUICK = Options(handshake_timeout=0.2)
Attempt = Callable[..., Awaitable[None]]


async def _connect(url: str, **arguments: Any) -> None:
    async with connect(url, **arguments):
        pytest.fail("the block is entered")


async def _run_client(url: str, **arguments: Any) -> None:
    await run_client(Recorder(), url, **arguments)


@pytest.fixture(params=[_connect, _run_client], ids=["connect", "run_client"])
def attempt(request: pytest.FixtureRequest) -> Attempt:
    function: Attempt = request.param
    return function


async def test_refused(attempt: Attempt) -> None:
    async with echoing() as app:
        with pytest.raises(HandshakeError, match="403") as caught:
            await attempt(f"ws://127.0.0.1:{app.port}/no")
    assert caught.value.status == 403


async def test_websockets_refuses(attempt: Attempt) -> None:
    def refuse(connection: Any, request: Any) -> Any:
        return connection.respond(401, "no token\n")

    async with websockets_server(lambda connection: None, process_request=refuse) as address:
        with pytest.raises(HandshakeError, match="401") as caught:
            await attempt(f"ws://{address}/")
    assert caught.value.status == 401


@pytest.mark.parametrize("url", ["ws://127.0.0.1:{}/", "wss://127.0.0.1:{}/"])
async def test_no_server_listens(attempt: Attempt, url: str) -> None:
    with pytest.raises(OSError):  # noqa: PT011 - the text is the system's
        await attempt(url.format(free_port()))


async def test_no_such_unix_socket(attempt: Attempt, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await attempt("ws://localhost/", unix_path=str(tmp_path / "nothing"))


async def test_certificate_of_an_unknown_authority(attempt: Attempt, server_tls: ssl.SSLContext) -> None:
    async with echoing(tls=server_tls) as app:
        with pytest.raises(ssl.SSLError):
            await attempt(f"wss://localhost:{app.port}/")


async def test_certificate_for_another_name(
    attempt: Attempt, authority: trustme.CA, client_tls: ssl.SSLContext
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("other.example").configure_cert(context)
    async with echoing(tls=context) as app:
        with pytest.raises(ssl.SSLError):
            await attempt(f"wss://localhost:{app.port}/", tls=client_tls)


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_proxies_of_the_environment_are_not_used(
    attempt: Attempt, scheme: str, monkeypatch: pytest.MonkeyPatch, server_tls: ssl.SSLContext
) -> None:
    """So no proxy can see a request, and none can leave out TLS."""
    with silent() as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "wss_proxy"):
            for spelt in (name, name.upper()):
                monkeypatch.setenv(spelt, f"{scheme}://127.0.0.1:{proxy.getsockname()[1]}")
        async with echoing(tls=server_tls) as app:
            with pytest.raises(ssl.SSLError):  # the server itself, whose authority is not known here
                await attempt(f"wss://localhost:{app.port}/")
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()


async def test_tls_to_a_server_without(attempt: Attempt, client_tls: ssl.SSLContext) -> None:
    async with echoing() as app:
        with pytest.raises(OSError):  # noqa: PT011 - the text is the system's
            await attempt(f"wss://localhost:{app.port}/", tls=client_tls)


async def test_server_that_does_not_answer(attempt: Attempt) -> None:
    with silent() as sock, anyio.fail_after(GUARD), pytest.raises(HandshakeError, match="in time"):
        await attempt(f"ws://127.0.0.1:{sock.getsockname()[1]}/", options=QUICK)


async def test_server_that_does_not_accept(attempt: Attempt) -> None:
    with socket.socket() as full, contextlib.ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(8):  # more than the backlog; on Linux, connecting then hangs
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        with anyio.fail_after(GUARD), pytest.raises(TimeoutError, match=r"within 0\.2 seconds"):
            await attempt(f"ws://127.0.0.1:{full.getsockname()[1]}/", options=QUICK)


@pytest.mark.parametrize(
    ("answer", "status", "why"),
    [
        (b"", None, "closed the connection"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", 200, "200 OK"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 101, "Accept"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", None, "status line"),
        (b"\x16\x03\x01", None, "cannot be read"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"x" * 100_000, None, "longer"),
    ],
    ids=["nothing", "page", "no accept", "ssh", "tls", "endless"],
)
async def test_server_that_is_no_websocket_server(
    attempt: Attempt, answer: bytes, status: int | None, why: str
) -> None:
    async with answering(answer) as url:
        with pytest.raises(HandshakeError, match=why) as caught:
            await attempt(url)
        assert caught.value.status == status


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("http://localhost/", "looks like ws://"),
        ("localhost:8080", "looks like ws://"),
        ("ws:///path", "looks like ws://"),
        ("ws://localhost:99999/", "not a URL"),
        ("ws://[::1/", "not a URL"),
        ("ws://localhost/#part", "no #fragment"),
        ("ws://ana:secret@localhost/", "headers"),
        ("ws://local host/", "Host"),
        ("ws://localhost/ü", "percent-encoded"),
    ],
)
async def test_invalid_url(attempt: Attempt, url: str, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        await attempt(url)


async def test_invalid_host(attempt: Attempt) -> None:
    # Only some event loops check its length before name resolution.
    with pytest.raises((ConfigurationError, OSError)):
        await attempt(f"ws://{'a' * 70}.example/")


async def test_invalid_arguments(attempt: Attempt, client_tls: ssl.SSLContext) -> None:
    with pytest.raises(ConfigurationError, match="wss://"):
        await attempt("ws://localhost/", tls=client_tls)
    with pytest.raises(ConfigurationError, match="one line"):
        await attempt("ws://localhost/", headers=[("A", "b\r\nc")])
    with pytest.raises(ConfigurationError, match="subprotocol"):
        await attempt("ws://localhost/", subprotocols=["a b"])
