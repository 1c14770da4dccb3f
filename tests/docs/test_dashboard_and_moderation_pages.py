"""The examples with pages for numbers and moderation, in Chromium."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("support.browser", "support.example_pages")

from support.browser import Page, expect  # noqa: E402 - not before the line above
from support.example_pages import EXAMPLES, Pages, pages_of, take  # noqa: E402
from support.program import Program  # noqa: E402

pytest_plugins = ["support.browser"]
pytestmark = pytest.mark.once


# -- the dashboard -----------------------------------------------------------------------------------------------------


class Source(ThreadingHTTPServer):
    """A metrics page."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.requests = 0


class Answer(BaseHTTPRequestHandler):
    server: Source

    def do_GET(self) -> None:
        self.server.requests += 1
        body = (
            "# TYPE http_requests_total counter\n"
            f'http_requests_total{{code="200"}} {40 * self.server.requests}\n'
            "# TYPE queue_length gauge\n"
            f"queue_length {7 + self.server.requests % 5}\n"
            "# TYPE node_memory_bytes gauge\n"
            'node_memory_bytes{host="<b>web</b>"} 2.5e9\n'
        )
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args: Any) -> None:
        """Print nothing."""


@pytest.fixture
def source() -> Iterator[Source]:
    with Source() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def card(page: Page, name: str) -> Any:
    return page.locator("article").filter(has_text=name)


def test_the_numbers_of_an_exporter(browser: Any, pictures: Path, source: Source) -> None:
    url = f"http://127.0.0.1:{source.server_port}/metrics"
    with pages_of(browser, "dashboard.py", SOURCE=url) as pages:
        page, other = pages.open(), pages.open(phone=True, dark=True)
        expect(card(page, "node_memory_bytes")).to_contain_text("2.5 G")
        expect(card(page, "node_memory_bytes")).to_contain_text("host=<b>web</b>")
        expect(card(page, "http_requests_total").locator(".value")).to_contain_text("per second")
        page.wait_for_function("parseFloat(document.querySelector('.value').innerText) > 10")
        texts: list[Any] = []
        other.on("websocket", lambda socket: socket.on("framereceived", lambda text: texts.append(text)))
        other.reload()
        expect(other.locator("article")).to_have_count(3)
        before = card(other, "queue_length").inner_text()
        other.wait_for_function("before => !document.querySelector('#cards').innerText.includes(before)", arg=before)
        changed = {json.loads(text)["data"].get("series") for text in texts if '"topic":"series","data"' in text}
        assert "queue_length\n" in changed
        assert not [name for name in changed if name and name.startswith("node_memory")]
        take(page, pictures, "dashboard")
        take(other, pictures, "dashboard-phone-dark")
        page.get_by_label("Find").fill("queue")
        page.reload()
        expect(page.locator("article:visible")).to_have_count(1)
        source.shutdown()
        source.server_close()
        expect(page.get_by_role("alert")).to_have_text("The source does not answer.")


def test_the_numbers_of_the_server_itself(browser: Any) -> None:
    with pages_of(browser, "dashboard.py") as pages:
        page = pages.open()
        expect(card(page, "pywsapp_connections").locator(".value").first).to_have_text("1")


# -- the moderated chat ------------------------------------------------------------------------------------------------


def write(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send").click()


def test_moderators_decide(browser: Any, pictures: Path) -> None:
    with (
        Program([str(EXAMPLES / "moderated_chat.py"), "0"], environment={"SLOW_SECONDS": "3600"}) as program,
        closing(Pages(browser, f"http://localhost:{program.port}")) as pages,
    ):
        ana, ben = pages.open(path="/#ana-token"), pages.open(phone=True, dark=True, path="/#ben-token")
        mia = pages.open(path="/#mia-token")
        expect(mia.locator("#queue")).to_be_visible()
        expect(ana.locator("#me")).to_have_text("Ana")
        write(ana, "Who brings cake?")
        for page in ben, mia:
            expect(page.locator("#messages li")).to_contain_text("Who brings cake?")
        write(ana, "What the heck")
        expect(ana.get_by_role("alert")).to_have_text("Slow mode: one message in 3600 seconds.")
        write(ben, "What the heck")
        expect(ben.get_by_role("alert")).to_have_text("Please write it in other words.")
        write(ben, "<b>Cheap watches!</b>")
        ana.get_by_role("button", name="Report").click()
        expect(mia.locator("#reports li")).to_contain_text("Ben, reported by Ana<b>Cheap watches!</b>")
        expect(ana.locator("#queue")).to_be_hidden()
        take(mia, pictures, "moderated-chat")
        take(ben, pictures, "moderated-chat-phone-dark")
        queue = mia.locator("#reports")
        queue.get_by_role("button", name="Mute").click()
        program.until("Mia: mute Ben for 10 min")
        write(ben, "Cheaper watches!")
        expect(ben.get_by_role("alert")).to_have_text("You are muted for 10 min.")
        queue.get_by_role("button", name="Ban").click()
        expect(ben.get_by_role("alert")).to_have_text("You are banned for 10 min.")
        ben.reload()
        expect(ben.get_by_role("alert")).to_have_text("You are banned for 10 min.")
        queue.get_by_role("button", name="Delete").click()
        for page in ana, mia:
            expect(page.locator("#messages li")).to_have_count(1)
        expect(mia.locator("#reports li")).to_have_count(0)
        ana.reload()
        expect(ana.locator("#messages li")).to_have_count(1)
        program.until("Mia: delete message 2")
