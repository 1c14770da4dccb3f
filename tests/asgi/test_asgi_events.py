"""Event streams of an App on ASGI servers, and mounted in a site."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from support.asgi_servers import ask, hosted
from support.event_client import EventClient
from support.serving import GUARD
from support.wire import get

from pywsapp import App, Connection, Options
from pywsapp.testing import until_idle

pytestmark = [pytest.mark.anyio, pytest.mark.once]


@pytest.fixture
def app() -> App:
    app = App(max_connections_per_address=3)
    app.history("kept:*", size=10)
    app.events("/plain/{id}", topic="plain:{id}")
    app.events("/kept/{id}", topic="kept:{id}", options=Options(high_water=1000, max_outbox=100_000))
    return app


async def test_messages_and_the_end_of_the_client(app: App) -> None:
    topic = app.topic("plain:1")
    async with hosted(app) as port:
        async with EventClient(port) as client:
            fields = await client.open("/plain/1")
            assert client.status == 200
            assert fields["content-type"] == "text/event-stream"
            assert fields["cache-control"] == "no-store, no-transform"
            assert "content-length" not in fields
            topic.broadcast("one\ntwo")
            assert await client.text() == "one\ntwo"
            assert app.stats().open_connections == 1
        with anyio.fail_after(GUARD):
            while len(topic) or app.stats().open_connections:  # noqa: ASYNC110 - nothing tells it
                await anyio.sleep(0.01)


async def test_resuming_in_a_site(app: App) -> None:
    topic = app.topic("kept:1")
    async with hosted(Starlette(routes=[Mount("/live", app=app)])) as port, app.lifespan():
        topic.broadcast("a")
        async with EventClient(port) as client:
            await client.open("/live/kept/1")
            topic.broadcast("b")
            assert [await client.text() for _ in range(2)] == ["a", "b"]
        async with EventClient(port) as other:
            await other.open("/live/kept/1", last_event_id=client.parser.last_id)
            topic.broadcast("c")
            assert await other.text() == "c"


async def test_a_client_that_reads_late_gets_everything(app: App) -> None:
    topic = app.topic("kept:1")
    async with hosted(app) as port, EventClient(port) as client:
        await client.open("/kept/1")
        for number in range(10):
            topic.broadcast(f"{number} " + "x" * 5000)
            await until_idle()
        assert [(await client.text())[:2] for _ in range(10)] == [f"{number} " for number in range(10)]


async def test_refusals(app: App) -> None:
    async def authorize(conn: Connection, action: str, topic: str) -> bool:
        await anyio.lowlevel.checkpoint()
        return False

    app.events("/no", topic="news", authorize=authorize)
    async with hosted(app) as port:
        assert (await ask(port, get("/no"))).status == 403
        head = await ask(port, get("/plain/1", method="PUT"))
        assert (head.status, head.headers["allow"]) == (405, "GET")
        clients = [EventClient(port) for _ in range(3)]
        for client in clients:
            await client.open("/plain/1")
        assert (await ask(port, get("/plain/1"))).status == 429
        for client in clients:
            client.disconnect()


async def test_a_user_who_is_disconnected_while_authorize_takes_its_time() -> None:
    app = App(authenticate=lambda request: "ana")
    asked: list[str] = []

    async def authorize(conn: Connection, action: str, topic: str) -> bool:
        asked.append(topic)
        if len(asked) == 1:  # it is asked again when the stream is open
            await app.users["ana"].disconnect()
        return True

    app.events("/", topic="news", authorize=authorize)
    async with hosted(app) as port, EventClient(port) as client:
        await client.open()
        assert await client.event() is None


async def test_the_app_ends_streams_when_it_drains() -> None:
    app = App()
    app.events("/", topic="news")
    sent: list[dict[str, Any]] = []
    opened, gone = anyio.Event(), anyio.Event()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        opened.set()

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"localhost")]}
    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tasks, app.lifespan():
            tasks.start_soon(app, scope, receive, send)
            await opened.wait()
    assert sent[0]["type"] == "http.response.start"
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert b"".join(message["body"] for message in sent[1:]).count(b"retry: ") == 2
