"""Ratchet's OriginCheck: only pages of allowed origins can connect.

These tests prove most of it:

    OriginCheck 1  tests/middleware/test_origin.py  test_another_origin_is_refused_and_the_component_is_not_called
    OriginCheck 2  tests/middleware/test_origin.py  test_a_listed_origin_reaches_the_component_once
    OriginCheck 3  tests/middleware/test_origin.py  test_the_hooks_of_a_connection_are_those_of_the_component_inside
    OriginCheck 4  tests/middleware/test_origin.py  test_the_hooks_of_a_connection_are_those_of_the_component_inside
    OriginCheck 5  tests/middleware/test_origin.py  test_the_hooks_of_a_connection_are_those_of_the_component_inside
    OriginCheck 6  tests/middleware/test_origin.py  test_the_list_can_be_changed_at_any_time
    OriginCheck [src]  tests/middleware/test_origin.py  test_an_entry_allows
    OriginCheck [src]  tests/middleware/test_origin.py  test_a_handshake_without_an_origin_passes_unless_one_is_required
"""

from __future__ import annotations

import pytest
from support.ratchet_peer import Recorder, connected, opened, serving

from pywsapp import App, OriginCheck

pytestmark = pytest.mark.anyio


async def test_origin_check_1_another_origin_is_refused_with_403() -> None:
    """OriginCheck 1: a page of another origin gets 403 and the end of the connection, and the component no call."""
    recorder = Recorder()
    app = App(port=0)
    app.route("/", recorder, ["http://a.example"])
    async with serving(app), connected(app) as peer:
        assert (await peer.handshake("/", "Origin: http://b.example")).status == 403
        assert await peer.read_to_end() == b""
    assert recorder.names == []


async def test_origin_check_6_the_list_can_change_while_the_app_runs() -> None:
    """OriginCheck 6: allowed_origins is public; a change applies to the next handshake."""
    recorder = Recorder()
    check = OriginCheck(recorder, ["http://a.example"])
    app = App(port=0)
    app.route("/", check, ["*"])
    async with serving(app):
        async with connected(app) as peer:
            assert (await peer.handshake("/", "Origin: http://b.example")).status == 403
        check.allowed_origins.append("http://b.example")
        async with opened(app, "/", "Origin: http://b.example"):
            await recorder.until_called("on_open")


async def test_origin_check_src_a_bare_host_allows_any_scheme_and_port() -> None:
    """OriginCheck [src]: an entry without a scheme allows any scheme and port; such lists need no change."""
    app = App(port=0)
    app.route("/", Recorder(), ["a.example"])
    async with serving(app):
        for origin in ("http://a.example", "https://a.example:8443", "http://A.EXAMPLE"):
            async with opened(app, "/", f"Origin: {origin}"):
                pass
