"""The example of a streamed answer: a browser reloads the page while the answer comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("support.browser")

from support.browser import expect  # noqa: E402 - not before the line above
from support.program import Program  # noqa: E402

pytest_plugins = ["support.browser"]
pytestmark = pytest.mark.once

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def test_an_answer_survives_reloads(browser: Any) -> None:
    answer = "".join(f"word {number} about tea\n" for number in range(1, 41))
    with Program([str(EXAMPLES / "token_events.py"), "0"]) as program:
        url = f"http://localhost:{program.port}"
        context = browser.new_context()
        try:
            page, other = context.new_page(), context.new_page()
            page.goto(url)
            page.locator("[name=question]").fill("tea")
            page.get_by_role("button", name="Ask").click()
            expect(page.locator("#answer")).to_contain_text("word 2 about tea")
            for text in "word 4 ", "word 8 ":
                page.reload()
                expect(page.locator("#answer")).to_contain_text(text)
            other.goto(page.url)
            context.set_offline(True)
            context.set_offline(False)
            for window in page, other:
                expect(window.locator("#state")).to_have_text("done", timeout=20_000)
                assert window.locator("#answer").text_content() == answer
            page.goto(url + "/#*")
            page.reload()
            expect(page.locator("#state")).to_have_text("there is no such answer")
        finally:
            context.close()
