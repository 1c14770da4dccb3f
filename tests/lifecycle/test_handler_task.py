"""The handler task: async handlers take their first step when a message arrives, and behave as in their own task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Token
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.handler_tasks import (
    LOOPS,
    Scripted,
    SlowAwaitable,
    call_from,
    checkpoints,
    current_name,
    opened,
    run_messages,
    send_each,
    wait_until_idle,
)
from support.serving import PING, PONG, Recorder, close_frame, frame, message_frame, serving

from pywsapp._event_loop import on_asyncio
from pywsapp.connection import Connection

pytestmark = pytest.mark.anyio


class TaskRecorder(Recorder):
    """Records the current task of each handler, before and after a wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[anyio.TaskInfo] = []

    async def on_open(self, conn: Connection) -> None:
        await self.record_task()

    async def on_message(self, conn: Connection, message: Any) -> None:
        await self.record_task()
        if message == "crash":
            raise LookupError

    async def on_error(self, conn: Connection, exc: Exception) -> None:
        await self.record_task()

    async def on_close(self, conn: Connection) -> None:
        await self.record_task()
        self.record("close")

    async def record_task(self) -> None:
        self.seen.append(anyio.get_current_task())
        await anyio.lowlevel.checkpoint()
        self.seen.append(anyio.get_current_task())


async def test_one_task_runs_every_handler_of_a_connection(origin: str) -> None:
    component = TaskRecorder()
    async with opened(component) as pipe:
        for message in ("1", "crash", "2"):
            await call_from(origin, pipe.send, message)
            await wait_until_idle(pipe)
        await call_from(origin, pipe.write, close_frame())
        await component.until_called("close")
        assert len(component.seen) == 14
        assert len({info.id for info in component.seen}) == 1
        assert component.seen[0] != anyio.get_current_task()


@pytest.mark.parametrize("message", ["end", "wait", "crash"])
@pytest.mark.parametrize("anyio_backend", LOOPS)
async def test_the_current_task_is_restored_after_a_first_step(message: str) -> None:
    seen: list[object] = []

    async def end(conn: Connection) -> None:
        seen.append(asyncio.current_task())

    async def wait(conn: Connection) -> None:
        await end(conn)
        await checkpoints()

    async def crash(conn: Connection) -> None:
        await end(conn)
        raise LookupError

    async with opened(Scripted(end=end, wait=wait, crash=crash)) as pipe:

        def receive(message: str) -> list[object]:
            before = asyncio.current_task()
            pipe.send(message)
            return [before, asyncio.current_task()]

        assert await call_from("callback", receive, message) == [None, None]
        await wait_until_idle(pipe)
        assert await call_from("callback", receive, "end") == [None, None]
        assert seen[0] not in (None, asyncio.current_task())


async def test_a_handler_that_never_waits_finishes_when_its_message_arrives(origin: str) -> None:
    async def answer(conn: Connection) -> None:
        await conn.send("answer")

    component = Scripted(answer=answer)
    async with opened(component) as pipe:

        def receive() -> tuple[bool, bool, list[Any]]:
            pipe.lifecycle.data_received(message_frame("answer") * 2)
            return bool(pipe.host.filled), pipe.lifecycle.is_busy, component.calls[1:]

        is_eager = origin == "callback" and on_asyncio()
        done = [("done", "answer")] * 2
        assert await call_from(origin, receive) == ((True, False, done) if is_eager else (False, True, []))
        await wait_until_idle(pipe)
        assert pipe.messages() == ["answer", "answer"]
        assert component.calls[1:3] == done


@pytest.mark.parametrize("anyio_backend", LOOPS)
async def test_a_first_step_runs_when_a_message_arrives_on_a_socket() -> None:
    class TurnRecorder(Recorder):
        def on_message(self, conn: Connection, message: Any) -> Any:
            self.record("called")
            asyncio.get_running_loop().call_soon(self.record, "turn")
            return self.later(message)

        async def later(self, message: str) -> None:
            self.record("begun", asyncio.current_task())
            if message == "wait":
                await checkpoints()
                self.record("ended", asyncio.current_task())

    component = TurnRecorder()
    async with serving(component) as server, server.client() as client:
        for number, message in enumerate(("warm up", "go", "wait"), 1):
            await client.send(message)
            await component.until_called("turn", number)
            await component.until_called("begun", number)
        await component.until_called("ended")
    assert component.names()[1:-1] == ["called", "turn", "begun", *["called", "begun", "turn"] * 2, "ended"]
    assert len({call[1] for call in component.calls if call[0] in ("begun", "ended")}) == 1


async def test_messages_of_one_read_are_handled_in_order_and_one_at_a_time(origin: str) -> None:
    gates = {name: anyio.Event() for name in ("wait 2", "wait 4", "wait 5")}

    class Gated(Recorder):
        async def on_message(self, conn: Connection, message: Any) -> None:
            self.record("begin", message)
            if message in gates:
                await gates[message].wait()
            self.record("end", message)

    sent = ["1", "wait 2", "3", "wait 4", "wait 5", "6"]
    component = Gated()
    async with opened(component) as pipe:
        del component.calls[:]
        await call_from(origin, pipe.write, b"".join(map(message_frame, sent)) + frame(PING, b"?"))
        assert pipe.client.frames == [(PONG, b"?")]
        for name, gate in gates.items():
            await component.until(lambda name=name: component.calls[-1:] == [("begin", name)])  # type: ignore[misc]
            await checkpoints()
            await call_from(origin, pipe.write, frame(PING, b"!"))
            assert component.calls[-1] == ("begin", name)
            gate.set()
        await wait_until_idle(pipe)
        assert component.calls == [(step, message) for message in sent for step in ("begin", "end")]
        assert pipe.client.frames[1:] == [(PONG, b"!")] * 3


