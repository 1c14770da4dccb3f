"""`run_client` with a component that has typed messages: both sides can call each other."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup
from support.serving import GUARD, serving
from support.typed import Join, Say

from pywsapp import App, Connection, MessageComponent, on, rpc, run_client
from pywsapp.codecs import Codec, MessagePackCodec

pytestmark = pytest.mark.anyio


class Server(MessageComponent):
    @rpc
    async def greet(self, conn: Connection, name: str) -> str:
        answer = await conn.call("title", {"of": name}, result_type=str)
        return f"{answer} {name}"

    @on("join")
    def joined(self, conn: Connection, message: Join) -> None:
        conn.send(Say(message.room, 2))


class Client(MessageComponent):
    """Calls in a task of its own, because its handler must be free for the call of the server."""

    def __init__(self, tasks: TaskGroup) -> None:
        self.seen: list[Any] = []
        self._tasks = tasks

    def on_open(self, conn: Connection) -> None:
        conn.send(Join("tea"))

    @on("say")
    def said(self, conn: Connection, message: Say) -> None:
        self.seen.append(message)
        self._tasks.start_soon(self._call, conn)

    @rpc
    def title(self, conn: Connection, of: str) -> str:
        return "Dr."

    async def _call(self, conn: Connection) -> None:
        self.seen.append(await conn.call("greet", ["Ana"]))
        conn.close()


@pytest.mark.parametrize("codec", [None, MessagePackCodec()], ids=["json", "msgpack"])
async def test_client_and_server_call_each_other(codec: Codec | None) -> None:
    app = App("*", 0)
    app.route("/", Server(), allowed_origins=["*"], codec=codec)
    async with serving(app) as server, anyio.create_task_group() as tasks:
        client = Client(tasks)
        with anyio.fail_after(GUARD):
            await run_client(client, f"ws://localhost:{server.port}/", codec=codec)
        assert client.seen == [Say("tea", 2), "Dr. Ana"]
