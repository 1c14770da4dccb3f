"""Pages of `topic_site.py` in Chromium: clients of topics whose messages and states a test can read."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path
from typing import Any

from support.browser import Page
from support.serving import GUARD

SITE = Path(__file__).parent / "topic_site.py"
#: Connects, and subscribes to a topic; what comes is in `heard`, the states of the client in `states`.
OPEN = """async ([topic, options]) => {
    const {since = null, shared = false, ...more} = options;
    window.heard = [];
    window.lost = 0;
    window.states = [];
    const make = shared ? connectShared : connect;
    window.client = make("/live", {firstDelay: 20, maxDelay: 100, ...more});
    client.on("state", (state) => states.push(state));
    window.room = client.subscribe(topic, {since}, ({data}) => {
        heard.push(data);
        sessionStorage.position = room.position;
    });
    room.on("lost", () => lost++);
    await new Promise((resolve) => room.on("subscribed", resolve));
}"""
#: Publishes numbers; waits for `proceed` 20 times, before it has published all.
WRITE = """([topic, count, pauses]) => {
    window.accepted = 0;
    (async () => {
        for (let number = 0; number < count; number++) {
            client.publish(topic, number).then(() => accepted++);
            if (number % (count / pauses) === 25) await new Promise((resolve) => { window.proceed = resolve; });
        }
    })();
}"""


class Site:
    """The server and its pages.

    Args:
        context: the browser.
        port: the port that pages use.
        servers: the ports of all servers, which get commands.
    """

    def __init__(self, context: Any, port: int, *servers: int) -> None:
        self.url = f"http://localhost:{port}"
        self.context = context
        self._servers = servers or (port,)

    def page(self, topic: str, **options: Any) -> Page:
        """Open a page that subscribes to a topic."""
        page: Page = self.context.new_page()
        page.goto(self.url)
        self.open(page, topic, **options)
        return page

    def open(self, page: Page, topic: str, **options: Any) -> None:
        page.wait_for_function("window.connect")
        page.evaluate(OPEN, [topic, options])

    def command(self, query: str) -> None:
        """Have all servers do something."""
        for port in self._servers:
            with urllib.request.urlopen(f"http://localhost:{port}/command?{query}", data=b"") as answer:
                assert answer.status == 200

    def connections(self) -> int:
        """Return how many connections the server has."""
        with urllib.request.urlopen(f"{self.url}/connections") as answer:
            return int(answer.read())

    def until_connections(self, count: int) -> None:
        """Wait until the server has so many connections."""
        deadline = time.monotonic() + GUARD
        while (found := self.connections()) != count:
            assert time.monotonic() < deadline, found
            time.sleep(0.02)


def write_over_disconnects(site: Site, topic: str, pages: list[Page], messages: int, disconnects: int) -> None:
    """Publish numbers from the first page while the servers drop all connections again and again.

    All pages must get each number once and in order.

    Args:
        site: the servers.
        topic: a topic with a history, to which the pages subscribe.
        pages: the pages.
        messages: how many numbers.
        disconnects: how often all connections are dropped, at most 20.
    """
    pages[0].evaluate(WRITE, [topic, messages, disconnects])
    for number in range(2, disconnects + 2):
        until(pages[0], "window.proceed != null")
        site.command("drop=1006")
        pages[0].evaluate("const go = proceed; window.proceed = null; go()")
        for page in pages:
            # A client that comes back to a server before this has dropped its connections is dropped again.
            until(page, f"states.filter((state) => state === 'open').length >= {number}")
    until(pages[0], f"accepted === {messages}")
    for page in pages:
        assert heard(page, messages) == list(range(messages))
        assert page.evaluate("lost") == 0


def until(page: Page, expression: str) -> None:
    page.wait_for_function(expression, polling=20)  # milliseconds; by default a hidden tab is not looked at


def heard(page: Page, count: int) -> Any:
    """Return what a page has heard, when it is this much."""
    until(page, f"heard.length >= {count}")
    page.evaluate("client.call('add', {a: 1, b: 2})")  # its reply comes after all messages that were sent twice
    return page.evaluate("heard")
