"""The parts of the tutorial, as their readers do them: rooms that survive a restart, tests, and two servers."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("support.browser")

from support.balancers import wait_until_listening  # noqa: E402 - not before the line above
from support.browser import SHORT_PAUSES, Browser, Page, expect  # noqa: E402
from support.program import Program  # noqa: E402
from support.services import Redis, find_program, free_port  # noqa: E402

pytest_plugins = ["support.browser", "pytester"]
pytestmark = [pytest.mark.once, pytest.mark.timeout(180)]  # programs that start one after another
TUTORIAL = Path(__file__).parent.parent.parent / "docs" / "tutorial"
BLOCK = re.compile(r"^<!-- file: (\S+) -->\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
Open = Callable[[str], Page]


def text_of(page: str) -> str:
    return (TUTORIAL / page).read_text(encoding="utf-8")


def write_files(directory: Path, *pages: str) -> None:
    for page in pages:
        for name, text in BLOCK.findall(text_of(page)):
            (directory / name).write_text(text, encoding="utf-8")


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Return a function that opens a page in a browser of its own, with its own cookies and short pauses."""
    contexts = []

    def start(url: str) -> Page:
        contexts.append(browser.new_context())
        contexts[-1].add_init_script(SHORT_PAUSES)
        page = contexts[-1].new_page()
        page.goto(url)
        return page

    yield start
    for context in contexts:
        context.close()


def say(page: Page, text: str) -> None:
    page.get_by_placeholder("Say something").fill(text)
    page.get_by_placeholder("Say something").press("Enter")


def test_rooms_go_on_after_a_restart(tmp_path: Path, open_page: Open) -> None:
    port = free_port()
    [program] = re.findall(r"^```python\n(.*?)^```$", text_of("rooms.md"), re.MULTILINE | re.DOTALL)
    (tmp_path / "rooms.py").write_text(program.replace("8080", str(port)), encoding="utf-8")
    url = f"http://localhost:{port}"
    with Program(["rooms.py"], cwd=tmp_path) as server:
        assert server.port == port
        ana = open_page(f"{url}/#tea")
        ben, cem = ana.context.new_page(), ana.context.new_page()  # without users they can share their cookies
        ben.goto(f"{url}/#tea")
        cem.goto(f"{url}/#coffee")
        for page in ana, ben, cem:
            expect(page.locator("#state")).to_have_text("open")
        say(ana, "hello")
        expect(ben.locator("#log")).to_have_text("hello")
        expect(cem.locator("#log")).to_be_empty()
        ben.reload()
        expect(ben.locator("#log")).to_have_text("hello")
        server.send(signal.SIGINT)
        assert server.end() == 0
    expect(ana.locator("#state")).to_have_text("waiting")
    say(ana, "what waited")
    with Program(["rooms.py"], cwd=tmp_path) as server:
        assert server.port == port
        for page in ana, ben:
            expect(page.locator("#log li")).to_have_text(["hello", "what waited"])


def test_the_tests_of_the_chat_pass(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # loading all plugins takes longer than the tests
    write_files(pytester.path, "users.md")
    pytester.makeini("[pytest]")
    plugins = ["-p", "anyio", "-p", "pywsapp_pytest", "-p", "no:cacheprovider"]
    result = pytester.runpytest_subprocess(*plugins, "-W", "error")
    result.assert_outcomes(passed=4)


def log_in(page: Page, name: str) -> None:
    page.get_by_placeholder("Your name").fill(name)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("#state")).to_have_text("open")


def test_users_write_while_a_server_restarts(
    tmp_path: Path, open_page: Open, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path, "users.md", "two-machines.md")
    public, *ports = (free_port() for _ in range(3))
    settings = (tmp_path / "balancer.cfg").read_text(encoding="utf-8")
    for documented, real in zip((":8080", ":8081", ":8082"), (public, *ports), strict=True):
        assert settings.count(documented) == 1
        settings = settings.replace(documented, f":{real}")
    # A server on a machine that is busy can need more than the second between two checks for its answer.
    settings = settings.replace("timeout connect 3s", "timeout connect 3s\n    timeout check 20s")
    (tmp_path / "balancer.cfg").write_text(settings, encoding="utf-8")
    monkeypatch.setenv("CHAT_REDIS", redis.url)
    haproxy = find_program("haproxy", "haproxy")

    def server(port: int) -> Program:
        return Program(["-m", "pywsapp", "run", "server:app", "--port", str(port)], cwd=tmp_path)

    become = ["-c", "import os, sys; os.execv(sys.argv[1], sys.argv[1:])", haproxy]
    with server(ports[0]) as first, server(ports[1]) as second, ExitStack() as later:
        assert [first.port, second.port] == ports  # they listen before the balancer checks them
        balancer = later.enter_context(Program([*become, "-f", "balancer.cfg"], cwd=tmp_path))
        wait_until_listening(public, balancer)
        pages: list[Any] = []
        for name in "Ana", "Ben", "Cem":
            pages.append(open_page(f"http://localhost:{public}/#tea"))
            log_in(pages[-1], name)
        for page in pages:
            expect(page.locator("#here")).to_have_text("Ana, Ben, Cem")
        say(pages[0], "one")
        expect(pages[1].locator("#log li")).to_have_text(["Ana: one"])
        first.send(signal.SIGINT)
        say(pages[1], "two")
        expect(pages[2].locator("#log li")).to_have_text(["Ana: one", "Ben: two"])
        assert first.end() == 0
        say(pages[2], "three")
        with server(ports[0]) as again:
            assert again.port == ports[0]
            expect(pages[0].locator("#log li")).to_have_count(3)  # the page of Cem can have waited for a server
            say(pages[0], "four")
            for page in pages:
                expect(page.locator("#log li")).to_have_text(["Ana: one", "Ben: two", "Cem: three", "Ana: four"])
                expect(page.locator("#here")).to_have_text("Ana, Ben, Cem")
            say(pages[0], "x" * 501)
            expect(pages[0].locator("#log")).to_contain_text("not sent: write a text of at most 500 characters")
            pages[1].get_by_role("button", name="Log out").click()
            expect(pages[1].get_by_placeholder("Your name")).to_be_visible()
            for page in pages[0], pages[2]:
                expect(page.locator("#here")).to_have_text("Ana, Cem")
