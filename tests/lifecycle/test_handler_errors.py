"""Exceptions of handlers: on_error gets each of them once, and other connections are not affected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.components import Suspending, crash, logged_problems, raise_cancelled
from support.serving import CLOSE, Client, Pipe, Recorder, close_frame, serving

from pywsapp.connection import Connection

pytestmark = pytest.mark.anyio


class Failing(Recorder):
    """Fails in the method that the path names."""

    def fail_in(self, name: str, conn: Connection) -> None:
        if conn.request.path == f"/{name}":
            crash()

    def on_open(self, conn: Connection) -> Any:
        super().on_open(conn)
        self.fail_in("on_open", conn)

    def on_message(self, conn: Connection, message: Any) -> Any:
        super().on_message(conn, message)
        self.fail_in("on_message", conn)

    def on_close(self, conn: Connection) -> Any:
        super().on_close(conn)
        self.fail_in("on_close", conn)


class AsyncFailing(Suspending, Failing):
    """The same in async handlers."""


FAILING = pytest.mark.parametrize("failing", [Failing, AsyncFailing], ids=["def", "async"])

WHERE = pytest.mark.parametrize("where", ["on_open", "on_message", "on_close"])


async def end_after_a_failure(client: Client, where: str) -> None:
    """Receive the close frame with code 1011, or close if the failure is in `on_close`."""
    if where == "on_close":
        assert await client.close() == 1000
    else:
        assert await client.receive() == (CLOSE, b"\x03\xf3internal error")
        await client.stream.send(close_frame(1011))
        await client.read_to_end()


@FAILING
@WHERE
async def test_the_default_on_error_logs_and_closes_the_connection(
    failing: type[Failing], where: str, caplog: pytest.LogCaptureFixture
) -> None:
    component = failing()
    async with serving(component) as server, server.client() as bystander:
        async with server.client(f"/{where}") as client:
            await client.send("1", "2")
            await end_after_a_failure(client, where)
            await component.until_called("error")
            await component.until_called("close")
        await bystander.send("still served")
        await component.until(lambda: ("message", "still served") in component.calls)
        expected = {
            "on_open": ["open", "error", "close"],
            "on_message": ["open", "message", "error", "close"],
            "on_close": ["open", "message", "message", "close", "error"],
        }
        assert component.names() == ["open", *expected[where], "message"]
    [record] = logged_problems(caplog)
    assert (record.name, record.levelname) == ("pywsapp", "ERROR")
    assert record.getMessage().startswith(
        f"{failing.__name__} failed for <Connection {component.conns[1].id} /{where} "
    )
    assert "in crash\n    raise LookupError" in caplog.text


@pytest.mark.parametrize("kind", ["def", "async"])
@FAILING
@WHERE
async def test_an_overridden_on_error_decides(
    failing: type[Failing], where: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Deciding(failing):  # type: ignore[valid-type,misc]
        def on_error(self, conn: Connection, exc: Exception) -> Any:
            if kind == "async":
                return self.later(conn, exc)
            self.record("error", repr(exc))
            return None

        async def later(self, conn: Connection, exc: Exception) -> None:
            await anyio.lowlevel.checkpoint()
            self.record("error", repr(exc))

    component = Deciding()
    async with serving(component) as server, server.client(f"/{where}") as client:
        await client.send("1", "2")
        await component.until_called("message", 2)
        assert await client.close() == 1000
        await component.until_called("close")
        await component.until_called("error")
    error = ("error", "LookupError('on purpose')")
    expected: dict[str, list[tuple[Any, ...]]] = {
        "on_open": [("open",), error, ("message", "1"), ("message", "2"), ("close", 1000, "", True)],
        "on_message": [("open",), ("message", "1"), error, ("message", "2"), error, ("close", 1000, "", True)],
        "on_close": [("open",), ("message", "1"), ("message", "2"), ("close", 1000, "", True), error],
    }
    assert component.calls == expected[where]
    assert logged_problems(caplog) == []


@pytest.mark.parametrize("failure", [crash, raise_cancelled])
@pytest.mark.parametrize("kind", ["def", "async"])
@FAILING
@WHERE
async def test_a_failing_on_error_is_called_once_and_closes_the_connection(
    failing: type[Failing], where: str, kind: str, failure: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    class FailingOnError(failing):  # type: ignore[valid-type,misc]
        def on_error(self, conn: Connection, exc: Exception) -> Any:
            self.record("error", type(exc).__name__)
            return self.later() if kind == "async" else failure()

        async def later(self) -> None:
            await anyio.lowlevel.checkpoint()
            failure()

    component = FailingOnError()
    async with serving(component) as server:
        async with server.client(f"/{where}") as client:
            await client.send("1")
            await end_after_a_failure(client, where)
            await component.until_called("close")
            await component.until_called("error")
        async with server.client() as client:
            assert await client.close() == 1000
        await component.until_called("close", 2)
    assert component.names().count("error") == 1
    [record] = logged_problems(caplog)
    assert "FailingOnError.on_error itself failed for <Connection" in record.getMessage()
    assert record.exc_info is not None


@pytest.mark.parametrize("kind", ["def", "async"])
@pytest.mark.parametrize("where", ["on_open", "on_message", "on_close"])
async def test_a_foreign_cancellation_is_logged_and_ends_one_connection(
    where: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that awaits a task gets a CancelledError when other code cancels that task."""

    class Cancelling(Recorder):
        def maybe(self, name: str, conn: Connection) -> Any:
            if conn.request.path == f"/{name}":
                return self.later() if kind == "async" else raise_cancelled()
            return None

        async def later(self) -> None:
            await anyio.lowlevel.checkpoint()
            raise_cancelled()

        def on_open(self, conn: Connection) -> Any:
            super().on_open(conn)
            return self.maybe("on_open", conn)

        def on_message(self, conn: Connection, message: Any) -> Any:
            super().on_message(conn, message)
            return self.maybe("on_message", conn)

        def on_close(self, conn: Connection) -> Any:
            super().on_close(conn)
            return self.maybe("on_close", conn)

    component = Cancelling()
    async with serving(component) as server, server.client() as bystander:
        async with server.client(f"/{where}") as client:
            await client.send("1")
            await end_after_a_failure(client, where)
            await component.until_called("close")
        await bystander.send("still served")
        await component.until(lambda: ("message", "still served") in component.calls)
        server.stop()
        assert (await bystander.receive())[0] == CLOSE
        await bystander.stream.send(close_frame(1012))
        await bystander.read_to_end()
        await server.ended.wait()
    assert component.names().count("error") == 0
    assert component.names().count("close") == 2
    [record] = logged_problems(caplog)
    assert record.exc_info is not None
    assert record.exc_info[0] is asyncio.CancelledError


@pytest.mark.parametrize("exit_with", [KeyboardInterrupt, SystemExit])
def test_keyboard_interrupt_and_system_exit_are_not_caught(exit_with: type[BaseException]) -> None:
    """Ctrl+C can interrupt a handler."""

    class Exiting(Recorder):
        def on_message(self, conn: Connection, message: Any) -> None:
            raise exit_with

    pipe = Pipe(Exiting())
    with pytest.raises(exit_with):
        pipe.send("1")
