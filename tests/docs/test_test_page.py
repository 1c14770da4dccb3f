"""The project of docs/howto/test-a-component.md passes its tests on each event loop, with the plugin of pytest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.once
ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "howto" / "test-a-component.md"
FILES = dict(re.findall(r"^<!-- file: (\S+) -->\n```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S))


def test_the_five_tests_pass_on_each_event_loop_and_failures_say_what_happened(pytester: pytest.Pytester) -> None:
    for name, text in {**FILES, "test_failing.py": FAILING}.items():
        (pytester.path / name).write_text(text, encoding="utf-8")
    pytester.makeini("[pytest]")
    result = pytester.runpytest_subprocess("-p", "pywsapp_pytest", "-p", "no:cacheprovider", "-W", "error")
    result.assert_outcomes(passed=15, failed=6)
    output = result.stdout.str()
    assert [line for line in EXPECTED if line not in output] == []


FAILING = """
import pytest
from chat import Room, make_app
from pywsapp import App, MessageComponent

pytestmark = pytest.mark.anyio

class Broken(MessageComponent):
    def on_message(self, conn, message):
        raise ZeroDivisionError("in the handler")

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.fixture
def app():
    app = make_app()
    app.route("/broken", Broken())
    return app

async def test_wrong_expectation(ws_client):
    async with ws_client.connect("/room", user="ana") as ws:
        assert await ws.receive() == "welcome bob"

async def test_forgotten_await(ws_client):
    async with ws_client.connect("/room", user="ana") as ws:
        assert ws.receive() == "welcome ana"

async def test_refused(ws_client):
    async with ws_client.connect("/room"):
        pass

@pytest.mark.ws_client(timeout=0.1)
async def test_timeout(ws_client):
    async with ws_client.connect("/room", user="ana") as ws:
        await ws.receive()
        await ws.receive()

async def test_handler(ws_client):
    async with ws_client.connect("/broken", user="ana") as ws:
        await ws.send("hello")
        await ws.receive()

async def test_closed(ws_client):
    async with ws_client.connect("/room", user="ana") as ws:
        await ws.close()
        await ws.assert_closed(4000)
"""
EXPECTED = (
    "AssertionError: assert 'welcome ana' == 'welcome bob'",
    "<ws.receive(...) without await: write `await ws.receive(...)`>",
    "pywsapp.exceptions.HandshakeError: /room was refused with 401",
    "AssertionError: no message came within 0.1 seconds",
    "    <- 'welcome ana'",
    '>       raise ZeroDivisionError("in the handler")',
    "AssertionError: the connection was closed with code 1000, not 4000",
)
