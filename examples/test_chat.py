"""Tests of chat.py, in memory: no port, no waiting for a time.

Run:   pip install pytest; python -m pytest test_chat.py
"""

import pytest
from chat import Chat, make_app

from pywsapp import App
from pywsapp.testing import FakeConnection, SyncTestClient, TestClient


@pytest.fixture
def app() -> App:  # the fixtures ws_client and sync_ws_client run it
    return make_app()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_a_message_goes_to_all_others(ws_client: TestClient) -> None:
    async with (
        ws_client.connect("/chat") as ana,
        ws_client.connect("/chat") as ben,
        ws_client.connect("/chat") as cem,
    ):
        await ana.send("hello")
        assert await ben.receive() == "hello"
        assert await cem.receive() == "hello"
        await ana.assert_silent()


@pytest.mark.anyio
async def test_the_others_go_on_when_a_client_leaves(ws_client: TestClient) -> None:
    async with ws_client.connect("/chat") as ana, ws_client.connect("/chat") as ben:
        async with ws_client.connect("/chat") as cem:
            cem.reset()
        await ana.send("still there?")
        assert await ben.receive() == "still there?"


@pytest.mark.anyio
async def test_pages_of_other_sites_are_refused(ws_client: TestClient) -> None:
    await ws_client.assert_refused("/chat", 403, origin="https://other.example")


def test_without_async(sync_ws_client: SyncTestClient) -> None:
    with sync_ws_client.connect("/chat") as ana, sync_ws_client.connect("/chat") as ben:
        ana.send(b"\x00\xff")
        assert ben.receive() == b"\x00\xff"


def test_one_method_at_a_time() -> None:
    chat, ana, ben = Chat(), FakeConnection(), FakeConnection()
    chat.on_open(ana)
    chat.on_open(ben)
    chat.on_message(ana, "hello")
    assert (ana.sent, ben.sent) == ([], ["hello"])
    chat.on_close(ben)
    assert chat.clients == {ana}
