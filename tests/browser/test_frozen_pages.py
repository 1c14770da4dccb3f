"""Chromium freezes a hidden page: the browser client has no connection then, and misses nothing."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("support.browser", "support.devtools")

from support.devtools import TIMEOUT, DevTools, Tab, chromium  # noqa: E402 - not before the line above
from support.program import Program  # noqa: E402

pytestmark = pytest.mark.once

SITE = Path(__file__).parent.parent / "support" / "topic_site.py"
#: Subscribes to a topic; what comes is in `heard`, the states of the client in `states`.
OPEN = """(async () => {
    window.events = [];
    for (const name of ["freeze", "resume"]) document.addEventListener(name, () => events.push(name));
    window.heard = [];
    window.states = [];
    window.client = %s("/live", {firstDelay: 20, maxDelay: 3_600_000});
    client.on("state", (state) => states.push(state));
    const room = client.subscribe("room:1", ({data}) => heard.push(data));
    await new Promise((resolve) => room.on("subscribed", resolve));
})()"""


@pytest.fixture(scope="module")
def browser() -> Iterator[DevTools]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def site() -> Iterator[str]:
    with Program([str(SITE)]) as program:
        yield f"http://localhost:{program.port}"


def say(site: str, count: int) -> None:
    urllib.request.urlopen(f"{site}/command?say=room:1&count={count}", data=b"").close()


def until_connections(site: str, count: int) -> None:
    deadline = time.monotonic() + TIMEOUT
    while True:
        with urllib.request.urlopen(f"{site}/connections") as answer:
            if int(answer.read()) == count:
                return
        assert time.monotonic() < deadline
        time.sleep(0.02)


def subscribe(tab: Tab, function: str) -> None:
    tab.until("window.connect != null")
    tab.evaluate(OPEN % function)


def test_a_page_that_was_frozen_gets_what_it_missed(browser: DevTools, site: str) -> None:
    page = browser.tab(site)
    subscribe(page, "connect")
    browser.tab("about:blank")
    page.until("document.hidden")
    for number in (1, 2):
        page.freeze()
        until_connections(site, 0)
        say(site, 3)
        page.resume()
        page.until(f"heard.length === {3 * number}")
    assert page.evaluate("heard.join()") == "1,2,3,4,5,6"
    assert page.evaluate("events.join()") == "freeze,resume,freeze,resume"
    assert page.evaluate("states.join()") == "open" + 2 * ",waiting,connecting,open"


def test_a_frozen_page_that_shares_a_connection(browser: DevTools, site: str) -> None:
    frozen, other = browser.tab(site), browser.tab(site)
    for tab in frozen, other:
        subscribe(tab, "connectShared")
    frozen.until("document.hidden")
    frozen.freeze()
    say(site, 3)
    other.until("heard.length === 3")
    frozen.resume()
    frozen.until("heard.length === 3")
    assert frozen.evaluate("heard.join()") == other.evaluate("heard.join()") == "1,2,3"
    assert frozen.evaluate("events.join()") == "freeze,resume"
    until_connections(site, 1)
