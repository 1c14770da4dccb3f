"""A headless Chromium, and the demo in a process of its own.

Playwright drives an installed Chromium, so its own browsers are not needed. The server is another process because
Playwright's synchronous API occupies the event loop of the thread, and because tests kill the server.
Set SCREENSHOTS to a directory to keep every picture that a test takes.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.services import free_port

__all__ = [
    "SHORT_PAUSES",
    "Browser",
    "ChatUsers",
    "Page",
    "Server",
    "browser",
    "expect",
    "next_servers",
    "pictures",
    "server",
    "users",
]

MISSING = "the browser tests need `apt-get install chromium` and `pip install playwright`"

try:
    from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, expect, sync_playwright
except ImportError:
    if os.environ.get("CI"):
        raise
    pytest.skip(MISSING, allow_module_level=True)

expect.set_options(timeout=25_000)

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
#: The messages of Chromium in the console while a page tries to connect to a server that is down. A server that starts
#: just after a handshake was refused answers the plain request by which the client looks for the reason: with 426.
REFUSED = re.compile(
    r"WebSocket connection to '.*' failed|net::ERR_(CONNECTION_REFUSED|INTERNET_DISCONNECTED)"
    r"|the server responded with a status of 426"
)
#: A script for pages whose server restarts. Pauses before they connect again are random and double with each attempt:
#: after some seconds the longest can be longer than a test waits. With this script they last 1.5 seconds at most.
SHORT_PAUSES = "Math.random = () => 0.05"


class Server:
    """The demo, run by the command line, on a free port that stays the same after a restart."""

    def __init__(self) -> None:
        self.port = free_port()
        self.process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}/"

    def start(self) -> None:
        """Start the demo and wait until it listens."""
        self.launch()
        self.wait_until_listening()

    def launch(self) -> None:
        """Start the process of the demo."""
        command = [sys.executable, "-u", "-m", "pywsapp", "demo", "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def wait_until_listening(self) -> None:
        """Wait for the start-up line of the demo."""
        assert self.process is not None
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            address = re.search(r"://[\w.]+:(\d+)", line)
            if address:
                assert int(address[1]) == self.port
                return
        raise AssertionError("the demo did not start:\n" + "".join(lines))

    def kill(self) -> None:
        """Kill the demo, so that its peers see only a broken connection."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Shut the demo down and return its exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, signal_number: int) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(signal_number)
        self.process.communicate(timeout=20)
        status = self.process.returncode
        self.process = None
        return status


class ChatUsers:
    """Opens a page with its own storage for each user in a test; records the console and the requests of all pages."""

    def __init__(self, browser: Browser, server: Server) -> None:
        self.browser = browser
        self.server = server
        self.contexts: list[BrowserContext] = []
        self.console: list[str] = []
        self.requests: list[str] = []

    def page(self, *, width: int = 1180, height: int = 760, dark: bool = False, phone: bool = False) -> Page:
        """Open an empty page."""
        settings: dict[str, Any] = {"device_scale_factor": 2, "has_touch": True, "is_mobile": True} if phone else {}
        context = self.browser.new_context(
            viewport=ViewportSize(width=width, height=height),
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            **settings,
        )
        self.contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: self.console.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.console.append(f"exception: {error}"))
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("websocket", lambda socket: self.requests.append(socket.url))
        return page

    def enter(self, name: str, room: str = "", page: Page | None = None, **settings: Any) -> Page:
        """Open the chat as a new user, in a new page or a given one, and wait until the page is connected."""
        page = page or self.page(**settings)
        page.goto(self.server.url + (f"#{room}" if room else ""))
        page.get_by_label("Name", exact=True).fill(name)
        page.get_by_role("button", name="Enter").click()
        expect(page.locator("#status")).to_have_text("Connected")
        return page

    def console_errors(self) -> list[str]:
        """Return the lines of the consoles, except those about refused connections."""
        return [line for line in self.console if not REFUSED.search(line)]

    def other_requests(self) -> list[str]:
        """Return the requests to other servers."""
        origins = (self.server.url, self.server.url.replace("http", "ws"), "data:")
        return [url for url in self.requests if not url.startswith(origins)]

    def close(self) -> None:
        for context in self.contexts:
            context.close()


def find_chromium() -> str:
    """Return the path of the browser; skip the test without it."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    return program


# Not for the whole test run: while Playwright runs, asyncio finds a running loop in this thread.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def next_servers() -> Iterator[list[Server]]:
    """The server of the next test, which starts during a test."""
    servers = [Server()]
    servers[0].launch()
    yield servers
    servers[0].kill()


@pytest.fixture
def server(next_servers: list[Server]) -> Iterator[Server]:
    server, following = next_servers.pop(), Server()
    next_servers.append(following)
    server.wait_until_listening()
    following.launch()
    yield server
    server.kill()


@pytest.fixture
def users(browser: Browser, server: Server) -> Iterator[ChatUsers]:
    users = ChatUsers(browser, server)
    yield users
    users.close()
    assert users.console_errors() == []
    assert users.other_requests() == []


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """The directory for screenshots."""
    directory = Path(os.environ.get("SCREENSHOTS", tmp_path))
    directory.mkdir(parents=True, exist_ok=True)
    return directory
