"""Log lines about connections: debug lines when one opens and closes, and the access log."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from support.serving import CLOSE, GUARD, close_frame, frame
from support.wire import Site, get, handshake, peer_of, serving

from pywsapp import Refuse, Response
from pywsapp._server.server import Server

pytestmark = pytest.mark.anyio


def lines(log: pytest.LogCaptureFixture, logger: str) -> list[str]:
    # `message` was formatted at the time of the call; getMessage() formats the connection again.
    return [record.message for record in log.records if record.name == logger]


@pytest.fixture
def access(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def logged(access: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines of the access log, with the durations replaced."""
    return [re.sub(r"\d+\.\d{3} s", "0.000 s", line) for line in lines(access, "pywsapp.access")]


async def until_empty(server: Server) -> None:
    with anyio.fail_after(GUARD):
        await server.runtime.wait_empty()


# -- access log --------------------------------------------------------------------------------------------------------


async def test_access_log_of_a_response(access: pytest.LogCaptureFixture) -> None:
    async with serving(Site(), access_log=True) as server, peer_of(server) as peer:
        await peer.send(get("/page?token=secret"))
        await peer.response()
        peer.disconnect()
        await until_empty(server)
    assert logged(access) == ["127.0.0.1 GET /page 200 in 0.000 s"]
    assert {record.levelno for record in access.records if record.name == "pywsapp.access"} == {logging.INFO}


async def test_access_log_of_a_websocket_comes_when_it_is_closed(access: pytest.LogCaptureFixture) -> None:
    async with serving(Site(), access_log=True) as server, peer_of(server) as peer:
        await peer.open("/chat?token=secret")
        await peer.send(frame(1, b"hello"))
        await peer.frame()
        assert logged(access) == []
        await peer.send(close_frame(3000, "bye"))
        assert (await peer.frame())[0] == CLOSE
        await peer.read_to_end()
        peer.disconnect()
        await until_empty(server)
    assert logged(access) == ["127.0.0.1 GET /chat 101 closed with 3000 after 0.000 s"]
    assert not any("secret" in record.getMessage() for record in access.records)


async def test_access_log_of_a_lost_websocket(access: pytest.LogCaptureFixture) -> None:
    async with serving(Site(), access_log=True) as server, peer_of(server) as peer:
        await peer.open("/chat")
        peer.reset()
        await until_empty(server)
    assert logged(access) == ["127.0.0.1 GET /chat 101 closed with 1006 after 0.000 s"]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        pytest.param(handshake("/chat"), "127.0.0.1 GET /chat 403 in 0.000 s", id="handshake"),
        pytest.param(get("/page"), "127.0.0.1 GET /page 403 in 0.000 s", id="request"),
        pytest.param(b"nonsense\r\n\r\n", "127.0.0.1 no valid request 400", id="malformed"),
        pytest.param(get("/%0d%0aFAKE"), "127.0.0.1 GET /\\r\\nFAKE 403 in 0.000 s", id="forged"),
    ],
)
async def test_access_log_of_a_refusal(request_: bytes, expected: str, access: pytest.LogCaptureFixture) -> None:
    def refuse(request: Any) -> Any:
        raise Refuse(403)

    async with serving(Site(refuse, refuse), access_log=True) as server, peer_of(server) as peer:
        await peer.send(request_)
        await peer.response()
        assert logged(access) == [expected]


@pytest.mark.parametrize(("size", "suffix"), [(6, ""), (7, " incomplete")])
async def test_access_log_of_a_streamed_body_comes_at_its_end(
    size: int, suffix: str, access: pytest.LogCaptureFixture
) -> None:
    go_on = anyio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"one"
        await go_on.wait()
        yield b"two"

    site = Site(lambda request: Response(body(), content_length=size))
    async with serving(site, access_log=True) as server, peer_of(server) as peer:
        await peer.send(get("/stream"))
        await peer.head()
        assert await peer.exactly(3) == b"one"
        assert logged(access) == []
        go_on.set()
        await until_empty(server)
    assert logged(access) == [f"127.0.0.1 GET /stream 200{suffix} in 0.000 s"]


async def test_access_log_is_off_by_default(access: pytest.LogCaptureFixture) -> None:
    async with serving(Site()) as server:
        async with peer_of(server) as peer:
            await peer.send(get())
            await peer.response()
        async with peer_of(server) as peer:
            await peer.open()
            assert server.connection_log._opened_at == {}, "nothing is stored for a connection"
        await until_empty(server)
    assert logged(access) == []


# -- debug lines -------------------------------------------------------------------------------------------------------


async def test_opened_and_closed_connections_are_logged_at_debug_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pywsapp")
    async with serving(Site()) as server, peer_of(server) as peer:
        await peer.open("/chat?token=secret")
        await peer.send(close_frame(3000, "bye"))
        await peer.frame()
        await peer.read_to_end()
        peer.disconnect()
        await until_empty(server)
        assert server.connection_log._opened_at == {}
    opened, closed = lines(caplog, "pywsapp")
    found = re.fullmatch(r"<Connection (\d+) /chat from 127\.0\.0\.1 open> opened", opened)
    assert found is not None
    assert re.fullmatch(
        rf"<Connection {found[1]} /chat from 127\.0\.0\.1 closed 3000> "
        r"ended with code 3000 and reason 'bye' after \d+\.\d{3} s",
        closed,
    )
    assert "secret" not in caplog.text


async def test_close_reason_cannot_forge_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pywsapp")
    async with serving(Site()) as server, peer_of(server) as peer:
        await peer.open()
        await peer.send(close_frame(3000, "bye\r\nFAKE\x1b[31m"))
        await peer.frame()
        peer.disconnect()
        await until_empty(server)
    assert lines(caplog, "pywsapp")[-1].split("reason ")[1].startswith("'bye\\r\\nFAKE\\x1b[31m' after ")


async def test_requests_have_the_application_of_the_server() -> None:
    found = []

    def remember(request: Any) -> Any:
        found.append(request.app)
        return None if request.headers.get("upgrade") else Response("page")

    app = object()
    async with serving(Site(remember, remember), app=app) as server:
        for request in (get(), handshake()):
            async with peer_of(server) as peer:
                await peer.send(request)
                await peer.head()
    assert found == [app, app]
