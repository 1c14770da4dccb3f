"""The example of a streamed answer: a browser reloads the page while the answer comes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("support.browser")

from support.browser import expect  # noqa: E402 - not before the line above
from support.program import Program  # noqa: E402

pytest_plugins = ["support.browser"]
pytestmark = pytest.mark.once

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "streamed_answer.py"
ANSWER = "".join(f"word {number} about tea\n" for number in range(1, 51))


def test_an_answer_survives_reloads(browser: Any) -> None:
    with Program([str(EXAMPLE), "0"]) as program:
        url = f"http://localhost:{program.port}"
        context = browser.new_context()
        try:
            page, other = context.new_page(), context.new_page()
            page.goto(url)
            page.locator("[name=question]").fill("tea")
            page.get_by_role("button", name="Ask").click()
            expect(page.locator("#answer")).to_contain_text("word 2 about tea")
            for words in "word 4 ", "word 8 ":
                page.reload()
                expect(page.locator("#answer")).to_contain_text(words)
            other.goto(page.url)
            context.set_offline(True)
            context.set_offline(False)
            for window in page, other:
                expect(window.locator("#state")).to_have_text("done", timeout=20_000)
                assert window.locator("#answer").text_content() == ANSWER
            page.goto(url + "/#*")
            page.reload()
            expect(page.locator("#state")).to_have_text(re.compile("name"))
        finally:
            context.close()
