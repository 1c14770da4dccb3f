"""The examples with pages, in Chromium: two users, reloads, and restarts of the server."""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Callable
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
pytestmark = pytest.mark.once

# -- drawing -----------------------------------------------------------------------------------------------------------


def draw(page: Page, shape: Callable[[float], tuple[float, float]], *, lift: bool = True) -> None:
    """Draw a line; a shape returns a place of the board, in parts of its size, for each number from 0 to 1."""
    box = page.locator("canvas").bounding_box()
    assert box is not None
    for number in range(25):
        x, y = shape(number / 24)
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        if number == 0:
            page.mouse.down()
    if lift:
        page.mouse.up()


def circle(x: float, y: float, radius: float) -> Callable[[float], tuple[float, float]]:
    """Return a circle that begins and ends on the right."""
    return lambda part: (x + radius * math.cos(math.tau * part), y + radius * math.sin(math.tau * part))


def waves(y: float) -> Callable[[float], tuple[float, float]]:
    """Return waves from the left to the right."""
    return lambda part: (0.1 + 0.8 * part, y - 0.04 * math.sin(2.5 * math.tau * part))


def touch(page: Page, x: float, y: float) -> None:
    box = page.locator("canvas").bounding_box()
    assert box is not None
    page.touchscreen.tap(box["x"] + x * box["width"], box["y"] + y * box["height"])


def until_drawn(page: Page, x: float, y: float, drawn: bool = True) -> None:
    """Wait until there is a line, or none, at a place of the board."""
    page.wait_for_function(
        """([x, y, drawn]) => {
            const canvas = document.querySelector("canvas");
            const {data} = canvas.getContext("2d").getImageData(x * canvas.width, y * canvas.height, 1, 1);
            return (data[3] > 0) === drawn;
        }""",
        arg=[x, y, drawn],
    )


def test_a_user_who_never_lifts_the_hand(browser: Any) -> None:
    with pages_of(browser, "drawing.py") as pages:
        page = pages.open()
        expect(page.locator("#here")).to_have_text("1 here")
        found = page.evaluate("""async () => {
            const counts = [], {set} = Map.prototype;
            Map.prototype.set = function (key, value) {
                const returned = set.call(this, key, value);
                if (value?.points) counts.push(this.size);
                return returned;
            };
            const {connect} = await import("/pywsapp.js"), hostile = connect("/live");
            for (let number = 0; number < 150; number++)
                await hostile.publish("live:1", {by: "x", color: 1, line: "line" + number, points: [1, 1]});
            await new Promise((resolve) => setTimeout(resolve));
            return Math.max(...counts);
        }""")
        assert found == 100


def test_two_users_draw_on_one_board(browser: Any, pictures: Path) -> None:
    with pages_of(browser, "drawing.py") as pages:
        ana, ben = pages.open(), pages.open(phone=True, dark=True)
        expect(ana.locator("#here")).to_have_text("2 here")
        ana.get_by_role("radio", name="blue").check()
        ben.evaluate(
            """() => {
                window.pointers = 0;  // the most at a time: a page removes them after three seconds
                const count = () => { pointers = Math.max(pointers, document.querySelectorAll(".pointer").length); };
                new MutationObserver(count).observe(document.body, {childList: true, subtree: true});
            }"""
        )
        draw(ana, waves(0.7), lift=False)
        until_drawn(ben, 0.9, 0.7)
        assert ben.evaluate("pointers") == 1
        ana.mouse.up()
        ben.get_by_role("radio", name="orange").check()
        draw(ben, circle(0.7, 0.3, 0.1))
        until_drawn(ana, 0.8, 0.3)
        touch(ben, 0.2, 0.2)
        until_drawn(ana, 0.2, 0.2)
        ben.reload()
        for x, y in (0.9, 0.7), (0.8, 0.3):
            until_drawn(ben, x, y)
        take(ana, pictures, "drawing")
        take(ben, pictures, "drawing-phone-dark")
        ana.get_by_role("button", name="Clear").click()
        for page in ana, ben:
            until_drawn(page, 0.9, 0.7, drawn=False)


# -- ticker ------------------------------------------------------------------------------------------------------------


