"""Event streams in Chromium: after a reload, and a restart of the server, its own `EventSource` misses nothing."""

from __future__ import annotations

import re
from typing import Any

import pytest

pytest.register_assert_rewrite("support.browser")

from support.browser import expect  # noqa: E402 - not before the line above
from support.program import Program  # noqa: E402
from support.services import Redis, free_port  # noqa: E402

pytest_plugins = ["support.browser"]
pytestmark = pytest.mark.once

SOURCE = """
from pywsapp import App, Response

PAGE = '''<!doctype html><title>numbers</title><pre id="out"></pre><script>
const out = document.getElementById("out"), events = new EventSource("/numbers")
events.onmessage = event => { out.textContent += event.data + " " }
events.addEventListener("lost", event => { out.textContent += "lost " })
</script>'''

app = App("localhost", PORT, broker="BROKER")
app.history("numbers", size=1000)
app.events("/numbers", topic="numbers", retry=0.1, history=20)  # the page can open its stream after the first numbers
app.http("/", lambda request: Response.html(PAGE))


@app.http("/say/{first:int}/{last:int}")
async def say(request):
    for number in range(request.path_params["first"], request.path_params["last"] + 1):
        await app.topic("numbers").broadcast(str(number))


app.run()
"""


def test_a_browser_resumes_after_a_restart_of_the_server(browser: Any, redis: Redis) -> None:
    port = free_port()
    source = SOURCE.replace("PORT", str(port)).replace("BROKER", redis.url)
    context = browser.new_context()
    try:
        page = context.new_page()
        with Program(source) as program:
            page.goto(f"http://localhost:{program.port}/")
            page.request.get(f"http://localhost:{port}/say/1/3")
            expect(page.locator("#out")).to_have_text("1 2 3 ")
        with Program(source) as program:
            assert program.port == port
            page.request.get(f"http://localhost:{port}/say/4/20")
            expect(page.locator("#out")).to_have_text("".join(f"{number} " for number in range(1, 21)))
            redis.ask("FLUSHALL")
            page.request.get(f"http://localhost:{port}/say/21/22")
            expect(page.locator("#out")).to_have_text(re.compile("19 20 lost 21 22 $"))
    finally:
        context.close()
