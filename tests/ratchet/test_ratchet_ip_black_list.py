"""Ratchet's IpBlackList: blocked addresses are refused.

These tests prove most of it:

    IpBlackList 1  tests/middleware/test_ip_filter.py  test_other_addresses_reach_the_component_every_time
    IpBlackList 2  tests/middleware/test_ip_filter.py  test_a_blocked_address_is_refused_before_the_component_is_called
    IpBlackList 3  tests/middleware/test_ip_filter.py  test_a_blocked_address_is_refused_before_the_component_is_called
    IpBlackList 4  tests/middleware/test_ip_filter.py  test_the_hooks_of_a_connection_are_those_of_the_component_inside
    IpBlackList 5  tests/middleware/test_ip_filter.py  test_the_hooks_of_a_connection_are_those_of_the_component_inside
    IpBlackList 7  tests/middleware/test_ip_filter.py  test_block_and_unblock_can_be_chained_and_keep_the_order
    IpBlackList 8  tests/middleware/test_ip_filter.py  test_the_hooks_of_a_connection_are_those_of_the_component_inside
    IpBlackList 9  tests/middleware/test_ip_filter.py  test_addresses_are_compared_by_value_in_any_spelling
    IpBlackList 10  tests/middleware/test_ip_filter.py  test_unblocking_an_unknown_address_is_ignored
    IpBlackList [src]  tests/middleware/test_ip_filter.py  test_an_invalid_address_is_refused
"""

from __future__ import annotations

import pytest
from support.ratchet_peer import Recorder, connected, opened, serving

from pywsapp import App, IpBlackList

pytestmark = pytest.mark.anyio


async def test_ip_black_list_6_a_blocked_address_is_closed() -> None:
    """IpBlackList 2, IpBlackList 3, IpBlackList 6: the handshake is refused with 403 and calls nothing."""
    recorder = Recorder()
    guarded = IpBlackList(recorder, ["127.0.0.0/8"])
    app = App(port=0)
    app.route("/", guarded)
    async with serving(app):
        async with connected(app) as peer:
            assert (await peer.handshake()).status == 403
            assert await peer.read_to_end() == b""
        assert recorder.names == []
        guarded.unblock("127.0.0.0/8")
        async with opened(app):
            await recorder.until_called("on_open")


async def test_ip_black_list_4_messages_are_not_checked() -> None:
    """IpBlackList 4: a connected client can still send messages after its address is blocked."""
    recorder = Recorder()
    guarded = IpBlackList(recorder)
    app = App(port=0)
    app.route("/", guarded)
    async with serving(app), opened(app) as peer:
        guarded.block("127.0.0.1")
        await peer.send("still here")
        await recorder.until_called("on_message")
        assert recorder.names == ["on_open", "on_message"]
