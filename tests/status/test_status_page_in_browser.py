"""The status page in Chromium: counts that change, actions, light and dark, a phone, a restart of the server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

pytest.register_assert_rewrite("support.browser")

from support.browser import expect  # noqa: E402 - not before the line above
from support.contrast import LOWEST_CONTRAST  # noqa: E402
from support.services import free_port  # noqa: E402
from support.user_rooms import by_query  # noqa: E402

from pywsapp import App, MessageComponent  # noqa: E402
from pywsapp._status import service  # noqa: E402
from pywsapp.client import SyncConnection, connect_sync  # noqa: E402
from pywsapp.exceptions import ConnectionClosed  # noqa: E402
from pywsapp.testing import AppServer  # noqa: E402

pytest_plugins = ["support.browser"]
pytestmark = pytest.mark.once

HOSTILE = "<img/src=x/onerror=document.title='owned'>"


class Rooms(MessageComponent):
    def on_open(self, conn: Any) -> None:
        conn.subscribe(f"room:{HOSTILE}")

    def on_message(self, conn: Any, message: Any) -> None:
        if message == "fail":
            raise ValueError(HOSTILE)
        conn.send(message)


def app_on(port: int, guard: Any = by_query) -> App:
    app = App(port=port, authenticate=by_query)
    app.route("/rooms/{name:path}", Rooms())
    app.status(guard=guard, can_disconnect=True)
    return app


@pytest.fixture(scope="module", autouse=True)
def short_interval() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "INTERVAL", 0.1)
        yield


@pytest.fixture(scope="module")
def portal() -> Iterator[Any]:
    with start_blocking_portal() as portal:
        yield portal


@contextmanager
def serving(portal: Any, app: App) -> Iterator[str]:
    """Serve an App on its own port; the value is its URL."""
    ended, _ = portal.start_task(app.serve)
    try:
        yield app.urls[0]
    finally:
        portal.call(app.stop)
        ended.result()


@pytest.fixture(scope="module")
def url(portal: Any) -> Iterator[str]:
    """The URL of the server, which an event loop in a thread of its own serves."""
    with portal.wrap_async_context_manager(AppServer(app_on(0))) as server:
        yield server.url


@pytest.fixture
def context(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1180, "height": 800})
    yield context
    context.close()


def open_page(context: Any, url: str, problems: list[str]) -> Any:
    """Open the status page as root, and wait for its first numbers."""
    page = context.new_page()
    page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: problems.append(f"exception: {error}"))
    page.on("request", lambda request: None if request.url.startswith(url) else problems.append(request.url))
    page.goto(f"{url}/status?root")
    expect(page.locator("#state")).to_have_text("Live")
    return page


def connect(url: str, user: str) -> SyncConnection:
    return connect_sync(f"{url.replace('http', 'ws')}/rooms/{HOSTILE.replace('<', '%3C').replace('>', '%3E')}?{user}")


def rows_of(page: Any, title: str) -> Any:
    return page.get_by_role("region", name=title, exact=True).locator("tbody tr")


def card(page: Any, title: str) -> Any:
    return page.locator(".card", has_text=title).locator("b")


def test_counts_change_and_a_connection_and_a_user_are_disconnected(context: Any, url: str) -> None:
    problems: list[str] = []
    page = open_page(context, url, problems)
    expect(card(page, "Connections")).to_have_text("1")
    with connect(url, "ana") as first, connect(url, "ben") as second, connect(url, "ana") as third:
        expect(card(page, "Connections")).to_have_text("4")
        expect(rows_of(page, "Topics")).to_have_text([f"room:{HOSTILE}3"])
        expect(rows_of(page, "Connections")).to_have_count(4)
        expect(rows_of(page, "Connections").first).to_contain_text(f"/rooms/{HOSTILE}")

        page.get_by_role("button", name=re.compile("Disconnect connection .* of ben")).click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("ben on /rooms/")
        page.keyboard.press("Enter")  # the focus is on Cancel
        expect(dialog).to_be_hidden()
        second.send("still open")
        assert second.receive() == "still open"

        page.get_by_role("button", name=re.compile("Disconnect connection .* of ben")).click()
        dialog.get_by_role("button", name="Disconnect").click()
        with pytest.raises(ConnectionClosed):
            second.receive()
        assert second.close_code == 3503
        expect(card(page, "Connections")).to_have_text("3")

        page.get_by_label("Key of a user").fill("ana")
        page.get_by_label("Key of a user").press("Enter")
        expect(dialog).to_contain_text("Disconnect ana?")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.locator("#result")).to_have_text("The user ana is disconnected.")
        for conn in (first, third):
            with pytest.raises(ConnectionClosed):
                conn.receive()
            assert conn.close_code == 3503
    expect(rows_of(page, "Connections")).to_have_count(1)
    expect(rows_of(page, "Ended connections")).to_have_text(["35033"])
    assert page.title().startswith("1 connections")
    assert problems == []


@pytest.mark.parametrize(("width", "is_phone"), [(1180, False), (360, True)], ids=["desktop", "phone"])
def test_it_fits_and_can_be_read(browser: Any, url: str, width: int, is_phone: bool, pictures: Path) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 740}, is_mobile=is_phone, has_touch=is_phone, reduced_motion="reduce"
    )
    problems: list[str] = []
    try:
        page = open_page(context, url, problems)
        with connect(url, "a" * 60) as conn:
            conn.send("fail")
            with pytest.raises(ConnectionClosed):
                conn.receive()
        with connect(url, "a" * 60):
            expect(rows_of(page, "Errors and warnings").first).to_contain_text(f"ValueError: {HOSTILE}")
            expect(rows_of(page, "Connections")).to_have_count(2)
            for scheme, ground in (("light", "rgb(244, 245, 248)"), ("dark", "rgb(20, 22, 28)")):
                page.emulate_media(color_scheme=scheme)
                assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
                contrast, text = page.evaluate(LOWEST_CONTRAST)
                assert contrast >= 4.5, text
                sizes = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
                assert sizes == [width, width]
                page.screenshot(path=pictures / f"status-{scheme}-{width}.png", full_page=True)
    finally:
        context.close()
    assert problems == []


def test_the_page_comes_back_when_the_server_does(context: Any, portal: Any) -> None:
    port = free_port()
    with serving(portal, app_on(port)) as url:
        page = open_page(context, url, [])
    expect(page.locator("#state")).to_have_text("Reconnecting…")
    with serving(portal, app_on(port)):
        expect(page.locator("#state")).to_have_text("Live")
        expect(card(page, "Connections")).to_have_text("1")


def test_a_page_that_was_disconnected_stays_so(context: Any, url: str) -> None:
    page = open_page(context, url, [])
    page.get_by_label("Key of a user").fill("root")
    page.get_by_role("button", name="Disconnect user").click()
    page.get_by_role("dialog").get_by_role("button", name="Disconnect").click()
    expect(page.locator("#state")).to_have_text("You were disconnected.")


@pytest.mark.parametrize(
    ("guard", "text"),
    [
        (lambda request: None, "You may not see this page any more (status 401). Reload it."),
        (
            lambda request: by_query(request) if "upgrade" not in request.headers else None,
            "The WebSocket of the page does not open. The log of the server, or a proxy, says why.",
        ),
    ],
    ids=["page", "websocket"],
)
def test_a_page_that_is_refused_says_so(context: Any, portal: Any, guard: Any, text: str) -> None:
    port = free_port()
    with serving(portal, app_on(port)) as url:
        page = open_page(context, url, [])
    with serving(portal, app_on(port, guard)):
        expect(page.locator("#state")).to_have_text(text)


def test_numbers_that_do_not_come_any_more_are_old(context: Any, portal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with portal.wrap_async_context_manager(AppServer(app_on(0))) as server:
        monkeypatch.setattr(service, "INTERVAL", 1000.0)  # one snapshot, as from a server that has hung up silently
        page = context.new_page()
        page.clock.install()
        page.goto(f"{server.url}/status?root")
        expect(page.locator("#state")).to_have_text("Live")
        page.clock.fast_forward(6_000)
        expect(page.locator("#state")).to_have_text("No answer from the server")
        expect(page.locator("body")).to_have_class(re.compile("stale"))
        with page.expect_websocket():
            page.clock.fast_forward(20_000)


def test_the_focus_stays_when_rows_change(context: Any, url: str) -> None:
    page = open_page(context, url, [])
    with connect(url, "ana"):
        with connect(url, "ben"):
            button = page.get_by_role("button", name=re.compile("of ben"))
            button.focus()
            with connect(url, "cem"):
                expect(rows_of(page, "Connections")).to_have_count(4)
                expect(button).to_be_focused()
            expect(rows_of(page, "Connections")).to_have_count(3)
            expect(button).to_be_focused()
        expect(page.get_by_role("button", name=re.compile("of ana"))).to_be_focused()
