"""Likely mistakes in handlers: the message of each says what to write instead."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest
from support.serving import Pipe, Recorder

from pywsapp._lifecycle.mistakes import explain
from pywsapp.component import MessageComponent, in_thread
from pywsapp.connection import Connection
from pywsapp.exceptions import Refuse


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_setting_an_unknown_attribute_of_a_connection_fails(caplog: pytest.LogCaptureFixture) -> None:
    class Naming(MessageComponent):
        def on_message(self, conn: Connection, message: Any) -> None:
            conn.name = message  # type: ignore[attr-defined]

    pipe = Pipe(Naming())
    pipe.send("Ana")
    assert "conn.state.name" in caplog.text
    assert pipe.codes() == [1011]


@pytest.mark.parametrize("end", ["", " and no __dict__ for setting new attributes"])
def test_the_message_for_an_unknown_attribute_is_the_same_on_all_pythons(end: str) -> None:
    exc = AttributeError(f"'Connection' object has no attribute 'name'{end}")  # with this end from Python 3.13 on
    explain(MessageComponent(), exc)
    assert str(exc) == "'Connection' object has no attribute 'name'; keep your own data in conn.state: conn.state.name"


def test_reading_an_unknown_attribute_of_a_connection_fails() -> None:
    seen: list[str] = []

    class Reading(MessageComponent):
        def on_message(self, conn: Connection, message: Any) -> None:
            conn.send(conn.nickname)  # type: ignore[attr-defined]

        def on_error(self, conn: Connection, exc: Exception) -> None:
            seen.append(str(exc))

    Pipe(Reading()).send("hello")
    assert len(seen) == 1
    assert seen[0].endswith("keep your own data in conn.state: conn.state.nickname")


def test_other_attribute_errors_are_not_changed() -> None:
    seen: list[str] = []

    class Broken(MessageComponent):
        def on_message(self, conn: Connection, message: Any) -> None:
            message.decode()

        def on_error(self, conn: Connection, exc: Exception) -> None:
            seen.append(str(exc))

    Pipe(Broken()).send("hello")
    assert seen == ["'str' object has no attribute 'decode'"]


def test_a_returned_reply_causes_one_warning_for_each_class(caplog: pytest.LogCaptureFixture) -> None:
    class Replying(MessageComponent):
        def on_message(self, conn: Connection, message: Any) -> Any:
            return f"you said {message}"

    pipe = Pipe(Replying())
    pipe.send("1", "2")
    Pipe(Replying()).send("3")
    assert warnings(caplog) == [
        "a handler of Replying returned 'you said 1', which goes nowhere; write conn.send(...) to send it"
    ]
    assert pipe.messages() == []
    assert pipe.codes() == []


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.anyio
async def test_a_reply_returned_by_an_async_handler_causes_a_warning(
    waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Replying(MessageComponent):
        async def on_message(self, conn: Connection, message: Any) -> Any:
            if waits:
                await anyio.lowlevel.checkpoint()
            return {"reply": message}

    async with anyio.create_task_group() as tasks:
        pipe = Pipe(Replying(), tasks=tasks)
        for _ in range(3):
            pipe.send("1")
            await pipe.run_until_blocked()
        assert warnings(caplog) == [
            "a handler of Replying returned {'reply': '1'}, which goes nowhere; write conn.send(...) to send it"
        ]
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_returning_an_awaitable_or_none_causes_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    class Returning(Recorder):
        def on_message(self, conn: Connection, message: Any) -> Any:
            self.record("message", message)
            return conn.ping() if message == "ping" else conn.send(message)

    class AlsoReturning(Recorder):
        async def on_message(self, conn: Connection, message: Any) -> Any:
            self.record("message", message)
            return conn.send(message)

    class InThread(Recorder):
        @in_thread
        def on_message(self, conn: Connection, message: Any) -> Any:
            return None

    async with anyio.create_task_group() as tasks:
        for component in (Returning(), AlsoReturning(), InThread()):
            pipe = Pipe(component, tasks=tasks)
            pipe.send("1", "ping", "2")
            await pipe.run_until_blocked()
        assert warnings(caplog) == []
        tasks.cancel_scope.cancel()


def test_raising_refuse_outside_a_handshake_causes_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(MessageComponent):
        def on_message(self, conn: Connection, message: Any) -> None:
            raise Refuse(403)

    pipe = Pipe(Refusing())
    pipe.send("1")
    assert pipe.codes() == [1011]
    assert warnings(caplog) == [
        "Refusing raised Refuse outside on_handshake and on_request, where there is no request left to refuse; "
        "write conn.close(1008, reason) instead"
    ]
