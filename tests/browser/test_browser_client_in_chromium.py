"""The browser client in Chromium: tabs, reloads, networks, clocks, and pages that the browser stores."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("support.browser")

from support.browser import ARGUMENTS, SHORT_PAUSES, Page, expect, find_chromium  # noqa: E402 - not before the line above
from support.program import Program  # noqa: E402
from support.services import free_port  # noqa: E402
from support.topic_pages import SITE, Site, heard, until, write_over_disconnects  # noqa: E402

pytest_plugins = ["support.browser"]
pytestmark = pytest.mark.once

GUIDE = Path(__file__).parent.parent.parent / "docs" / "howto" / "use-topics-in-a-browser.md"
MESSAGES = 1_000
DISCONNECTS = 20
topics = (f"room:{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    with Program([str(SITE)]) as program:
        yield program


@pytest.fixture
def site(browser: Any, program: Program) -> Iterator[Site]:
    context = browser.new_context()
    yield Site(context, program.port)
    context.close()


def test_messages_of_one_tab_in_another_over_disconnects(site: Site) -> None:
    topic = next(topics)
    pages = [site.page(topic), site.page(topic)]
    write_over_disconnects(site, topic, pages, MESSAGES, DISCONNECTS)
    for page in pages:
        assert page.evaluate("states.filter((state) => state === 'open').length") == DISCONNECTS + 1


def test_a_reload_goes_on_where_the_page_was(site: Site) -> None:
    topic = next(topics)
    page = site.page(topic)
    site.command(f"say={topic}&count=3")
    before = heard(page, 3)
    position = page.evaluate("sessionStorage.position")
    page.goto("about:blank")
    site.command(f"say={topic}&count=3")
    page.goto(site.url)
    site.open(page, topic, since=position)
    assert [int(number) for number in heard(page, 3)] == [int(before[-1]) + step for step in (1, 2, 3)]


def test_a_page_that_was_offline_connects_when_it_is_online_again(site: Site) -> None:
    topic = next(topics)
    page = site.page(topic, firstDelay=3_600_000, maxDelay=3_600_000)
    site.context.set_offline(True)
    site.command(f"drop=1006&say={topic}&count=3")
    until(page, "client.state === 'waiting'")
    page.evaluate("void client.publish(room.topic, 'written offline')")
    site.context.set_offline(False)
    assert heard(page, 4)[3] == "written offline"


def test_a_computer_that_has_slept(site: Site) -> None:
    topic = next(topics)
    page: Page = site.context.new_page()
    page.clock.install()
    page.goto(site.url)
    page.clock.pause_at(time.time() + 3_600)  # so that no ping waits for its answer when the sleep begins
    page.evaluate(
        """() => {
            const {send} = WebSocket.prototype;
            window.sent = [];
            WebSocket.prototype.send = function (text) { sent.push(JSON.parse(text).type); send.call(this, text); };
        }"""
    )
    site.open(page, topic, firstDelay=36_000_000, maxDelay=36_000_000)
    assert page.evaluate("sent") == ["connect", "subscribe"]
    page.clock.fast_forward(3_600_000)
    assert page.evaluate("sent.slice(2)") == ["ping"]
    assert page.evaluate("states") == ["open"]
    site.command(f"drop=1006&say={topic}&count=3")
    until(page, "client.state === 'waiting'")
    page.clock.fast_forward(3_600_000)
    assert len(heard(page, 3)) == 3


def test_a_page_to_which_the_user_comes_back(browser: Any, program: Program) -> None:
    """The browser keeps such a page in memory, if it has no open WebSocket."""
    topic = next(topics)
    with browser.browser_type.launch(
        executable_path=find_chromium(), args=ARGUMENTS, ignore_default_args=["--disable-back-forward-cache"]
    ) as keeping:
        site = Site(keeping.new_context(), program.port)
        page = site.page(topic)
        page.evaluate("addEventListener('pageshow', (event) => { window.persisted = event.persisted; })")
        page.goto(site.url + "/?other")
        site.command(f"say={topic}&count=3")
        page.go_back(wait_until="commit")
        assert len(heard(page, 3)) == 3
        assert page.evaluate("persisted") is True
        assert page.evaluate("states") == ["open", "waiting", "connecting", "open"]


def test_an_expired_token_is_replaced(site: Site) -> None:
    page: Page = site.context.new_page()
    page.goto(site.url)
    page.wait_for_function("window.connect")
    page.evaluate(
        """() => {
            window.asked = 0;
            window.states = [];
            const token = async () => `ana.${Math.floor(Date.now() / 1000) + (asked++ ? 60 : 4)}`;
            window.client = connect("/private", {token});
            client.on("state", (state) => states.push(state));
        }"""
    )
    until(page, "client.state === 'open' && asked > 1")
    assert page.evaluate("client.call('hello')") == "ana"
    assert page.evaluate("client.user") == "ana"


# -- one connection for all tabs ---------------------------------------------------------------------------------------


def test_tabs_share_a_connection(site: Site) -> None:
    topic = next(topics)
    site.until_connections(0)  # those of the tests before can end later than their pages
    first = site.page(topic, shared=True)
    site.command(f"say={topic}&count=3")
    said = heard(first, 3)
    second = site.page(topic, shared=True)
    assert site.connections() == 1
    assert heard(second, 3) == said
    position = first.evaluate("room.position")
    third = site.page(topic, shared=True, since=position)
    third.evaluate("client.publish(room.topic, 'hello')")
    assert [heard(page, count) for page, count in ((first, 4), (second, 4), (third, 1))] == [
        [*said, "hello"],
        [*said, "hello"],
        ["hello"],
    ]
    third.evaluate("client.publish(room.topic, new Uint8Array([1, 255]))")
    until(first, "heard.length === 5")
    assert first.evaluate("[...heard[4]]") == [1, 255]
    assert third.evaluate("client.call('add', {a: 1, b: 2})") == 3
    error = third.evaluate("client.call('subtract').catch((error) => [error.name, error.code])")
    assert error == ["PywsappError", "unknown_method"]
    first.close()
    second.evaluate("client.publish(room.topic, 'again')")
    for page in second, third:
        until(page, "heard.at(-1) === 'again'")
    assert site.connections() == 1
    for page in second, third:
        page.close()


def test_tabs_that_share_a_connection_miss_and_repeat_nothing(site: Site) -> None:
    topic, count = next(topics), 200
    pages = [site.page(topic, shared=True) for _ in range(3)]
    write_over_disconnects(site, topic, pages, count, disconnects=4)
    for page in pages:
        assert page.evaluate("states.filter((state) => state === 'open').length") == 5


def test_presence_of_tabs_that_share_a_connection(site: Site) -> None:
    topic = next(topics)
    page, other = site.page(topic, shared=True), site.page(topic, shared=True)
    watch = """(topic) => new Promise((resolve) => {
        window.watched = client.subscribe(topic, {presence: true, track: "here"});
        watched.on("subscribed", () => resolve([...watched.present]));
    })"""
    present = page.evaluate(watch, f"{topic}:present")
    assert [meta for _, meta in present] == ["here"]
    assert other.evaluate(watch, f"{topic}:present") == present
    guest = site.page(topic)
    guest.evaluate(watch, f"{topic}:present")
    for one in page, other, guest:
        until(one, "watched.present.size === 2")
    other.evaluate("watched.unsubscribe()")
    page.evaluate("watched.track('still here')")
    until(guest, "[...watched.present.values()].includes('still here')")
    page.evaluate("watched.unsubscribe()")
    until(guest, "watched.present.size === 1")


def test_a_tab_gives_the_token_and_all_learn_that_it_is_refused(site: Site) -> None:
    pages = [site.context.new_page() for _ in range(2)]
    for page in pages:
        page.goto(site.url)
        page.wait_for_function("window.connectShared")
        page.evaluate(
            """() => {
                window.valid = true;
                const token = () => valid ? `ana.${Math.floor(Date.now() / 1000) + 60}` : "ana.1";
                window.client = connectShared("/private", {token, firstDelay: 20});
                window.opened = 0;
                client.on("state", (state) => { opened += state === "open"; });
            }"""
        )
        until(page, "client.state === 'open'")
        assert page.evaluate("client.user") == "ana"
    pages[1].close()
    page = pages[0]
    site.command("drop=1006")
    until(page, "opened === 2")
    page.evaluate("window.valid = false")
    site.command("drop=4401")
    until(page, "client.state === 'closed'")
    assert page.evaluate("client.reason.code") == "unauthenticated"


def test_the_program_of_the_guide(browser: Any, tmp_path: Path) -> None:
    text = GUIDE.read_text(encoding="utf-8").partition("\n```python\n")[2].partition("\n```\n")[0]
    (tmp_path / "rooms.py").write_text(text.replace("8080", str(free_port())), encoding="utf-8")
    context = browser.new_context()
    context.add_init_script(SHORT_PAUSES)
    with Program([str(tmp_path / "rooms.py")]) as program:
        url = f"http://localhost:{program.port}"
        pages = [context.new_page(), context.new_page()]
        for page in pages:
            page.goto(url)
            expect(page.locator("#state")).to_have_text("open")
        # Each attempt to connect again that fails replaces the reason.
        pages[0].evaluate(
            """() => import('/pywsapp.js').then(({connect}) => {
                window.reasons = [];
                window.other = connect('/live');
                other.on("state", (state) => { if (state === "waiting") reasons.push(other.reason); });
            })"""
        )
        until(pages[0], "other.state === 'open'")
        write(pages[0], "hello")
        for page in pages:
            expect(page.locator("li")).to_have_text(["hello"])
        program.send(signal.SIGTERM)
        assert program.end() == 0
        until(pages[0], "reasons.length > 0")
        assert pages[0].evaluate("[reasons[0].message, reasons[0].closeCode]") == ["service restart", 1012]
    write(pages[0], "meanwhile")
    with Program([str(tmp_path / "rooms.py")]):
        for page in pages:
            expect(page.locator("li")).to_have_text(["hello", "meanwhile"])
    context.close()


def write(page: Page, text: str) -> None:
    page.locator("#text").fill(text)
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#text")).to_have_value("")
