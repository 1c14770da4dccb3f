"""The examples with pages for games and uploads, in Chromium."""

from __future__ import annotations

import hashlib
import json
import math
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("support.browser", "support.example_pages")

from support.browser import Page, expect  # noqa: E402 - not before the line above
from support.example_pages import EXAMPLES, Pages, pages_of, take  # noqa: E402
from support.program import Program  # noqa: E402
from support.services import free_port  # noqa: E402

pytest_plugins = ["support.browser"]
pytestmark = [pytest.mark.once, pytest.mark.timeout(180)]  # programs that start one after another


# -- the game ----------------------------------------------------------------------------------------------------------


def until_at(page: Page, x: float, y: float) -> None:
    """Wait until there is a player or a dot at a place of the arena, in parts of its size."""
    page.wait_for_function(
        """([x, y]) => {
            const canvas = document.querySelector("canvas");
            const {data} = canvas.getContext("2d").getImageData(x * canvas.width, y * canvas.height, 1, 1);
            return data[3] > 0;
        }""",
        arg=[x, y],
    )


def snapshot_in(text: str) -> dict[str, list[int]]:
    """Return the snapshot in a message, or one without players."""
    data = json.loads(text).get("data")
    return data if isinstance(data, dict) and "dots" in data else {"players": [], "dots": []}


def press(page: Page, x: float, y: float) -> None:
    """Press the mouse at a place of the arena."""
    box = page.locator("canvas").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    page.mouse.down()


def test_players_share_an_arena(browser: Any, pictures: Path) -> None:
    with pages_of(browser, "game.py") as pages:
        ana = pages.open()
        ana.get_by_label("Your name").fill("Ana")
        ana.get_by_label("Your name").press("Enter")
        expect(ana.locator("#players")).to_contain_text("Ana (you)")
        ben = pages.open(phone=True, dark=True)
        ben.get_by_label("Your name").fill("Ben")
        ben.get_by_label("Your name").press("Enter")
        for page in ana, ben:
            expect(page.locator("#players li")).to_have_count(2)
            expect(page.locator("#players")).to_contain_text("Ben")

        for key in "ArrowLeft", "ArrowUp":
            ana.keyboard.down(key)
        until_at(ben, 0.02, 0.02)  # a corner, where no dots are
        for key in "ArrowLeft", "ArrowUp":
            ana.keyboard.up(key)
        sent: list[str] = []
        ben.on("websocket", lambda socket: socket.on("framereceived", lambda data: sent.append(str(data))))
        ben.reload()
        expect(ben.locator("#players")).to_contain_text("Ben (you)")
        # Ben can have taken a dot where he began; a snapshot with both players has the new one.
        while not (snapshots := [data for data in map(snapshot_in, sent) if len(data["players"]) == 8]):
            ben.wait_for_timeout(20)
        numbers = snapshots[-1]["dots"]
        dots = list(zip(numbers[::2], numbers[1::2], strict=True))
        x, y = min(dots, key=lambda dot: math.hypot(*dot))  # the dot that is the nearest one to the corner
        points = ben.locator("#players li").filter(has_text="Ana").locator("b")
        before = points.inner_text()
        press(ana, x / 1000, y / 1000)
        expect(points).not_to_have_text(before)
        take(ana, pictures, "game")
        take(ben, pictures, "game-phone-dark")
        ana.mouse.up()
        ana.evaluate("for (let timer = setInterval(() => {}); timer; timer--) clearInterval(timer)")
        ana.evaluate(
            """() => {
                const {send} = WebSocket.prototype;
                window.calls = [];
                WebSocket.prototype.send = function (text) { window.calls.push(text); send.call(this, text); };
            }"""
        )
        ana.keyboard.down("ArrowDown")
        ana.evaluate("dispatchEvent(new Event('blur'))")  # of a hidden page the timers hardly run
        directions = [json.loads(text)["params"] for text in ana.evaluate("calls") if "steer" in text]
        assert directions == [{"x": 0, "y": 1}, {"x": 0, "y": 0}]
        ben.goto("about:blank")
        expect(ana.locator("#players li")).to_have_count(1)


# -- the upload --------------------------------------------------------------------------------------------------------


def choose(page: Page, name: str, content: bytes) -> None:
    page.locator("#files").set_input_files({"name": name, "mimeType": "image/png", "buffer": content})


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_uploads_go_on_after_pauses_and_restarts(browser: Any, pictures: Path, tmp_path: Path) -> None:
    directory, port = tmp_path / "uploads", free_port()
    directory.mkdir()
    content = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 12288  # 3 MiB
    letter = content[:100_000]
    settings = {"UPLOAD_DIRECTORY": str(directory)}
    program = [str(EXAMPLES / "upload.py"), str(port)]
    with closing(Pages(browser, f"http://localhost:{port}", restarts=True)) as pages:
        with Program(program, environment=settings | {"BYTES_PER_SECOND": "100000"}) as server:
            assert server.port == port
            page, other = pages.open(), pages.open(phone=True, dark=True)
            choose(page, "holiday.png", content)
            expect(page.locator(".what")).to_contain_text(re.compile(r"^(0\.[1-9]|[12]\.[0-9]) of 3\.0 MiB"))
            page.get_by_role("button", name="Pause").click()
            expect(page.locator(".what")).to_contain_text("(paused)")
            choose(other, "song.png", b"a text")
            expect(other.locator(".failed")).to_contain_text("This is no picture and no PDF.")
        stored = sum(part.stat().st_size for part in directory.glob("*.part"))
        assert 0 < stored < len(content)
        expect(page.locator(".what")).to_contain_text("(connecting)")
        answers: list[Any] = []
        page.on("websocket", lambda socket: socket.on("framereceived", lambda text: answers.append(json.loads(text))))
        with Program(program, environment=settings) as server:
            assert server.port == port
            expect(page.locator(".what")).to_contain_text("(paused)")
            choose(page, "letter.png", letter)
            expect(page.locator(".done")).to_have_count(1)
            take(page, pictures, "upload")
            take(other, pictures, "upload-phone-dark")
            page.get_by_role("button", name="Go on").click()
            expect(page.locator(".done")).to_have_count(2)
    paths = list(directory.iterdir())
    assert {digest_of(path.read_bytes()) for path in paths} == {digest_of(content), digest_of(letter)}
    assert [path.name for path in paths if not re.fullmatch("[0-9a-f]{16}.png", path.name)] == []
    assert next(answer["offset"] for answer in answers if answer["type"] == "stored") == stored
