"""The status page with two worker processes: both are shown, and actions reach the other one."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from typing import Any

import pytest
from support.program import BlockingClient, Program
from support.serving import TEXT, frame

pytestmark = [pytest.mark.skipif(sys.platform == "win32", reason="Windows has no workers"), pytest.mark.once]

SOURCE = """
    from pywsapp import App, EchoServer

    def by_query(request):
        return request.query_string or None

    app = App(port=0, authenticate=by_query)
    app.route("/echo", EchoServer())
    app.status(guard=by_query, can_disconnect=True)
    app.run(workers=2)
"""


def next_of(page: BlockingClient, kind: str) -> Any:
    """Return the next message of a kind."""
    while (found := json.loads(page.frame()[1]))["type"] != kind:
        pass
    return found


def test_a_connection_of_the_other_worker_is_disconnected() -> None:
    with Program(SOURCE) as program, ExitStack() as opened:
        page = opened.enter_context(BlockingClient(program.port, path="/status?root"))
        while len((found := next_of(page, "snapshot"))["workers"]) < 2:
            pass
        assert [one["worker"] for one in found["workers"]] == [1, 2]
        own = next(one for one in found["workers"] if one["connections"] == 1)
        clients: dict[str, BlockingClient] = {}
        while (other := next((one for one in found["connections"] if one["pid"] != own["pid"]), None)) is None:
            for _ in range(10):  # the kernel chooses the worker
                user = f"user{len(clients)}"
                clients[user] = opened.enter_context(BlockingClient(program.port, path=f"/echo?{user}"))
            found = next_of(page, "snapshot")
        action = {"action": "disconnect", "process": other["process"], "connection": other["id"]}
        page.sock.sendall(frame(TEXT, json.dumps(action).encode()))
        assert next_of(page, "done")["text"] == f"The connection {other['id']} is being disconnected."
        assert clients[other["user"]].receive_close() == 3503
        program.until(rf"worker {other['worker']} INFO root disconnects <Connection {other['id']} /echo ")
