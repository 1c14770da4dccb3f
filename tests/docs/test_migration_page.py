"""docs/howto/migrate-from-other-libraries.md: its programs do what those of the other libraries did."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.program import Program
from support.serving import GUARD

from pywsapp import HandshakeError, connect_sync

PAGE = Path(__file__).parent.parent.parent / "docs" / "howto" / "migrate-from-other-libraries.md"
PROGRAMS: list[str] = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
pytestmark = pytest.mark.once


def program(part: str) -> str:
    """Return the program that contains a text, on a free port."""
    return next(text for text in PROGRAMS if part in text).replace("8080", "0")


def test_a_chat_and_the_loop_that_listens() -> None:
    with Program(program("class Chat")) as server:
        url = f"ws://localhost:{server.port}/chat"
        with connect_sync(url) as ana, Program(program("reconnecting(").replace(":0/", f":{server.port}/")) as ben:
            while not re.search("hello", ben.output):  # until the loop has subscribed
                ana.send("hello")
                assert ana.receive(timeout=GUARD) == "hello"
        with pytest.raises(HandshakeError, match="403"):
            connect_sync(url, origin="https://evil.example")


def test_rooms() -> None:
    with Program(program("class Room")) as server:
        url = f"ws://localhost:{server.port}/rooms"
        with connect_sync(f"{url}/tea") as ana, connect_sync(f"{url}/tea") as ben, connect_sync(f"{url}/milk") as cem:
            ana.send("a cup?")
            assert [one.receive(timeout=GUARD) for one in (ana, ben)] == ["a cup?"] * 2
            cem.send("alone")
            assert cem.receive(timeout=GUARD) == "alone"


def test_events() -> None:
    with Program(program("class Events")) as server:
        with connect_sync(f"ws://localhost:{server.port}/events") as conn:
            for event in (
                {"name": "join", "room": "secret"},
                {"name": "join", "room": "room:tea"},
                {"name": "say", "room": "secret", "text": "not allowed"},
                {"name": "say", "room": "room:tea", "text": "hello"},
            ):
                conn.send(json.dumps(event))
            assert conn.receive(timeout=GUARD) == "hello"
        assert "Traceback" not in server.output
