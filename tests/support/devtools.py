"""A headless Chromium that tests drive by its DevTools protocol, for hidden and frozen pages.

Playwright emulates the focus for every page, so its pages are never hidden, and Chromium freezes hidden pages only.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pywsapp import SyncConnection, connect_sync
from support.browser import ARGUMENTS, find_chromium

#: Seconds after which the browser does not start, or an expression does not become true.
TIMEOUT = 20


class DevTools:
    """The connection to a browser.

    Args:
        connection: a connection to its DevTools.
    """

    def __init__(self, connection: SyncConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """Call a method, and return its result."""
        number = next(self._numbers)
        request = {"id": number, "method": method, "params": parameters}
        self._connection.send(json.dumps(request if session is None else {**request, "sessionId": session}))
        while True:
            answer = json.loads(self._connection.receive(timeout=TIMEOUT))
            if answer.get("id") == number:
                assert "result" in answer, answer
                return answer["result"]

    def tab(self, url: str) -> Tab:
        """Open a tab in front of the others, which are hidden then."""
        target = self.call("Target.createTarget", url=url)["targetId"]
        return Tab(self, self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])


class Tab:
    """A tab; `DevTools.tab` opens it."""

    def __init__(self, tools: DevTools, session: str) -> None:
        self._tools = tools
        self._session = session

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression, which can be a promise."""
        found = self._tools.call(
            "Runtime.evaluate", self._session, expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + TIMEOUT
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, expression
            time.sleep(0.02)

    def freeze(self) -> None:
        """Freeze the tab, which must be hidden: its timers and its handlers stop."""
        self._tools.call("Page.setWebLifecycleState", self._session, state="frozen")

    def resume(self) -> None:
        """Let a frozen tab go on; it stays hidden."""
        self._tools.call("Page.setWebLifecycleState", self._session, state="active")


@contextmanager
def chromium() -> Iterator[DevTools]:
    """Run a browser with a new profile."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = [*ARGUMENTS, "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}"]
        with subprocess.Popen([find_chromium(), *options], stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stderr is not None
                found = next(filter(None, (re.search(r"ws://\S+", line) for line in process.stderr)))
                with connect_sync(found[0]) as connection:
                    yield DevTools(connection)
            finally:
                process.kill()
