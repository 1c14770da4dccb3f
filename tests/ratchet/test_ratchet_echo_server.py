"""Ratchet's EchoServer on the wire, where ours differs.

Its two cases are proven elsewhere:

    EchoServer 1  tests/component/test_echo.py  test_a_message_comes_back_once_with_its_type
    EchoServer 2  tests/component/test_echo.py  test_an_error_closes_the_connection_once
"""

from __future__ import annotations

import pytest
from support.ratchet_peer import opened, serving

from pywsapp import App, EchoServer

pytestmark = pytest.mark.anyio


async def test_echo_server_src_binary_stays_binary() -> None:
    """EchoServer [src]: there binary comes back as text, even when it is no UTF-8; ours comes back as it was."""
    app = App(port=0)
    app.route("/", EchoServer())
    async with serving(app), opened(app) as peer:
        await peer.send("text", b"\xff\xfe")
        assert [await peer.hear(), await peer.hear()] == ["text", b"\xff\xfe"]
