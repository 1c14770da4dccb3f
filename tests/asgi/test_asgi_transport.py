"""The transport of a WebSocket on an ASGI server whose `send` takes its time, or fails."""

from __future__ import annotations

from collections import deque
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.serving import GUARD

from pywsapp import App, Connection, MessageComponent, Options, SlowConsumer

pytestmark = pytest.mark.anyio

SCOPE = {
    "type": "websocket",
    "path": "/",
    "headers": [(b"host", b"localhost")],
    "extensions": {"websocket.http.response": {}},
}


class Server:
    """The side of an ASGI server: messages for the App, and a `send` that can block or fail."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.sent: list[Any] = []
        self.may_send = anyio.Event()
        self.may_send.set()
        self.refuses: tuple[int, ...] = ()
        self.received = 0
        self._waiting: deque[Any] = deque()
        self._given = anyio.Event()
        self.give(type="websocket.connect")

    def give(self, **message: Any) -> None:
        self._waiting.append(message)
        self._given.set()

    async def receive(self) -> Any:
        while not self._waiting:
            self._given = anyio.Event()
            await self._given.wait()
        self.received += 1
        return self._waiting.popleft()

    async def send(self, message: Any) -> None:
        await self.may_send.wait()
        if message.get("code") in self.refuses:
            raise ValueError("this code is not for applications")
        self.sent.append(message)

    async def serve(self) -> None:
        await self.app(dict(SCOPE), self.receive, self.send)


class Talker(MessageComponent):
    """Answers with as many messages as a message says."""

    def __init__(self) -> None:
        self.conn: Connection
        self.ended = anyio.Event()

    def on_open(self, conn: Connection) -> None:
        self.conn = conn

    def on_message(self, conn: Connection, message: Any) -> None:
        for _ in range(int(message)):
            conn.send(bytes(1000))

    def on_close(self, conn: Connection) -> None:
        self.ended.set()


async def test_a_slow_client_is_closed_at_max_outbox() -> None:
    talker = Talker()
    app = App(options=Options(high_water=10_000, max_outbox=50_000))
    app.route("/", talker)
    async with app.lifespan(), anyio.create_task_group() as tasks:
        server = Server(app)
        tasks.start_soon(server.serve)
        server.give(type="websocket.receive", text="0")
        while not server.sent:
            await anyio.lowlevel.checkpoint()
        server.may_send = anyio.Event()
        server.give(type="websocket.receive", text="100")
        server.give(type="websocket.receive", text="100")
        with anyio.fail_after(GUARD):
            while talker.conn.is_open:
                await anyio.lowlevel.checkpoint()
        server.may_send.set()
        with anyio.fail_after(GUARD):
            await talker.ended.wait()
    assert server.sent[-1]["type"] == "websocket.close"
    assert server.sent[-1]["code"] == 1013
    assert sum(len(message.get("bytes", b"")) for message in server.sent) < 70_000


async def test_nothing_is_received_while_the_client_reads_too_slowly() -> None:
    app = App(options=Options(high_water=10_000, slow_consumer=SlowConsumer.DROP_NEWEST))
    app.route("/", Talker())
    async with app.lifespan(), anyio.create_task_group() as tasks:
        server = Server(app)
        tasks.start_soon(server.serve)
        while not server.sent:
            await anyio.lowlevel.checkpoint()
        server.may_send = anyio.Event()
        for _ in range(100):
            server.give(type="websocket.receive", text="5")
        for _ in range(500):
            await anyio.lowlevel.checkpoint()
        assert server.received < 10
        server.may_send.set()
        with anyio.fail_after(GUARD):
            while len(server.sent) < 501:
                await anyio.lowlevel.checkpoint()
        server.give(type="websocket.disconnect", code=1000)


async def test_a_client_that_is_gone() -> None:
    talker = Talker()
    app = App()
    app.route("/", talker)
    async with app.lifespan(), anyio.create_task_group() as tasks:
        server = Server(app)
        tasks.start_soon(server.serve)
        server.give(type="websocket.receive", text="0")
        while not server.sent:
            await anyio.lowlevel.checkpoint()

        async def fail(message: Any) -> None:
            raise OSError("gone")

        server.send = fail  # type: ignore[method-assign]
        talker.conn._driver.machine.outbox.transport._send = fail  # type: ignore[union-attr]
        server.give(type="websocket.receive", text="1")
        with anyio.fail_after(GUARD):
            await talker.ended.wait()
    assert talker.conn.close_code == 1006


async def test_a_server_that_refuses_a_close_code() -> None:
    talker = Talker()
    app = App()
    app.route("/", talker)
    async with app.lifespan(), anyio.create_task_group() as tasks:
        server = Server(app)
        server.refuses = (1011,)
        tasks.start_soon(server.serve)
        server.give(type="websocket.receive", text="not a number")
        with anyio.fail_after(GUARD):
            await talker.ended.wait()
    assert talker.conn.close_code == 1011
    assert server.sent[-1] == {"type": "websocket.close", "code": 1000, "reason": server.sent[-1]["reason"]}


async def test_a_server_that_cancels_the_application() -> None:
    talker = Talker()
    app = App()
    app.route("/", talker)
    async with app.lifespan():
        async with anyio.create_task_group() as tasks:
            server = Server(app)
            tasks.start_soon(server.serve)
            while not server.sent:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(GUARD):
            await talker.ended.wait()
    assert talker.conn.close_code == 1006


async def test_a_server_without_denial_responses() -> None:
    app = App()
    async with app.lifespan():
        server = Server(app)
        scope = {**SCOPE, "extensions": {}}
        await app(scope, server.receive, server.send)
    assert server.sent == [{"type": "websocket.close", "code": 1008, "reason": ""}]


async def test_a_client_that_is_gone_before_it_is_accepted(caplog: pytest.LogCaptureFixture) -> None:
    talker = Talker()
    app = App(max_connections_per_address=1)
    app.route("/", talker)

    async def fail(message: Any) -> None:
        raise OSError("gone")

    async with app.lifespan():
        for _ in range(2):  # the second one is not above the limit
            await app({**SCOPE, "client": ("192.0.2.1", 1)}, Server(app).receive, fail)
        assert app.stats().open_connections == 0
        assert app.stats().refused == {}
    assert not hasattr(talker, "conn")
    assert caplog.messages == []


async def test_a_server_that_cannot_receive() -> None:
    talker = Talker()
    app = App()
    app.route("/", talker)
    async with app.lifespan(), anyio.create_task_group() as tasks:
        server = Server(app)
        given = server.receive

        async def receive() -> Any:
            if server.sent:
                raise RuntimeError("broken")
            return await given()

        tasks.start_soon(app, dict(SCOPE), receive, server.send)
        with anyio.fail_after(GUARD):
            await talker.ended.wait()
    assert talker.conn.close_code == 1006
