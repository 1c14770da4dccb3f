"""Port scans, health checks and clients that vanish leave nothing above DEBUG in any log."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest
from support.serving import GUARD, close_frame, frame
from support.transports import SERVER_TLS
from support.waiting import until_blocked
from support.wire import Peer, get, handshake, peer_of, running

from pywsapp import App, Connection, MessageComponent, Options, Request, Response

pytestmark = [pytest.mark.anyio, pytest.mark.once]

CLIENT_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(190)
MIB = 1024 * 1024
Act = Callable[[Peer], Awaitable[object]]


class Busy(MessageComponent):
    """Sends much, waits, or closes, as the message says."""

    async def on_handshake(self, request: Request) -> None:
        if request.path == "/slow":
            await anyio.sleep_forever()

    async def on_message(self, conn: Connection, message: Any) -> None:
        if message == "much":
            for _ in range(8):
                await conn.send(b"x" * MIB)
        elif message == "wait":
            await anyio.sleep_forever()
        else:
            await conn.close(1000)


async def body() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * 65536


async def read(request: Request) -> Response:
    await request.read(MIB)
    return Response("page")


def app_of(tls: ssl.SSLContext | None = None, *, access_log: bool = False) -> App:
    app = App("*", 0, tls=tls, access_log=access_log, options=Options(cancel_on_disconnect=True))
    app.route("/chat", Busy())
    app.route("/slow", Busy())
    app.health()
    app.http("/stream", lambda request: Response(body(), content_length=10**9))
    app.http("/body", read, methods=["POST"])
    return app


def sends(data: bytes) -> Act:
    async def act(peer: Peer) -> None:
        await peer.send(data)
        await until_blocked()

    return act


def opens(*frames: bytes) -> Act:
    async def act(peer: Peer) -> None:
        await peer.open("/chat")
        await peer.send(b"".join(frames))
        await until_blocked()

    return act


async def nothing(peer: Peer) -> None:
    await until_blocked()


async def reads_a_little(peer: Peer) -> None:
    await peer.send(get("/stream"))
    await peer.head()


#: What a client does before it vanishes.
SCANS: dict[str, Act] = {
    "nothing": nothing,
    "TLS": sends(CLIENT_HELLO),
    "a part of TLS": sends(CLIENT_HELLO[:40]),
    "SSH": sends(b"SSH-2.0-scanner\r\n"),
    "SMB": sends(bytes.fromhex("000000a4ff534d4272") + bytes(155)),
    "zeros": sends(bytes(5000)),
    "HTTP/0.9": sends(b"GET /\r\n\r\n"),
    "HTTP/2": sends(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "a part of a head": sends(handshake("/chat")[:-4]),
    "RTSP": sends(b"OPTIONS / RTSP/1.0\r\n\r\n"),
    "no host": sends(b"GET / HTTP/1.1\r\n\r\n"),
}
LOSSES: dict[str, Act] = {
    "handshake": sends(handshake("/chat")),
    "slow handshake": sends(handshake("/slow")),
    "open": opens(),
    "a part of a frame": opens(frame(1, b"hello")[:4]),
    "busy handler": opens(frame(1, b"wait"), frame(1, b"more")),
    "much to read": opens(frame(1, b"much")),
    "closing by the server": opens(frame(1, b"close")),
    "closing by the client": opens(close_frame(1001)),
    "streamed response": reads_a_little,
    "a part of a body": sends(get("/body", "POST")[:-2] + b"Content-Length: 100000\r\n\r\nx"),
    "health": sends(get("/health")),
}


def above_debug(log: pytest.LogCaptureFixture) -> list[str]:
    return [
        f"{record.name} {record.levelname} {record.getMessage()}"
        for record in log.records
        if record.levelno > logging.DEBUG
    ]


async def until_lost(app: App) -> None:
    """Wait until the server has noticed the end of all connections."""
    server = app._runner._server
    assert server is not None
    async with peer_of(app):  # the connections before it are accepted
        await until_blocked()
    with anyio.fail_after(GUARD):
        while server.runtime.connections or server.pending._entries:
            await until_blocked()


@pytest.mark.parametrize("resets", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize(
    ("acts", "tls"),
    [(SCANS | LOSSES, None), (SCANS | {"HTTP": sends(get("/health"))}, SERVER_TLS)],
    ids=["plain", "TLS"],
)
async def test_clients_that_vanish(
    acts: dict[str, Act], tls: ssl.SSLContext | None, resets: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    found = {}
    async with running(app_of(tls)) as app:
        for name, act in acts.items():
            caplog.clear()
            peer = peer_of(app)
            await act(peer)
            (peer.reset if resets else peer.disconnect)()
            await until_lost(app)
            if lines := above_debug(caplog):
                found[name] = lines
    assert found == {}


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/health/capacity"])
async def test_health_checks_are_in_the_access_log_at_debug_only(path: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with running(app_of(access_log=True)) as app, peer_of(app) as peer:
        caplog.clear()
        await peer.send(get(path))
        assert (await peer.response()).status == 200
    assert above_debug(caplog) == []
    [record] = [record for record in caplog.records if record.name == "pywsapp.access"]
    assert (record.levelno, vars(record)["path"]) == (logging.DEBUG, path)
