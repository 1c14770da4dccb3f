"""A browser keeps the cookie that the response to a handshake sets, and no script of the page can read it."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("support.browser")

from support.browser import Page  # noqa: E402 - not before the line above
from support.program import Program  # noqa: E402

pytest_plugins = ["support.browser"]

SERVER = """
from pywsapp import App, MessageComponent, Response

class Visits(MessageComponent):
    def on_handshake(self, request):
        request.session["visits"] = request.session.get("visits", 0) + 1

    def on_open(self, conn):
        conn.send(str(conn.session["visits"]))

app = App(port=0, session_store="memory")
app.route("/visits", Visits())
app.http("/", lambda request: Response.html("<!doctype html><title>Visits</title>"), sessions=False)
app.run()
"""
VISIT = """() => new Promise(resolve => {
    new WebSocket(`ws://${location.host}/visits`).onmessage = event => resolve(event.data);
})"""


def test_the_cookie_of_a_handshake(browser: object) -> None:
    with Program(SERVER) as server:
        page: Page = browser.new_page()  # type: ignore[attr-defined]
        try:
            page.goto(f"http://localhost:{server.port}/")
            assert [page.evaluate(VISIT) for _ in range(3)] == ["1", "2", "3"]
            page.reload()
            assert page.evaluate(VISIT) == "4"
            assert page.evaluate("() => document.cookie") == ""
            (cookie,) = page.context.cookies()
            assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("session", True, "Lax")
        finally:
            page.close()
