"""An App with a status page, and what a page receives, for tests without a browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio

from pywsapp import App, MessageComponent
from support.serving import GUARD
from support.user_rooms import by_query


class Rooms(MessageComponent):
    def on_open(self, conn: Any) -> None:
        conn.subscribe("room:<b>1</b>")

    def on_message(self, conn: Any, message: Any) -> None:
        if message == "fail":
            raise ValueError("a secret of the handler")
        conn.send(message)


def app_of(**arguments: Any) -> App:
    app = App(authenticate=by_query)
    app.route("/rooms/{name}", Rooms())
    app.status(**{"guard": by_query, **arguments})
    return app


async def snapshot(page: Any, is_wanted: Callable[[Any], object] = lambda found: True) -> Any:
    """Return the first snapshot that a function accepts."""
    with anyio.fail_after(GUARD):
        while True:
            found = await page.receive_json()
            if found["type"] == "snapshot" and is_wanted(found):
                return found


async def answer(page: Any, action: Any) -> tuple[str, str]:
    """Send an action; return the type and the text of its answer."""
    page.send_json(action)
    with anyio.fail_after(GUARD):
        while (found := await page.receive_json())["type"] == "snapshot":
            pass
    return found["type"], found["text"]
