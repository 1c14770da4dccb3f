"""`reconnecting` with real servers that refuse, close, drop and restart; its pauses take no time."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from support.client_servers import Server, echoing, silent
from support.fake_time import FakeTime
from support.services import free_port
from support.serving import GUARD
from support.waiting import until_blocked
from support.wire import running

from pywsapp import (
    App,
    Backoff,
    ConfigurationError,
    Connection,
    ConnectionClosed,
    HandshakeError,
    LoopConnection,
    Reconnecting,
    Refuse,
    reconnecting,
)

pytestmark = pytest.mark.anyio


class Remote(Server):
    """Refuses handshakes with the statuses of a list, then closes connections with the codes of another.

    It echoes messages, except for those that tell it to close or abort.
    """

    def __init__(self, statuses: Sequence[int] = (), codes: Sequence[int] = (), **headers: str) -> None:
        super().__init__()
        self.statuses, self.codes, self.headers = list(statuses), list(codes), headers

    def on_handshake(self, request: Any) -> None:
        super().on_handshake(request)
        if self.statuses and (status := self.statuses.pop(0)) != 101:
            raise Refuse(status, headers={name.replace("_", "-"): value for name, value in self.headers.items()})

    def on_open(self, conn: Connection) -> None:
        super().on_open(conn)
        conn.send("open")
        if self.codes:
            conn.close(self.codes.pop(0), "reason")

    def on_message(self, conn: Connection, message: Any) -> None:
        command, _, argument = str(message).partition(" ")
        if command == "close":
            conn.close(int(argument), "reason")
        elif command == "abort":
            conn.abort()
        else:
            conn.send(message)


@asynccontextmanager
async def looping(server: Server, **arguments: Any) -> AsyncIterator[tuple[Reconnecting, FakeTime]]:
    clock = FakeTime()
    async with echoing(server) as app:
        with anyio.fail_after(GUARD):
            yield clock.use(reconnecting(f"ws://127.0.0.1:{app.port}/", **arguments)), clock


async def receive_all(loop: Reconnecting, received: list[Any]) -> None:
    """Receive from each connection until it is lost."""
    async for conn in loop:
        async for message in conn:
            received.append(message)  # noqa: PERF401 - a comprehension would lose what was received


# -- losses ------------------------------------------------------------------------------------------------------------


async def test_it_comes_back_until_the_work_is_done() -> None:
    codes = [1012, 1013, 1001, 1011, 3000, 3499, 4000, 1000]
    server, received = Remote(codes=codes), list[Any]()
    async with looping(server, backoff=Backoff(base=1, cap=20)) as (loop, clock):
        await receive_all(loop, received)
        assert received == ["open"] * 8
        assert clock.pauses == [2, 4, 8, 16, 20, 20, 20]
        assert loop.attempts == 8


async def test_it_does_not_come_back() -> None:
    for code in (1008, 3500, 3503, 4401):
        await check_end(code)


async def check_end(code: int) -> None:
    server, received = Remote(codes=[code]), list[Any]()
    async with looping(server) as (loop, _):
        with pytest.raises(
            ConnectionClosed, match=rf"code {code} reason, and the loop does not connect again"
        ) as ended:
            await receive_all(loop, received)
        assert (ended.value.code, ended.value.reason, received) == (code, "reason", ["open"])
        assert [conn async for conn in loop] == [], "the loop has ended"
        assert len(server.requests) == 1


async def test_a_lost_connection() -> None:
    server = Remote()
    async with looping(server) as (loop, clock):
        async for conn in loop:
            conn.send("abort" if len(server.requests) < 3 else "close 1000")
            received = [message async for message in conn]
            assert received[:1] == ["open"]
        assert len(clock.pauses) == 2


async def test_a_long_connection_resets_the_pauses() -> None:
    server = Remote()
    async with looping(server, backoff=Backoff(base=1, stable_after=10)) as (loop, clock):
        async for conn in loop:
            await conn.receive()
            conn.send("close 1012")
            clock.now += 11 if len(server.requests) == 3 else 0
            if len(server.requests) == 5:
                break
            async for _ in conn:
                pass
        assert clock.pauses == [2, 4, 1, 2]


async def test_restarts_of_the_server() -> None:
    clock, received = FakeTime(), list[Any]()
    apps = contextlib.AsyncExitStack()

    async def start(port: int) -> App:
        app = App("127.0.0.1", port)
        app.route("/", Remote(), allowed_origins=["*"])
        return await apps.enter_async_context(running(app))

    async def restart() -> None:
        if len(clock.pauses) % 3 == 2:  # one attempt finds no server
            await start(port)

    port = free_port()
    async with apps:  # it listens in the second pause
        clock.during = restart
        async for conn in clock.use(reconnecting(f"ws://127.0.0.1:{port}/", backoff=Backoff(base=0.1))):
            async with conn:
                received.append(await conn.receive())
                if len(received) == 5:
                    break
                await apps.aclose()  # the server closes with 1012
                await conn.receive()
        assert received == ["open"] * 5


async def test_no_server_until_the_limit() -> None:
    clock = FakeTime()
    loop = clock.use(reconnecting(f"ws://127.0.0.1:{free_port()}/", backoff=Backoff(max_attempts=4)))
    with pytest.raises(OSError):  # noqa: PT011 - the text is the system's
        await receive_all(loop, [])
    assert (loop.attempts, clock.pauses) == (4, [2, 4, 8])


async def test_a_host_that_does_not_exist_is_tried_again() -> None:
    clock = FakeTime()
    loop = clock.use(reconnecting("ws://does-not-exist.invalid/", backoff=Backoff(max_attempts=2)))
    with pytest.raises(OSError):  # noqa: PT011 - the text is the system's
        await receive_all(loop, [])
    assert loop.attempts == 2


# -- refusals ----------------------------------------------------------------------------------------------------------


async def test_refusals_that_pass() -> None:
    server = Remote([503, 429, 408, 425, 500, 502, 101], [1000], Retry_After="7")
    async with looping(server, backoff=Backoff(base=1, cap=2)) as (loop, clock):
        await receive_all(loop, [])
        assert clock.pauses == [9.0] * 6


async def test_refusals_that_are_final() -> None:
    for status in (400, 401, 403, 404, 410):
        await check_refusal(status)


async def check_refusal(status: int) -> None:
    server = Remote([status])
    async with looping(server) as (loop, clock):
        with pytest.raises(HandshakeError, match=str(status)) as refused:
            await receive_all(loop, [])
        assert (refused.value.status, clock.pauses) == (status, [])


# -- credentials -------------------------------------------------------------------------------------------------------


class Tokens:
    """Returns another token with each call."""

    def __init__(self) -> None:
        self.calls = 0

    def headers(self) -> dict[str, str]:
        self.calls += 1
        return {"Authorization": f"Bearer {self.calls}"}

    async def slowly(self) -> dict[str, str]:
        await anyio.lowlevel.checkpoint()
        return self.headers()


async def test_each_attempt_has_new_headers() -> None:
    for name in ("headers", "slowly"):
        await check_headers(name)


async def check_headers(name: str) -> None:
    server, tokens = Remote([503, 401, 101, 101], [4000, 1000]), Tokens()
    async with looping(server, headers=getattr(tokens, name), cookies={"a": "b"}, origin="http://x") as (loop, _):
        await receive_all(loop, [])
    assert [request.headers["authorization"] for request in server.requests] == [f"Bearer {n}" for n in (1, 2, 3, 4)]
    assert {request.headers["cookie"] for request in server.requests} == {"a=b"}
    assert {request.headers["origin"] for request in server.requests} == {"http://x"}


async def test_401_twice_in_a_row_is_final() -> None:
    server, tokens = Remote([401, 401]), Tokens()
    async with looping(server, headers=tokens.headers) as (loop, _):
        with pytest.raises(HandshakeError, match="401"):
            await receive_all(loop, [])
    assert tokens.calls == 2


async def test_4401_brings_new_credentials_once_in_a_row() -> None:
    server, tokens = Remote(codes=[4401, 4401]), Tokens()
    async with looping(server, headers=tokens.headers) as (loop, _):
        with pytest.raises(ConnectionClosed, match="4401"):
            await receive_all(loop, [])
    assert tokens.calls == 2


async def test_an_exception_of_the_headers() -> None:
    errors: list[Exception] = [ConnectionRefusedError(), TimeoutError(), LookupError("no such user")]

    def headers() -> dict[str, str]:
        raise errors.pop(0)

    async with looping(Remote(), headers=headers) as (loop, clock):
        with pytest.raises(LookupError, match="no such user"):
            await receive_all(loop, [])
        assert len(clock.pauses) == 2, "the service of tokens can be away too"


# -- how the loop ends -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[str]:
    async with echoing(server) as app:
        with anyio.fail_after(GUARD):
            yield f"ws://127.0.0.1:{app.port}/"


async def test_break_closes_the_connection() -> None:
    server = Remote()
    async with serving(server) as url:
        async for conn in reconnecting(url):
            await conn.receive()
            break
        await server.until_called("close")
    assert server.calls == [("open",), ("close", 1000, "", True)]


async def test_an_exception_of_the_body_closes_the_connection() -> None:
    server, error = Remote(), LookupError("in the body")
    async with serving(server) as url:
        with pytest.raises(LookupError) as caught:  # noqa: PT012 - the loop is what is tested
            async for conn in reconnecting(url):
                await conn.receive()
                raise error
        assert caught.value is error
        await server.until_called("close")
    assert server.calls == [("open",), ("close", 1000, "", True)]


async def test_cancelling_the_body_closes_the_connection() -> None:
    server = Remote()
    async with serving(server) as url:
        with anyio.CancelScope() as scope:
            async for conn in reconnecting(url):
                await conn.receive()
                scope.cancel()
                await conn.receive()
        assert scope.cancelled_caught
        await server.until_called("close")
    assert server.calls == [("open",), ("close", 1000, "", True)]


async def test_cancelling_at_any_moment_of_connecting() -> None:
    async def run() -> None:
        async for conn in reconnecting(url):
            await conn.receive()
            await conn.receive()

    server = Remote()
    async with serving(server) as url:
        for steps in range(15):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
        await server.until(lambda: server.names().count("close") == server.names().count("open"))


async def test_cancelling_a_pause() -> None:
    with anyio.move_on_after(0.05) as scope:
        await receive_all(reconnecting(f"ws://127.0.0.1:{free_port()}/", backoff=Backoff(base=1000, cap=1000)), [])
    assert scope.cancelled_caught


async def test_aclose_waits_for_the_end() -> None:
    server = Remote()
    async with serving(server) as url:
        async with aclosing(reconnecting(url)) as connections:
            async for conn in connections:
                await conn.receive()
                break
        assert (conn.close_code, conn.was_clean) == (1000, True)
        assert [other async for other in connections] == []
    await aclosing(reconnecting(url)).__aexit__()


async def test_no_task_of_a_loop_is_left() -> None:
    server = Remote(codes=[1012, 1012])
    async with looping(server) as (loop, _):
        async for conn in loop:
            if len(server.requests) == 3:
                break
            async for _message in conn:
                pass
        background = loop._current
        assert background is not None
        del loop, conn
        await background.ended.wait()


async def test_a_loop_in_a_reference_cycle() -> None:
    server = Remote()
    async with serving(server) as url:
        cycle: list[Any] = [reconnecting(url)]
        cycle.append(cycle)
        await anext(cycle[0])
        del cycle
        await anyio.to_thread.run_sync(gc.collect)  # the destructor runs in another thread
        await server.until_called("close")
    assert server.calls[-1][:2] == ("close", 1000)


async def test_two_tasks_with_one_loop() -> None:
    with silent() as sock:
        loop = reconnecting(f"ws://127.0.0.1:{sock.getsockname()[1]}/")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive_all, loop, [])
            await until_blocked()
            with pytest.raises(ConfigurationError, match="two tasks iterate"):
                await anext(loop)
            tasks.cancel_scope.cancel()


# -- the body ----------------------------------------------------------------------------------------------------------


async def test_a_body_that_ends_early_gets_another_connection() -> None:
    server = Remote()
    async with looping(server) as (loop, clock):
        async for conn in loop:
            assert await conn.receive() == "open"
            if len(server.requests) == 3:
                break
        assert len(clock.pauses) == 2
        await server.until_called("close", 2)
        assert server.calls[1] == ("close", 1000, "", True)


async def test_a_block_in_the_body_is_ended_by_a_loss() -> None:
    server = Remote()
    async with looping(server) as (loop, _):
        async for conn in loop:
            async with conn:
                await conn.receive()
                conn.send("abort" if len(server.requests) < 3 else "close 1000")
                await conn.receive()
                pytest.fail("there is no such message")
        assert len(server.requests) == 3


async def test_a_block_in_the_body_with_a_task_group() -> None:
    server = Remote()

    async def receive(conn: LoopConnection) -> None:
        while True:
            await conn.receive()

    async with looping(server) as (loop, _):
        async for conn in loop:
            async with conn, anyio.create_task_group() as tasks:
                tasks.start_soon(receive, conn)
                conn.send("abort" if len(server.requests) < 3 else "close 1000")
                await anyio.sleep_forever()
        assert len(server.requests) == 3


async def test_a_block_that_ends_early_gets_another_connection() -> None:
    server = Remote()
    async with looping(server) as (loop, _):
        async for conn in loop:
            async with conn:
                await conn.receive()
                if len(server.requests) == 3:
                    break
    assert len(server.requests) == 3
    assert server.calls.count(("close", 1000, "", True)) == 3


async def test_a_body_can_end_with_more_messages_than_the_queue_holds() -> None:
    class Flood(Server):
        def on_open(self, conn: Connection) -> None:
            super().on_open(conn)
            for number in range(100):
                conn.send(str(number))

    server = Flood()
    async with looping(server) as (loop, _):
        async for conn in loop:
            assert await conn.receive() == "0"
            await until_blocked()
            if len(server.requests) == 2:
                await loop.aclose()
    assert server.calls.count(("close", 1000, "", True)) == 2


async def test_another_exception_leaves_the_block_and_the_loop() -> None:
    server = Remote()
    async with looping(server) as (loop, _):
        with pytest.raises(LookupError):  # noqa: PT012 - the loop is what is tested
            async for conn in loop:
                async with conn:
                    raise LookupError
        with pytest.raises(ConnectionClosed, match="of another connection"):  # noqa: PT012
            async for conn in loop:
                async with conn:
                    raise ConnectionClosed("of another connection")
    assert server.calls.count(("close", 1011, "", True)) == 2


async def test_a_cancellation_of_the_block_aborts_the_connection() -> None:
    server = Remote()
    async with looping(server) as (loop, _):
        with anyio.CancelScope() as scope:
            async for conn in loop:
                async with conn:
                    scope.cancel()
                    await anyio.sleep_forever()
        await server.until_called("close")
    assert server.calls[-1][:2] == ("close", 1006)


# -- the log -----------------------------------------------------------------------------------------------------------


async def test_the_log_has_one_line_for_an_outage_and_one_for_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pywsapp")
    server = Remote([101, 503, 503, 101], [1012, 1012, 1000])
    async with looping(server, headers={"Authorization": "Bearer secret"}) as (loop, _):
        loop._arguments = loop._arguments._replace(target=loop._arguments.target._replace(path="/a?token=secret"))
        await receive_all(loop, [])
    lines = [(record.levelname, record.getMessage()) for record in caplog.records if "connect" in record.getMessage()]
    lines = [(level, text) for level, text in lines if "/a?..." in text]
    assert [level for level, _ in lines] == ["INFO", "DEBUG", "DEBUG", "INFO", "DEBUG"]
    assert "has ended (code 1012 reason); connecting again in 2.0 s" in lines[0][1]
    assert "failed (HandshakeError: the server answered 503 Service Unavailable" in lines[1][1]
    assert "again after 14.0 s" in lines[3][1]
    assert "secret" not in caplog.text


async def test_hostile_reasons_are_one_short_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pywsapp")

    class Hostile(Remote):
        def on_open(self, conn: Connection) -> None:
            conn.close(1012 if len(self.requests) < 2 else 1000, "a\r\nb\x1b[31m")

    async with looping(Hostile()) as (loop, _):
        await receive_all(loop, [])
    assert all(record.getMessage().isprintable() for record in caplog.records)


# -- arguments ---------------------------------------------------------------------------------------------------------


async def test_mistakes_are_reported_at_once() -> None:
    mistakes: list[dict[str, Any]] = [{"options": {}}, {"backoff": 3}, {"headers": {"a b": "c"}}]
    for arguments in mistakes:
        with pytest.raises(ConfigurationError):
            reconnecting("ws://localhost/", **arguments)
    with pytest.raises(ConfigurationError):
        reconnecting("http://localhost/")
    with pytest.raises(TypeError):
        reconnecting("ws://localhost/", retries=3)  # type: ignore[call-arg]