def test_prices_of_some_symbols(browser: Any, pictures: Path) -> None:
    with pages_of(browser, "ticker.py") as pages:
        page, other = pages.open(moves=True), pages.open(phone=True, dark=True)
        expect(page.locator("tbody tr")).to_have_count(12)
        page.wait_for_function("document.getAnimations().length > 0")
        sent: list[str] = []
        page.on("websocket", lambda socket: socket.on("framereceived", lambda data: sent.append(str(data))))
        for symbol in "ARCH", "BOLT", "LYNX":
            page.get_by_text(symbol, exact=True).first.click()
        expect(page.locator("tbody tr:visible")).to_have_count(9)
        page.reload()
        expect(page.locator("tbody tr:visible")).to_have_count(9)
        expect(page.get_by_role("checkbox", name="BOLT")).not_to_be_checked()
        before = page.locator("tbody").inner_text()
        page.wait_for_function("before => document.querySelector('tbody').innerText !== before", arg=before)
        published = [data for data in sent if '"type":"message"' in data]
        assert published
        assert [data for data in published if re.search("ARCH|BOLT|LYNX", data)] == []
        expect(other.locator("#rate")).to_have_text(re.compile("[1-9][0-9]* messages/s"))
        take(page, pictures, "ticker")
        take(other, pictures, "ticker-phone-dark")
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.evaluate("document.querySelectorAll('#symbols input:checked').forEach((input) => input.click())")
        expect(page.locator("tbody tr:visible")).to_have_count(0)
        page.get_by_text("BOLT", exact=True).first.click()
        before = page.locator("tbody").inner_text()
        page.wait_for_function("before => document.querySelector('tbody').innerText !== before", arg=before)
        assert problems == []


# -- jobs --------------------------------------------------------------------------------------------------------------


def start_jobs(page: Page, *numbers: int) -> None:
    for number in numbers:
        page.get_by_role("button", name="Start a job").click()
        expect(page.get_by_role("progressbar", name=f"Job {number}")).to_be_visible()


def test_jobs_go_on_over_a_reload(browser: Any, pictures: Path) -> None:
    # A job takes 40 seconds, so that it runs for as long as the test.
    with pages_of(browser, "job_progress.py", free_port(), STEP_SECONDS="1") as pages:
        page, other = pages.open(), pages.open(phone=True, dark=True)
        start_jobs(page, 1, 2)
        start_jobs(other, 1)
        expect(page.locator(".running").first).to_be_visible()
        take(page, pictures, "jobs")
        take(other, pictures, "jobs-phone-dark")
        page.reload()
        expect(page.locator(".running .what").first).to_have_text(re.compile("[0-9]+ %"))


def test_jobs_go_on_without_the_page(browser: Any) -> None:
    with pages_of(browser, "job_progress.py", free_port(), STEP_SECONDS="0") as pages:
        page, other = pages.open(), pages.open()
        start_jobs(page, 1, 2)
        page.goto("about:blank")
        start_jobs(other, 1)
        expect(other.locator(".finished")).to_have_count(1)
        page.goto(pages.url)
        expect(page.locator(".finished")).to_have_count(2)
        assert page.locator(".finished .what").all_inner_texts() == ["finished: 40 pictures"] * 2


# -- the answer of a language model ------------------------------------------------------------------------------------


#: The example with a model that stops after 30 and 60 tokens, until there is a file with this number as its name.
SLOW_ANSWER = """
import sys
from pathlib import Path
import anyio
sys.path.insert(0, {examples!r})
import live_answer

async def ask_model(question, begun):
    number = len(begun)
    async for token in written(question, begun):
        yield token
        number += 1
        while number in (30, 60) and not Path({directory!r}, str(number)).exists():
            await anyio.sleep(0.02)

written, live_answer.ask_model = live_answer.ask_model, ask_model
live_answer.app.rebind(port={port})
live_answer.app.run()
"""


@pytest.mark.parametrize("query", ["", "?events"], ids=["client", "events"])
def test_an_answer_survives_reloads_and_restarts(browser: Any, pictures: Path, tmp_path: Path, query: str) -> None:
    port, database = free_port(), str(tmp_path / "answers.db")
    program = SLOW_ANSWER.format(examples=str(EXAMPLES), port=port, directory=str(tmp_path))
    pages = Pages(browser, f"http://localhost:{port}", restarts=True)
    with closing(pages):
        with Program(program, environment={"ANSWERS_DATABASE": database}) as server:
            assert server.port == port
            page = pages.open(path=f"/{query}")
            page.locator("[name=question]").fill("tea")
            page.get_by_role("button", name="Ask").click()
            expect(page.locator("#answer")).to_contain_text("You have asked about tea")
            page.reload()
            expect(page.locator("#answer")).to_contain_text("but it can write")
        expect(page.locator("#state")).to_have_text("connecting")
        (tmp_path / "30").touch()
        with Program(program, environment={"ANSWERS_DATABASE": database}) as server:
            assert server.port == port
            other = pages.open(phone=True, dark=True, path=page.url.removeprefix(pages.url))
            expect(other.locator("#state")).to_have_text("writing")
            take(other, pictures, f"answer-phone-dark{query.replace('?', '-')}")
            (tmp_path / "60").touch()
            for window in page, other:
                expect(window.locator("#state")).to_have_text("done")
            with closing(sqlite3.connect(database)) as connection:
                stored = [token for (token,) in connection.execute("SELECT token FROM tokens ORDER BY number")]
            assert "".join(stored).endswith("you do not have to ask again. ")
            for window in page, other:
                assert window.locator("#answer").text_content() == "".join(stored)
            take(page, pictures, f"answer{query.replace('?', '-')}")
