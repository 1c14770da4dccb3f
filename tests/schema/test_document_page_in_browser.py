"""The page with the messages of an App, in Chromium: light and dark, on a desktop and on a phone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

pytest.register_assert_rewrite("support.browser")

from support.browser import expect  # noqa: E402 - not before the line above
from support.contrast import LOWEST_CONTRAST  # noqa: E402
from support.documented import documented  # noqa: E402

from pywsapp.auth import public  # noqa: E402
from pywsapp.testing import AppServer  # noqa: E402

pytest_plugins = ["support.browser"]
pytestmark = pytest.mark.once

WIDTHS = {"desktop": 1180, "phone": 360}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of the page, which an event loop in a thread of its own serves."""
    app = documented()
    app.asyncapi_page("/docs", title="A chat", description="Rooms and boards.", authenticate=public)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(AppServer(app)) as server:
        yield f"{server.url}/docs"


@pytest.fixture(params=list(WIDTHS))
def page(request: pytest.FixtureRequest, browser: Any, url: str) -> Iterator[Any]:
    """The open page. At the end nothing is in the console, and nothing was loaded from elsewhere."""
    is_phone = request.param == "phone"
    viewport = {"width": WIDTHS[request.param], "height": 740}
    context = browser.new_context(viewport=viewport, is_mobile=is_phone, has_touch=is_phone)
    page, problems = context.new_page(), []
    page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: problems.append(f"exception: {error}"))
    page.on("request", lambda request: None if request.url.startswith(url) else problems.append(request.url))
    page.goto(url)
    yield page
    context.close()
    assert problems == []


def assert_everything_fits(page: Any) -> None:
    """The page does not scroll horizontally, and no card is cut off."""
    too_wide = page.evaluate(
        """[...document.querySelectorAll("html, article")].filter(one => one.scrollWidth > one.clientWidth)
           .map(one => one.tagName + " " + one.innerText.slice(0, 50))"""
    )
    assert too_wide == []


def test_the_page_shows_routes_and_messages(page: Any, pictures: Path) -> None:
    document = documented().asyncapi(title="A chat", description="Rooms and boards.")
    expect(page).to_have_title("A chat")
    assert page.locator("header").first.inner_text().split("\n\n")[:2] == ["A chat 1.0.0", "Rooms and boards."]
    visible = page.locator("main").inner_text()
    for channel in document["channels"].values():
        assert channel["address"] in visible
    for message in document["components"]["messages"].values():
        if "correlationId" not in message:  # calls and their replies are shown as procedures
            assert message["title"] in visible
    for text in ("The client sends", "Enter a room.", "The name of the room.", "The server sends", "add → number"):
        assert text in visible
    assert_everything_fits(page)
    for scheme, expected in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 24, 30)")):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == expected
        contrast, text = page.evaluate(LOWEST_CONTRAST)
        assert contrast >= 4.5, text
        page.screenshot(path=pictures / f"document-{scheme}-{page.viewport_size['width']}.png", full_page=True)


def test_links_examples_and_files(page: Any) -> None:
    page.get_by_role("navigation").get_by_role("link", name="/boards/{id}").click()
    board = page.locator("#channel-boards_id")
    expect(board.get_by_role("heading", level=2)).to_be_in_viewport()
    example = board.locator("details").first
    example.locator("summary").click()
    assert isinstance(json.loads(example.locator("pre").inner_text()), dict)
    assert_everything_fits(page)
    with page.expect_download() as downloading:
        page.get_by_role("link", name="AsyncAPI (JSON)").click()
    found = json.loads(Path(downloading.value.path()).read_text(encoding="utf-8"))
    assert found["info"]["title"] == "A chat"
