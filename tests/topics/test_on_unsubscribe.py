"""`on_unsubscribe` is def or async def: called once for each topic, in order, and behind `on_close` at the end."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.serving import GUARD, Pipe, Recorder

from pywsapp import Connection, Options, Topic
from pywsapp.topics.registry import TopicRegistry

pytestmark = pytest.mark.anyio


class Leaving(Recorder):
    """Notes when `on_unsubscribe` begins and ends; messages name topics to leave."""

    def __init__(self, topics: TopicRegistry) -> None:
        super().__init__()
        self.topics = topics

    async def on_message(self, conn: Connection, message: Any) -> None:
        for name in message.split():
            self.topics.topic(name).remove(conn)
        self.record("handled", message)

    async def on_unsubscribe(self, conn: Connection, topic: Topic) -> None:
        self.record("leaves", topic.name)
        await anyio.lowlevel.checkpoint()
        self.record("left", topic.name)


def subscribed(component: Recorder, topics: TopicRegistry, tasks: anyio.abc.TaskGroup, *names: str) -> Pipe:
    pipe = Pipe(component, tasks=tasks)
    for name in names:
        topics.topic(name).add(pipe.conn)
    return pipe


async def test_async_calls_run_in_order_before_the_next_message() -> None:
    topics = TopicRegistry()
    component = Leaving(topics)
    async with anyio.create_task_group() as tasks:
        pipe = subscribed(component, topics, tasks, "a", "b", "c")
        pipe.send("a b", "c")
        await pipe.run_until_blocked()
        assert component.calls == [
            ("open",),
            ("handled", "a b"),
            ("leaves", "a"),
            ("left", "a"),
            ("leaves", "b"),
            ("left", "b"),
            ("handled", "c"),
            ("leaves", "c"),
            ("left", "c"),
        ]
        assert pipe.conn.topics == ()
        tasks.cancel_scope.cancel()


async def test_outside_of_a_handler_it_runs_at_once() -> None:
    topics = TopicRegistry()
    component = Leaving(topics)
    async with anyio.create_task_group() as tasks:
        pipe = subscribed(component, topics, tasks, "a")
        topics.topic("a").remove(pipe.conn)
        await pipe.run_until_blocked()
        assert component.calls == [("open",), ("leaves", "a"), ("left", "a")]
        topics.topic("a").remove(pipe.conn)
        await pipe.run_until_blocked()
        assert len(component.calls) == 3
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("how", ["lost", "aborted", "closed", "busy"])
async def test_at_the_end_it_runs_behind_on_close(how: str) -> None:
    topics = TopicRegistry()
    component = Leaving(topics)
    async with anyio.create_task_group() as tasks:
        pipe = subscribed(component, topics, tasks, "a", "b", "c")
        if how == "busy":
            pipe.send("a")
        elif how == "closed":
            pipe.conn.close()
            pipe.turn()
        elif how == "aborted":
            pipe.conn.abort()
        pipe.client.transport.abort()
        await pipe.run_until_blocked()
        names = component.names()
        ends = [call[1] for call in component.calls if call[0] == "left"]
        assert sorted(ends) == ["a", "b", "c"]
        assert names.count("close") == 1
        assert names.index("close") < names.index("left") or how == "busy"
        assert ends[-2:] == ["b", "c"]
        assert pipe.host.discarded == 1
        assert pipe.conn.topics == ()


async def test_what_it_raises_goes_to_on_error() -> None:
    class Failing(Leaving):
        async def on_unsubscribe(self, conn: Connection, topic: Topic) -> None:
            await anyio.lowlevel.checkpoint()
            raise KeyError(topic.name)

        def on_error(self, conn: Connection, exc: Exception) -> None:
            self.record("error", repr(exc))

    topics = TopicRegistry()
    component = Failing(topics)
    async with anyio.create_task_group() as tasks:
        pipe = subscribed(component, topics, tasks, "a", "b")
        pipe.send("a")
        await pipe.run_until_blocked()
        assert component.calls[-1] == ("error", "KeyError('a')")
        assert pipe.conn.is_open
        pipe.client.transport.abort()
        await pipe.run_until_blocked()
        assert component.calls[-1] == ("error", "KeyError('b')")
        assert pipe.host.discarded == 1


async def test_it_is_cancelled_with_on_close_timeout(caplog: pytest.LogCaptureFixture) -> None:
    class Hanging(Leaving):
        async def on_unsubscribe(self, conn: Connection, topic: Topic) -> None:
            await anyio.sleep_forever()

    topics = TopicRegistry()
    component = Hanging(topics)
    async with anyio.create_task_group() as tasks:
        pipe = Pipe(component, Options(on_close_timeout=0.05), tasks)
        topics.topic("a").add(pipe.conn)
        pipe.client.transport.abort()
        pipe.turn()
        with anyio.fail_after(GUARD):
            while not pipe.host.discarded:
                await anyio.lowlevel.checkpoint()
    assert "on_close took longer than 0.05 s" in caplog.text
