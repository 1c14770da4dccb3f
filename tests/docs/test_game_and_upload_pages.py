"""The examples with pages for games and uploads, in Chromium."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("support.browser", "support.example_pages")

from support.browser import Page, expect  # noqa: E402 - not before the line above
from support.example_pages import pages_of, take  # noqa: E402

pytest_plugins = ["support.browser"]
pytestmark = pytest.mark.once


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
        numbers = json.loads([text for text in sent if '"dots":[' in text][-1])["data"]["dots"]
        dots = list(zip(numbers[::2], numbers[1::2], strict=True))
        x, y = min(dots, key=lambda dot: math.hypot(*dot))  # the dot that is the nearest one to the corner
        press(ana, x / 1000, y / 1000)
        until_at(ben, x / 1000, y / 1000)
        expect(ben.locator("#players li").filter(has_text="Ana").locator("b")).not_to_have_text("0")
        take(ana, pictures, "game")
        take(ben, pictures, "game-phone-dark")
        ben.goto("about:blank")
        expect(ana.locator("#players li")).to_have_count(1)