async def test_context_variables_belong_to_a_connection(origin: str) -> None:
    class Naming(Recorder):
        async def on_message(self, conn: Connection, message: Any) -> None:
            before = current_name.get()
            current_name.set(message)
            await checkpoints()
            self.record(before, current_name.get())

        async def on_close(self, conn: Connection) -> None:
            self.record("close", current_name.get())

    first, second = Naming(), Naming()
    async with opened(first) as one, opened(second) as other:
        for message in "ab":
            await call_from(origin, send_each, (one, message), (other, message * 2))
            await wait_until_idle(one)
            await wait_until_idle(other)
        assert await call_from(origin, current_name.get) == "none"
    assert first.calls[1:] == [("none", "warm up"), ("warm up", "a"), ("a", "b"), ("close", "b")]
    assert second.calls[1:] == [("none", "warm up"), ("warm up", "aa"), ("aa", "bb"), ("close", "bb")]


async def test_a_context_variable_can_be_reset_after_a_wait_and_by_another_handler(origin: str) -> None:
    tokens: list[Token[str]] = []

    async def both(conn: Connection) -> None:
        token = current_name.set("both")
        await checkpoints()
        current_name.reset(token)

    async def put(conn: Connection) -> None:
        tokens.append(current_name.set("put"))

    async def take(conn: Connection) -> None:
        assert current_name.get() == "put"
        current_name.reset(tokens.pop())
        assert current_name.get() == "none"

    sent = ["both", "put", "take", "put", "both", "take"]
    assert await run_messages(origin, *sent, both=both, put=put, take=take) == [
        ("done", name) for name in [*sent, "later"]
    ]


async def test_a_handler_can_return_any_awaitable(origin: str) -> None:
    class ReturningAwaitables(Recorder):
        def on_message(self, conn: Connection, message: Any) -> Any:
            self.record("message", message)
            if message == "object":
                return SlowAwaitable()
            if message == "sent":
                return conn.send(message)
            if message == "future" and on_asyncio():
                future = asyncio.get_running_loop().create_future()
                asyncio.get_running_loop().call_soon(future.set_exception, LookupError())
                return future
            return None

        def on_error(self, conn: Connection, exc: Exception) -> None:
            self.record("error")

    component = ReturningAwaitables()
    sent = ["object", "future", "sent", "object"]
    async with opened(component) as pipe:
        for messages in (sent[:2], sent[2:]):
            await call_from(origin, pipe.send, *messages)
            await wait_until_idle(pipe)
        assert pipe.messages() == ["sent"]
        assert [call[1] for call in component.calls if call[0] == "message"] == ["warm up", *sent]
        assert component.names().count("error") == on_asyncio()


class Several(Recorder):
    """A component of three connections that records the tasks in which each of them is handled."""

    def __init__(self, act: Callable[[Connection, str], object]) -> None:
        super().__init__()
        self.act = act
        self.tasks: dict[int, set[int]] = {}

    async def on_message(self, conn: Connection, message: Any) -> None:
        tasks = self.tasks.setdefault(conn.id, set())
        tasks.add(anyio.get_current_task().id)
        if message != "warm up":
            self.act(conn, message)
            tasks.add(anyio.get_current_task().id)
            await conn.send(f"answer {message}")
            await checkpoints()
            tasks.add(anyio.get_current_task().id)

    def check(self) -> None:
        assert [len(tasks) for tasks in self.tasks.values()] == [1, 1, 1]
        assert len(set.union(*self.tasks.values())) == 3
        assert self.names().count("close") == 3


@pytest.mark.parametrize("how", ["send", "close", "abort"])
async def test_a_first_step_can_act_on_other_connections(origin: str, how: str) -> None:
    def act(conn: Connection, message: str) -> None:
        for pipe in (a, b) if message == "2" else (b,):
            pipe.conn.send("hello") if how == "send" else getattr(pipe.conn, how)()

    component = Several(act)
    async with opened(component) as a, opened(component) as b, opened(component) as c:
        await call_from(origin, send_each, (a, "1"), (c, "2"))
        for pipe in (a, c, a, b):
            await wait_until_idle(pipe)
        assert c.messages() == ["answer 2"]
        if how == "send":
            assert sorted(map(str, a.messages())) == ["answer 1", "hello"]
            assert b.messages() == ["hello"] * 2
        else:
            assert [not pipe.conn.is_open for pipe in (a, b, c)] == [True, True, False]
    component.check()


async def test_a_message_can_arrive_during_a_first_step(origin: str) -> None:
    def act(conn: Connection, message: str) -> None:
        if message in following:
            following[message].lifecycle.data_received(message_frame(message + "+"))

    component = Several(act)
    async with opened(component) as a, opened(component) as b, opened(component) as c:
        following = {"1": b, "1+": c}
        await call_from(origin, a.send, "1")
        for pipe in (a, b, c):
            await wait_until_idle(pipe)
        assert [pipe.messages() for pipe in (a, b, c)] == [["answer 1"], ["answer 1+"], ["answer 1++"]]
    component.check()
