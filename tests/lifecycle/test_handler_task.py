"""The task of a connection: an async handler begins where its message came in, and nobody can tell."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from contextvars import Token
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.handler_tasks import LOOPS, Scripted, SlowAwaitable, call_from, checkpoints, wait_until_idle, run_messages, send_each, opened, current_name
from support.serving import CLOSE, GUARD, PING, PONG, Pipe, Recorder, close_frame, frame, message_frame, serving

from pywsapp._event_loop import on_asyncio
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["callback", "task"])
def origin(request: pytest.FixtureRequest) -> str:
    """How messages come in: in no task, as from a loop's transport, or inside the task of the test."""
    return str(request.param)


def problems(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


# -- one task ----------------------------------------------------------------------------------------------------------


class Looking(Recorder):
    """Writes down in which task it runs: in the first step, after a wait, and at last."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[anyio.TaskInfo] = []

    async def on_open(self, conn: Connection) -> None:
        await self.look()

    async def on_message(self, conn: Connection, message: Any) -> None:
        await self.look()
        if message == "crash":
            raise LookupError

    async def on_error(self, conn: Connection, exc: Exception) -> None:
        await self.look()

    async def on_close(self, conn: Connection) -> None:
        await self.look()
        self.record("close")

    async def look(self) -> None:
        self.seen.append(anyio.get_current_task())
        await anyio.lowlevel.checkpoint()
        self.seen.append(anyio.get_current_task())


async def test_one_task_runs_every_handler_of_a_connection(origin: str) -> None:
    component = Looking()
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
async def test_no_task_is_left_as_the_current_one(message: str) -> None:
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

        def come(message: str) -> list[object]:
            before = asyncio.current_task()
            pipe.send(message)
            return [before, asyncio.current_task()]

        assert await call_from("callback", come, message) == [None, None]
        await wait_until_idle(pipe)
        assert await call_from("callback", come, "end") == [None, None]
        assert seen[0] not in (None, asyncio.current_task())


async def test_a_handler_that_never_waits_ends_where_its_message_came_in(origin: str) -> None:
    async def answer(conn: Connection) -> None:
        await conn.send("answer")

    component = Scripted(answer=answer)
    async with opened(component) as pipe:

        def come() -> tuple[bool, bool, list[Any]]:
            pipe.lifecycle.data_received(message_frame("answer") * 2)
            return bool(pipe.host.filled), pipe.lifecycle.is_busy, component.calls[1:]

        lent = origin == "callback" and on_asyncio()
        done = [("done", "answer")] * 2
        assert await call_from(origin, come) == ((True, False, done) if lent else (False, True, []))
        await wait_until_idle(pipe)
        assert pipe.messages() == ["answer", "answer"]
        assert component.calls[1:3] == done


@pytest.mark.parametrize("anyio_backend", LOOPS)
async def test_so_it_does_on_real_sockets() -> None:
    class Turning(Recorder):
        def on_message(self, conn: Connection, message: Any) -> Any:
            self.record("called")
            asyncio.get_running_loop().call_soon(self.record, "turn")
            return self.later(message)

        async def later(self, message: str) -> None:
            self.record("begun", asyncio.current_task())
            if message == "wait":
                await checkpoints()
                self.record("ended", asyncio.current_task())

    component = Turning()
    async with serving(component) as server, server.client() as client:
        for number, message in enumerate(("warm up", "go", "wait"), 1):
            await client.send(message)
            await component.until_called("turn", number)
            await component.until_called("begun", number)
        await component.until_called("ended")
    assert component.names()[1:-1] == ["called", "turn", "begun", *["called", "begun", "turn"] * 2, "ended"]
    assert len({call[1] for call in component.calls if call[0] in ("begun", "ended")}) == 1


# -- order -------------------------------------------------------------------------------------------------------------


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


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_error", ["def", "async", "waits"])
@pytest.mark.parametrize("waits", [False, True])
async def test_an_error_is_told_once_and_the_next_message_is_handled(origin: str, waits: bool, on_error: str) -> None:
    class Failing(Scripted):
        def on_error(self, conn: Connection, exc: Exception) -> Any:
            return self.record("error", type(exc)) if on_error == "def" else self.later(exc)

        async def later(self, exc: Exception) -> None:
            if on_error == "waits":
                await checkpoints()
            self.record("error", type(exc))

    async def crash(conn: Connection) -> None:
        if waits:
            await checkpoints()
        raise LookupError

    async def send(conn: Connection) -> None:
        await conn.send("open")

    component = Failing(crash=crash, send=send)
    async with opened(component) as pipe:
        await call_from(origin, pipe.send, "crash", "send", "crash")
        await wait_until_idle(pipe)
        await call_from(origin, pipe.send, "send")
        await wait_until_idle(pipe)
        assert pipe.messages() == ["open"] * 2
        assert component.calls[1:] == [("error", LookupError), ("done", "send")] * 2


@pytest.mark.parametrize("waits", [False, True])
async def test_a_def_on_error_is_called_where_the_handler_ran(origin: str, waits: bool) -> None:
    """What is logged there can name what the handler has put into context variables."""
    tasks: list[anyio.TaskInfo] = []

    class Failing(Scripted):
        def on_error(self, conn: Connection, exc: Exception) -> None:
            tasks.append(anyio.get_current_task())
            self.record("error", current_name.get())

    async def crash(conn: Connection) -> None:
        tasks.append(anyio.get_current_task())
        current_name.set("crash")
        if waits:
            await checkpoints()
        raise LookupError

    component = Failing(crash=crash)
    async with opened(component) as pipe:
        await call_from(origin, pipe.send, "crash")
        await wait_until_idle(pipe)
        assert component.calls[1:] == [("error", "crash")]
        assert tasks[0] == tasks[1]


async def test_an_error_does_not_drag_along_what_was_caught_before(origin: str) -> None:
    contexts: list[BaseException | None] = []

    class Failing(Scripted):
        def on_error(self, conn: Connection, exc: Exception) -> None:
            contexts.append(exc.__context__)

    async def crash(conn: Connection) -> None:
        with anyio.move_on_after(0):
            await anyio.sleep_forever()
        raise LookupError

    async with opened(Failing(crash=crash)) as pipe:
        await call_from(origin, pipe.send, "crash")
        await wait_until_idle(pipe)
        assert contexts == [None]


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("exc", [asyncio.CancelledError, BaseException])
async def test_what_is_no_exception_ends_the_connection(
    origin: str, waits: bool, exc: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    async def stray(conn: Connection) -> None:
        if waits:
            await checkpoints()
        raise exc("on purpose")

    component = Scripted(stray=stray)
    async with opened(component) as pipe:
        await call_from(origin, pipe.send, "stray", "2")
        await wait_until_idle(pipe)
        assert pipe.codes() == [1011]
        await call_from(origin, pipe.write, close_frame(1011))
        await component.until_called("close")
    assert component.calls == [("open",), ("close", 1011, "internal error", True)]
    assert len(problems(caplog)) == 1


@pytest.mark.parametrize("exc", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("anyio_backend", LOOPS)
async def test_leaving_the_program_is_not_held_up(exc: type[BaseException]) -> None:
    async def leave(conn: Connection) -> None:
        raise exc

    component = Scripted(leave=leave)
    async with opened(component) as pipe:
        with pytest.raises(exc):
            await call_from("callback", pipe.send, "leave")
        assert component.names() == ["open"]
        assert not pipe.lifecycle.is_busy


# -- context variables -------------------------------------------------------------------------------------------------


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
        assert await call_from(origin, current_name.get) == "nobody"
    assert first.calls[1:] == [("nobody", "warm up"), ("warm up", "a"), ("a", "b"), ("close", "b")]
    assert second.calls[1:] == [("nobody", "warm up"), ("warm up", "aa"), ("aa", "bb"), ("close", "bb")]


async def test_a_context_variable_is_reset_after_a_wait_and_by_another_handler(origin: str) -> None:
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
        assert current_name.get() == "nobody"

    sent = ["both", "put", "take", "put", "both", "take"]
    assert await run_messages(origin, *sent, both=both, put=put, take=take) == [("done", name) for name in [*sent, "later"]]


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["first", "waits"])
@pytest.mark.parametrize("end", ["cancelled", "lost", "aborted", "closed", "closed by us"])
async def test_on_close_comes_once_whatever_a_handler_does_meanwhile(
    origin: str, step: str, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    gate = anyio.Event()
    calls: list[tuple[Any, ...]] = []

    class Waiting(Scripted):
        async def on_close(self, conn: Connection) -> None:
            await checkpoints()
            self.record("close", conn.close_code)

    async def wait(conn: Connection) -> None:
        try:
            await gate.wait()
        finally:
            calls.append(("end",))

    def stop(pipe: Pipe) -> None:
        ends: dict[str, Callable[[], object]] = {
            "cancelled": tasks.cancel_scope.cancel,
            "lost": pipe.client.transport.abort,
            "aborted": pipe.conn.abort,
            "closed by us": lambda: pipe.conn.close(3000),
        }
        if end in ends:
            ends[end]()
        if "closed" in end:
            pipe.client.transport.write(close_frame(3000))
        pipe.turn()

    def come(pipe: Pipe) -> None:
        pipe.send("wait")
        if step == "first":
            stop(pipe)

    component = Waiting(wait=wait)
    component.calls = calls
    async with anyio.create_task_group() as tasks:
        pipe = Pipe(component, tasks=tasks)
        await wait_until_idle(pipe)
        pipe.send("warm up")
        await wait_until_idle(pipe)
        await call_from(origin, come, pipe)
        if step == "waits":
            await checkpoints()
            await call_from(origin, stop, pipe)
        gate.set()
        await wait_until_idle(pipe)
        await component.until_called("close")
    code = 3000 if "closed" in end else 1006
    assert calls in [[("open",), ("end",), *done, ("close", code)] for done in ([("done", "wait")], [])]
    assert ("done", "wait") in calls or end == "cancelled"
    assert pipe.host.discarded == 1
    del pipe, component
    gc.collect()
    assert problems(caplog) == []


@pytest.mark.parametrize("how", ["cancel", "stop"])
async def test_a_server_ends_in_good_order(how: str, caplog: pytest.LogCaptureFixture) -> None:
    async def wait(conn: Connection) -> None:
        component.record("waiting")
        getattr(server, how)()
        while conn.is_open:
            await anyio.lowlevel.checkpoint()

    component = Scripted(wait=wait)
    async with serving(component) as server, server.client() as client, server.client() as other:
        for one in (client, other):
            await one.send("warm up")
        await client.send("wait")
        await component.until_called("waiting")
        if how == "stop":
            for one in (client, other):
                assert (await one.receive())[0] == CLOSE
                await one.stream.send(close_frame(1012))
                await one.read_to_end()
        with anyio.fail_after(GUARD):
            await server.ended.wait()
    gc.collect()
    assert component.names().count("close") == 2
    assert problems(caplog) == []


# -- other awaitables --------------------------------------------------------------------------------------------------


async def test_what_is_awaited_need_not_be_a_coroutine(origin: str) -> None:
    class Various(Recorder):
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

    component = Various()
    sent = ["object", "future", "sent", "object"]
    async with opened(component) as pipe:
        for messages in (sent[:2], sent[2:]):
            await call_from(origin, pipe.send, *messages)
            await wait_until_idle(pipe)
        assert pipe.messages() == ["sent"]
        assert [call[1] for call in component.calls if call[0] == "message"] == ["warm up", *sent]
        assert component.names().count("error") == on_asyncio()


# -- several connections -----------------------------------------------------------------------------------------------


class Several(Recorder):
    """Three connections; notices in which task each of them is handled."""

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
async def test_a_first_step_may_act_on_other_connections(origin: str, how: str) -> None:
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


async def test_messages_may_come_in_inside_a_first_step(origin: str) -> None:
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


async def test_the_end_without_a_worker_runs_in_a_coroutine_of_pythons_own() -> None:
    ended = []

    class Late(MessageComponent):
        async def on_close(self, conn: Connection) -> None:
            ended.append(conn.close_code)

    async with anyio.create_task_group() as tasks:
        pipe = Pipe(Late(), tasks=tasks)
        pipe.lifecycle.connection_lost(None)
    assert ended == [1006]
