"""A TCP peer that is gone before it is accepted has no address; nothing that it sent reaches a component."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.serving import GUARD, TEXT, Recorder, frame
from support.wire import Peer, get, handshake, peer_of, running, serving

from pywsapp import App, IpBlackList, Response
from pywsapp._server.bind import ListeningSocket

pytestmark = pytest.mark.anyio

PEERS = 30


class Everything(Recorder):
    def on_handshake(self, request: Any) -> None:
        self.record("handshake", request.remote_address)

    def on_request(self, request: Any) -> Response:
        self.record("request", request.remote_address)
        return Response("page")


def send_and_reset(server: Any, data: bytes) -> None:
    """Connect, send and reset while the server, which runs in the same thread, cannot accept."""
    peer = peer_of(server)
    peer.sock.send(data)
    peer.reset()


@pytest.mark.parametrize("data", [handshake() + frame(TEXT, b"hello"), get()], ids=["websocket", "http"])
async def test_a_peer_that_resets_before_it_is_accepted_reaches_no_component(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    component = Everything()
    async with serving(IpBlackList(component, ["127.0.0.1"])) as server:
        for _ in range(PEERS):
            send_and_reset(server, data)
        async with peer_of(server) as last:  # the server accepts it after the others
            await last.send(get())
            assert (await last.response()).status == 403
        await server.runtime.wait_empty()
    assert component.calls == []
    assert caplog.messages == ["127.0.0.1: GET / answered with 403 your address is blocked"]


async def test_a_proxy_header_gives_no_address_to_a_peer_that_has_none() -> None:
    component = Everything()
    app = App("*", 0, proxy_protocol=True)
    app.mount("", component)
    async with running(app):
        for _ in range(PEERS):
            send_and_reset(app, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + handshake())
        async with peer_of(app) as last:
            await last.send(b"PROXY UNKNOWN\r\n" + get())
            assert (await last.response()).status == 200
    assert component.calls == [("request", "127.0.0.1")]


async def test_a_unix_peer_that_resets_is_served_like_any_other(tmp_path: Path) -> None:
    component, path = Everything(), str(tmp_path / "socket")
    async with serving(component, listeners=[ListeningSocket(unix_path=path)]):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        async with Peer(sock) as peer:
            await peer.send(handshake() + frame(TEXT, b"hello"))
            assert (await peer.head())[0] == 101
            with anyio.fail_after(GUARD):
                await component.until_called("message")
    assert component.calls[0] == ("handshake", "")
