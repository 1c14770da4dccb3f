"""Ratchet's EchoServer: the differences on the wire.

These tests prove its two cases:

    EchoServer 1  tests/component/test_echo.py  test_a_message_comes_back_once_with_its_type
    EchoServer 2  tests/component/test_echo.py  test_an_error_closes_the_connection_once
"""

from __future__ import annotations

import pytest
from support.ratchet_peer import opened, serving

from pywsapp import App, EchoServer

pytestmark = pytest.mark.anyio


async def test_echo_server_src_binary_stays_binary() -> None:
    """EchoServer [src]: Ratchet echoes binary as text, even if it is no UTF-8; here it stays binary."""
    app = App(port=0)
    app.route("/", EchoServer())
    async with serving(app), opened(app) as peer:
        await peer.send("text", b"\xff\xfe")
        assert [await peer.receive(), await peer.receive()] == ["text", b"\xff\xfe"]
