"""An App that is mounted on another App: what becomes part of the other App, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from support.app_client import Greeter, greeting, response_to, status
from support.serving import GUARD, TEXT, frame
from support.wire import get, peer_of, running

from pywsapp import App, ConfigurationError, Connection, EchoServer, MessageComponent, Options, Topic
from pywsapp.brokers.memory import MemoryBroker

pytestmark = pytest.mark.anyio


class Room(MessageComponent):
    """Subscribes every connection to a topic, and broadcasts what it sends."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic

    def on_open(self, conn: Connection) -> None:
        self.topic.add(conn)

    def on_message(self, conn: Connection, message: Any) -> None:
        self.topic.broadcast(message)


async def test_hooks_timers_and_tasks_run_with_the_other_app() -> None:
    calls: list[str] = []
    ticked, begun = anyio.Event(), anyio.Event()
    outer, inner, innermost = App("*", 0), App(), App()
    outer.on_startup(lambda: calls.append("outer startup"))
    inner.on_startup(lambda: calls.append("inner startup"))
    innermost.on_startup(lambda: calls.append("innermost startup"))
    inner.every(0.01)(lambda: ticked.set())

    async def task(name: str) -> None:
        calls.append(name)
        if name == "late task":
            begun.set()

    inner.start_soon(task, "task")
    inner.mount("/deeper", innermost)
    outer.mount("/inner", inner)
    innermost.on_shutdown(lambda: calls.append("innermost shutdown, added late"))
    inner.start_soon(task, "late task")
    async with running(outer):
        assert inner.port == outer.port > 0
        assert inner.urls == outer.urls
        with anyio.fail_after(GUARD):
            await ticked.wait()
            await begun.wait()
    assert calls[:3] == ["outer startup", "inner startup", "innermost startup"]
    assert sorted(calls[3:5]) == ["late task", "task"]
    assert calls[5:] == ["innermost shutdown, added late"]


async def test_topics_taken_before_and_after_are_those_of_the_other_app() -> None:
    outer, inner = App("*", 0), App()
    before = inner.topic("room:1")
    inner.route("/room", Room(before))
    outer.mount("/inner", inner)
    assert inner.topics is outer.topics
    assert outer.topic("room:1") is before is inner.topic("room:1")
    assert inner.topic("room:2") is outer.topic("room:2")
    async with running(outer), peer_of(outer) as peer:
        await peer.open("/inner/room")
        await peer.send(frame(TEXT, b"ready"))
        assert await peer.frame() == (TEXT, b"ready")
        assert outer.topics.stats.topics == 1
        outer.topic("room:1").broadcast("from outside")
        assert await peer.frame() == (TEXT, b"from outside")


async def test_listeners_watchers_and_histories_come_along() -> None:
    outer, inner = App("*", 0), App()
    inner.history("room:*", size=10)
    heard: list[Any] = []
    changes: list[Any] = []
    changed = anyio.Event()

    @inner.on_broadcast("room:*")
    def listen(topic: Topic, message: Any) -> None:
        heard.append((topic.name, message))

    @inner.on_presence("room:*")
    def watch(topic: Topic, diff: Any) -> None:
        changes.append((topic.name, list(diff.joined)))
        changed.set()

    class Tracked(MessageComponent):
        async def on_open(self, conn: Connection) -> None:
            topic = inner.topic("room:1")
            await topic.recover(conn, None)
            topic.track(conn, "ana")

    inner.route("/room", Tracked())
    outer.mount("/inner", inner)
    assert outer.topic("room:1").history is not None
    async with running(outer):
        outer.topic("room:1").broadcast("kept")
        async with peer_of(outer) as peer:
            await peer.open("/inner/room")
            assert json.loads((await peer.frame())[1])["message"] == "kept"
            with anyio.fail_after(GUARD):
                await changed.wait()
    assert heard == [("room:1", "kept")]
    assert changes[0] == ("room:1", ["ana"])


async def test_a_topic_that_existed_before_has_the_history_of_the_other_app() -> None:
    outer, inner = App(), App()
    outer.history("room:*", size=3)
    topic = inner.topic("room:1")
    assert topic.history is None
    outer.mount("/inner", inner)
    assert topic.history is not None
    assert topic.history.size == 3


