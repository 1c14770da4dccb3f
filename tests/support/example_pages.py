"""The examples with pages, in windows of Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from support.browser import SHORT_PAUSES, Page
from support.program import Program

__all__ = ["EXAMPLES", "Pages", "pages_of", "take"]

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
DESKTOP, PHONE = {"width": 1180, "height": 760}, {"width": 360, "height": 720}


class Pages:
    """Pages of an example.

    Args:
        browser: opens them.
        url: the address of the example.
        restarts: whether its server restarts. The pauses before a page connects again are short then.
    """

    def __init__(self, browser: Any, url: str, *, restarts: bool = False) -> None:
        self.url = url
        self._restarts = restarts
        self._browser = browser
        self._contexts: list[Any] = []

    def open(self, *, phone: bool = False, dark: bool = False, moves: bool = False, path: str = "/") -> Page:
        """Open a page in a window of its own; `moves` allows animations."""
        settings = {"device_scale_factor": 2, "has_touch": True, "is_mobile": True} if phone else {}
        context = self._browser.new_context(
            viewport=PHONE if phone else DESKTOP,
            color_scheme="dark" if dark else "light",
            reduced_motion="no-preference" if moves else "reduce",
            **settings,
        )
        self._contexts.append(context)
        if self._restarts:
            context.add_init_script(SHORT_PAUSES)
        page: Page = context.new_page()
        page.goto(self.url + path)
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()


@contextmanager
def pages_of(browser: Any, example: str, port: int = 0, **settings: str) -> Iterator[Pages]:
    with (
        Program([str(EXAMPLES / example), str(port)], environment=settings) as program,
        closing(Pages(browser, f"http://localhost:{program.port}")) as pages,
    ):
        yield pages


#: Returns the elements that are partly beside the window.
OUTSIDE = """() => [...document.querySelectorAll("body *")].filter((element) => {
    const {left, right, width} = element.getBoundingClientRect();
    return width && (left < -1 || right > innerWidth + 1);
}).map((element) => element.outerHTML.slice(0, 80))"""


def take(page: Page, pictures: Path, name: str) -> None:
    """Take a screenshot, and check that nothing is beside the window."""
    page.screenshot(path=pictures / f"{name}.png")
    assert page.evaluate(OUTSIDE) == []
