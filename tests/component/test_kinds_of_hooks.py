"""Hooks that are def, async def, in a thread or return an awaitable, and what they can use."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from support.serving import CLOSE, GUARD, Pipe, Recorder, close_frame, message_frame, serving

from pywsapp._hooks import check_component
from pywsapp.component import MessageComponent, in_thread
from pywsapp.connection import Connection
from pywsapp.exceptions import ConfigurationError

pytestmark = pytest.mark.anyio


# -- kinds of handlers -------------------------------------------------------------------------------------------------


def as_def(handler: Callable[..., None]) -> Callable[..., Any]:
    return handler


def as_async(handler: Callable[..., None]) -> Callable[..., Any]:
    async def run(*arguments: Any) -> None:
        await anyio.lowlevel.checkpoint()
        handler(*arguments)

    return run


def as_thread(handler: Callable[..., None]) -> Callable[..., Any]:
    return in_thread(lambda *arguments: anyio.from_thread.run_sync(handler, *arguments))


def as_awaitable(handler: Callable[..., None]) -> Callable[..., Any]:
    """A def that finishes its work and returns an awaitable."""

    def run(self: Any, conn: Connection, *arguments: Any) -> Awaitable[Any]:
        handler(self, conn, *arguments)
        return conn.send("") if arguments and arguments[0] == "send" else anyio.lowlevel.checkpoint()

    return run


KINDS = [as_def, as_async, as_thread, as_awaitable]


@pytest.mark.parametrize("on_message", KINDS)
@pytest.mark.parametrize("on_open", KINDS)
async def test_kinds_of_hooks_can_be_mixed(on_open: Callable[..., Any], on_message: Callable[..., Any]) -> None:
    kinds = [on_open, on_message, on_message, on_open]
    names = ["on_open", "on_message", "on_close", "on_error"]
    handlers = {name: kind(getattr(Recorder, name)) for name, kind in zip(names, kinds, strict=True)}
    component = type("Mixed", (Recorder,), handlers)()
    messages = [str(number) for number in range(30)]
    async with serving(component) as server, server.client(trailing=message_frame("trailing")) as client:
        await client.send(*messages)
        await client.close()
        await component.until_called("close")
    assert component.calls == [
        ("open",),
        ("message", "trailing"),
        *(("message", message) for message in messages),
        ("close", 1000, "", True),
    ]


async def test_kinds_can_change_from_message_to_message() -> None:
    class Changing(Recorder):
        def on_message(self, conn: Connection, message: Any) -> Any:
            if message == "def":
                return self.record(message)
            if message == "async":
                return self.later(message)
            if message == "thread":
                return self.threaded(message)
            self.record(message)
            return conn.send(message)

        async def later(self, message: Any) -> None:
            await anyio.lowlevel.checkpoint()
            self.record(message)

        @in_thread
        def threaded(self, message: Any) -> None:
            anyio.from_thread.run_sync(self.record, message)

    component = Changing()
    sent = ["def", "async", "def", "thread", "send", "def", "def", "async", "async", "thread", "send", "send"] * 3
    async with serving(component) as server, server.client() as client:
        await client.send(*sent)
        await client.close()
        await component.until_called("close")
    assert component.names() == ["open", *sent, "close"]


@pytest.mark.parametrize(
    "result", [True, 0, "text", b"", [], {"a": 1}, object()], ids=lambda result: type(result).__name__
)
def test_a_result_that_cannot_be_awaited_is_ignored(result: Any) -> None:
    class Returning(Recorder):
        def on_open(self, conn: Connection) -> Any:
            return result

        def on_message(self, conn: Connection, message: Any) -> Any:
            self.record(message)
            return result

        def on_close(self, conn: Connection) -> Any:
            self.record("close")
            return result

    component = Returning()
    pipe = Pipe(component)
    pipe.send("1", "2")
    pipe.write(close_frame())
    assert component.names() == ["1", "2", "close"]


@pytest.mark.parametrize("busy", [True, False], ids=["queued", "at once"])
async def test_a_future_can_be_returned(busy: bool) -> None:
    """Any awaitable can be returned, not only a coroutine."""

    class Soon:
        def __await__(self) -> Any:
            return anyio.lowlevel.checkpoint().__await__()

    class Returning(Recorder):
        def on_message(self, conn: Connection, message: Any) -> Any:
            self.record(message)
            return Soon()

    component = Returning()
    async with serving(component) as server, server.client() as client:
        await client.send(*(["1", "2"] if busy else ["1"]))
        await client.close()
        await component.until_called("close")
    assert component.names() == ["open", *(["1", "2"] if busy else ["1"]), "close"]


# -- what async handlers can do ----------------------------------------------------------------------------------------


async def test_timeouts_cancel_scopes_and_task_groups_work_in_hooks() -> None:
    class Using(Recorder):
        async def on_open(self, conn: Connection) -> None:
            with anyio.move_on_after(0) as scope:
                await anyio.sleep_forever()
            self.record("moved on", scope.cancelled_caught)

        async def on_message(self, conn: Connection, message: Any) -> None:
            try:
                with anyio.fail_after(0):
                    await anyio.sleep_forever()
            except TimeoutError:
                self.record("failed", message)
            done: list[int] = []
            async with anyio.create_task_group() as tasks:
                for number in range(3):
                    tasks.start_soon(self.work, done, number)
            self.record("worked", sorted(done))

        async def work(self, done: list[int], number: int) -> None:
            await anyio.lowlevel.checkpoint()
            done.append(number)

        async def on_close(self, conn: Connection) -> None:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await anyio.lowlevel.checkpoint()
            self.record("close", scope.cancelled_caught)

    component = Using()
    async with serving(component) as server, server.client() as client:
        await client.send("1", "2")
        await client.close()
        await component.until_called("close")
    worked = ("worked", [0, 1, 2])
    assert component.calls == [
        ("moved on", True),
        ("failed", "1"),
        worked,
        ("failed", "2"),
        worked,
        ("close", True),
    ]


async def test_hooks_of_a_connection_run_in_one_task() -> None:
    tasks: dict[str, set[int]] = {}

    class Asking(Recorder):
        async def on_message(self, conn: Connection, message: Any) -> None:
            await anyio.lowlevel.checkpoint()
            task = anyio.get_current_task()
            tasks.setdefault(message, set()).add(task.id)
            await conn.send(message)

    async with serving(Asking()) as server, server.client() as one, server.client() as other:
        for _ in range(3):
            await one.send("one")
            await one.message()
            await other.send("other")
            await other.message()
    assert len(tasks["one"]) == len(tasks["other"]) == 1
    assert tasks["one"] != tasks["other"]


ON_ASYNCIO = pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"use_uvloop": uvloop}) for uvloop in (False, True)], ids=["asyncio", "uvloop"]
)


@ON_ASYNCIO
async def test_libraries_of_asyncio_find_their_task() -> None:
    class Using(Recorder):
        async def on_message(self, conn: Connection, message: Any) -> None:
            assert asyncio.current_task() is not None
            self.record(await asyncio.wait_for(asyncio.sleep(0, message), GUARD))
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), 0)

    component = Using()
    async with serving(component) as server, server.client() as client:
        await client.send("1")
        await client.close()
        await component.until_called("close")
    assert component.names() == ["open", "1", "close"]


@ON_ASYNCIO
async def test_the_cancellation_of_an_awaited_task_is_an_error_of_the_hook(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Waiting(Recorder):
        async def on_message(self, conn: Connection, message: Any) -> None:
            task = asyncio.ensure_future(asyncio.sleep(GUARD))
            task.cancel()
            await task

    async with serving(Waiting()) as server, server.client() as client:
        await client.send("1")
        assert await client.receive() == (CLOSE, b"\x03\xf3internal error")
    assert [record.levelname for record in caplog.records] == ["ERROR"]


who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


async def test_context_variables_last_for_a_connection() -> None:
    class Remembering(Recorder):
        async def on_open(self, conn: Connection) -> None:
            who.set(conn.request.path)

        async def on_message(self, conn: Connection, message: Any) -> None:
            await conn.send(f"{who.get()} {await self.in_thread()}")
            if message == "change":
                who.set("changed")

        @in_thread
        def in_thread(self) -> str:
            return who.get()

        async def on_close(self, conn: Connection) -> None:
            self.record("close", who.get())

    component = Remembering()
    async with serving(component) as server, server.client("/ana") as ana, server.client("/bo") as bo:
        for client, expected in ((ana, "/ana /ana"), (bo, "/bo /bo")):
            await client.send("hello")
            assert await client.message() == expected
        await ana.send("change", "hello")
        assert await ana.message() == "/ana /ana"
        assert await ana.message() == "changed changed"
        await bo.send("hello")
        assert await bo.message() == "/bo /bo"
        await ana.close()
        await component.until_called("close")
        await bo.close()
        await component.until_called("close", 2)
    assert component.calls == [("close", "changed"), ("close", "/bo")]
    assert who.get() == "nobody"


# -- threads -----------------------------------------------------------------------------------------------------------


async def test_a_marked_hook_runs_in_a_thread() -> None:
    ids: list[int] = []

    class Threaded(MessageComponent):
        @in_thread
        def on_message(self, conn: Connection, message: Any) -> None:
            ids.append(threading.get_ident())
            anyio.from_thread.run_sync(conn.send, message.upper())
            anyio.from_thread.run(conn.send, "awaited")

    async with serving(Threaded()) as server, server.client() as client:
        await client.send("hello")
        assert await client.message() == "HELLO"
        assert await client.message() == "awaited"
    assert threading.get_ident() not in ids


async def test_a_blocked_thread_does_not_delay_other_connections() -> None:
    release = threading.Event()

    class Blocking(MessageComponent):
        @in_thread
        def on_message(self, conn: Connection, message: Any) -> None:
            if message == "block":
                assert release.wait(GUARD)
            anyio.from_thread.run_sync(conn.send, message)

    async with serving(Blocking()) as server, server.client() as blocked, server.client() as other:
        await blocked.send("block", "then")
        await other.send("go")
        assert await other.message() == "go"
        release.set()
        assert await blocked.message() == "block"
        assert await blocked.message() == "then"


async def test_an_error_in_a_thread_reaches_on_error() -> None:
    class Failing(Recorder):
        @in_thread
        def on_message(self, conn: Connection, message: Any) -> None:
            raise LookupError(message)

        @in_thread
        def on_error(self, conn: Connection, exc: Exception) -> None:
            anyio.from_thread.run_sync(self.record, "error", repr(exc))

    component = Failing()
    async with serving(component) as server, server.client() as client:
        await client.send("1", "2")
        await client.close()
        await component.until_called("close")
    assert component.calls[1:-1] == [("error", "LookupError('1')"), ("error", "LookupError('2')")]


async def test_a_cancelled_server_waits_for_threads() -> None:
    release = threading.Event()

    class Blocking(Recorder):
        @in_thread
        def on_message(self, conn: Connection, message: Any) -> None:
            anyio.from_thread.run_sync(self.record, "begun")
            assert release.wait(GUARD)

    component = Blocking()
    async with serving(component) as server, server.client() as client:
        await client.send("1", "2")
        await component.until_called("begun")
        server.cancel()
        with anyio.move_on_after(0.01):
            await server.ended.wait()
        assert component.names() == ["open", "begun"]
        release.set()
        with anyio.fail_after(GUARD):
            await server.ended.wait()
    assert component.names() == ["open", "begun", "close"]


def test_an_async_hook_cannot_be_marked() -> None:
    async def handler(conn: Connection) -> None: ...

    with pytest.raises(ConfigurationError, match=r"in_thread is for def hooks; .*handler is an async def"):
        in_thread(handler)


def test_a_marked_hook_keeps_its_name_and_signature() -> None:
    class Marked(MessageComponent):
        @in_thread
        def on_message(self, conn: Connection, message: Any) -> None:
            """Text."""

        @in_thread
        def on_open(self) -> None: ...  # type: ignore[override]

    assert Marked.on_message.__doc__ == "Text."
    with pytest.raises(ConfigurationError, match=r"Marked.on_open must take \(self, conn\)"):
        check_component(Marked)