async def test_default_name_of_the_inner_app_answers_to_the_names_of_the_mount() -> None:
    outer, inner, named = App(["chat.example", "www.chat.example"], 0), App(), App("admin.example")
    inner.route("/", Greeter("inner"))
    named.route("/", Greeter("named"))
    outer.mount("/inner", inner)
    outer.mount("", named, http_host="*")
    async with running(outer):
        assert await greeting(outer, "/inner", host="www.chat.example") == "inner"
        assert await status(outer, "/inner", host="other.example") == 404
        assert await greeting(outer, "/", host="admin.example") == "named"
        assert await status(outer, "/", host="other.example") == 404


async def test_one_app_may_be_mounted_twice_on_the_same_app() -> None:
    calls: list[str] = []
    outer, inner = App("*", 0), App()
    inner.on_startup(lambda: calls.append("startup"))
    inner.http("/", lambda request: "inner")
    inner.health()
    outer.mount("/a", inner)
    outer.mount("/b", inner)
    async with running(outer):
        assert (await response_to(outer, get("/a/"))).body == b"inner"
        assert (await response_to(outer, get("/b/health"))).status == 200
    assert calls == ["startup"]


async def test_stop_of_a_mounted_app_stops_the_other_app() -> None:
    outer, inner = App("*", 0), App()
    calls: list[str] = []
    outer.on_shutdown(lambda: calls.append("outer shutdown"))
    outer.mount("/inner", inner)
    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tasks:
            await tasks.start(outer.serve)
            assert calls == []
            inner.stop()
    assert calls == ["outer shutdown"]


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: App(options=Options(max_queue=3)), "its own options: "),
        (lambda: App(broker=MemoryBroker()), "its own broker: "),
        (lambda: App(broker_key="secret"), "its own broker or broker_key"),
        (lambda: App(unix_path="/tmp/socket", proxy_protocol=True), "its own unix_path, proxy_protocol: "),
        (lambda: App(fd=0), "its own fd: "),
        (lambda: App(trusted_proxies=["10.0.0.1"]), "its own trusted_proxies: "),
        (lambda: App(max_connections=3), "its own max_connections: "),
        (lambda: App(access_log=True), "its own access_log: "),
    ],
)
def test_settings_of_a_server_are_refused(make: Callable[[], App], what: str) -> None:
    outer = App("*")
    with pytest.raises(ConfigurationError, match=what):
        outer.mount("/inner", make())


def test_sockets_of_its_own_are_refused() -> None:
    inner = App()
    inner.listen(port=8081)
    with pytest.raises(ConfigurationError, match=r"its own listen\(\): move this to the App that runs"):
        App().mount("/inner", inner)


def test_mistakes_with_mounted_apps() -> None:
    outer, other, inner, second = App(), App(), App(), App()
    outer.mount("/inner", inner)
    outer.mount("/second", second)
    with pytest.raises(ConfigurationError, match="mounted on another App already"):
        second.mount("/inner", inner)
    with pytest.raises(ConfigurationError, match="mounted on another App already"):
        other.mount("/inner", inner)
    calls: list[Callable[[], Any]] = [
        inner.run,
        inner.listen,
        lambda: inner.rebind(port=1),
        lambda: inner.configure(access_log=True),
    ]
    for call in calls:
        with pytest.raises(ConfigurationError, match="mounted on another App: run and configure that one"):
            call()
    with pytest.raises(ConfigurationError, match="mounted on itself"):
        outer.mount("/outer", outer)
    with pytest.raises(ConfigurationError, match="mounted on itself"):
        inner.mount("/outer", outer)


async def test_a_mounted_app_cannot_be_served() -> None:
    outer, inner = App(), App()
    outer.mount("/inner", inner)
    with pytest.raises(ConfigurationError, match="run and configure that one"):
        await inner.serve()


async def test_apps_that_run_cannot_be_mounted_nor_mounted_on() -> None:
    running_app, other = App("*", 0), App()
    async with running(running_app):
        for outer, inner in ((running_app, other), (other, running_app)):
            with pytest.raises(ConfigurationError, match="before either of them runs"):
                outer.mount("/inner", inner)


def test_one_topic_of_both_apps_is_refused() -> None:
    outer, inner = App(), App()
    topics = [app.topic("room:1") for app in (outer, inner)]
    with pytest.raises(ConfigurationError, match="both Apps use the topic 'room:1' already"):
        outer.mount("/inner", inner)
    assert len(topics) == 2


async def test_components_can_be_mounted_while_the_app_runs() -> None:
    app, component = App("*", 0), EchoServer()
    async with running(app):
        app.mount("/echo", component)
        assert await status(app, "/echo/") == 101
