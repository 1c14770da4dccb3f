"""`connect`: a live connection to our own server."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.client_servers import Server, echoing
from support.serving import GUARD
from support.waiting import until_blocked

from pywsapp import (
    ClientConnection,
    ConfigurationError,
    Connection,
    ConnectionClosed,
    Deflate,
    MessageComponent,
    Options,
    connect,
    run_client,
)

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024


class Remote(Server):
    """Does what a message says: closes, aborts, or sends numbers; echoes other messages."""

    def on_message(self, conn: Connection, message: Any) -> None:
        command, _, argument = str(message).partition(" ")
        if command == "close":
            conn.close(int(argument), "reason")
        elif command == "abort":
            conn.abort()
        elif command == "count":
            for number in range(int(argument)):
                conn.send(str(number))
            conn.close()
        else:
            conn.send(message)


@asynccontextmanager
async def connected(server: MessageComponent | None = None, **arguments: Any) -> AsyncIterator[ClientConnection]:
    async with echoing(server) as app, connect(f"ws://127.0.0.1:{app.port}/", **arguments) as conn:
        yield conn


# -- messages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deflate", [None, Deflate(threshold=0)])
async def test_messages_are_received_in_order(deflate: Deflate | None) -> None:
    options = Options(deflate=deflate, max_message_size=2 * MIB, max_outbox=8 * MIB)
    messages: list[str | bytes] = ["text", "grüße 👋", b"\x00\xff", b"", "", "x" * MIB]
    async with echoing(options=options) as app, connect(f"ws://127.0.0.1:{app.port}/", options=options) as conn:
        for message in messages:
            conn.send(message)
        assert [await conn.receive() for _ in messages] == messages
        assert isinstance(conn, Connection)
        assert conn.is_open


async def test_iteration_ends_when_the_server_closes() -> None:
    async with connected(Remote()) as conn:
        await conn.send("count 1000")
        assert [message async for message in conn] == [str(number) for number in range(1000)]
        assert (conn.close_code, conn.was_clean, conn.is_open) == (1000, True, False)
        assert [message async for message in conn] == [], "an ended connection has no messages"


async def test_receive_while_messages_wait_after_the_end() -> None:
    server = Remote()
    async with connected(server, options=Options(max_queue=4)) as conn:
        conn.send("count 20")
        await server.until_called("open")
        for number in range(20):
            assert await conn.receive() == str(number)
            conn.send("the server has closed")  # it is not delivered, and raises nothing
        for _ in range(2):
            with pytest.raises(ConnectionClosed, match="1000"):
                await conn.receive()


@pytest.mark.parametrize("code", [1000, 1001])
async def test_iteration_ends_normally(code: int) -> None:
    async with connected(Remote()) as conn:
        await conn.send(f"close {code}")
        assert [message async for message in conn] == []
        with pytest.raises(ConnectionClosed) as caught:
            await conn.receive()
        assert (caught.value.code, caught.value.reason) == (code, "reason")


@pytest.mark.parametrize("code", [1008, 1011, 4000])
async def test_iteration_raises_at_other_codes(code: int) -> None:
    async with connected(Remote()) as conn:
        await conn.send("one")
        await conn.send(f"close {code}")
        received = []
        with pytest.raises(ConnectionClosed, match=f"code {code} \\(reason\\)") as caught:  # noqa: PT012
            async for message in conn:
                received.append(message)  # noqa: PERF401 - a comprehension would lose what was received
        assert received == ["one"]
        assert (caught.value.code, caught.value.reason) == (code, "reason")


async def test_iteration_raises_when_the_connection_is_lost() -> None:
    async with connected(Remote()) as conn:
        await conn.send("abort")
        with pytest.raises(ConnectionClosed, match="1006") as caught:
            async for _ in conn:
                pass
        assert (caught.value.code, caught.value.reason) == (1006, "connection lost")


async def test_closing_ends_the_iteration_of_another_task() -> None:
    ended = anyio.Event()

    async def iterate(conn: ClientConnection) -> None:
        async for _ in conn:
            pass
        ended.set()

    async with connected() as conn, anyio.create_task_group() as tasks:
        tasks.start_soon(iterate, conn)
        await until_blocked()
        assert not ended.is_set()
        await conn.close()
        with anyio.fail_after(GUARD):
            await ended.wait()


async def test_receive_after_close_and_after_the_block() -> None:
    async with connected(Remote()) as conn:
        await conn.close(4000, "enough")
        with pytest.raises(ConnectionClosed, match="4000"):
            await conn.receive()
    with pytest.raises(ConnectionClosed, match="4000"):
        await conn.receive()


async def test_a_loop_that_ignores_the_end_blocks_no_other_task() -> None:
    async with connected() as conn:
        await conn.close()
        with anyio.move_on_after(0.01) as scope:
            while True:
                with pytest.raises(ConnectionClosed):
                    await conn.receive()
        assert scope.cancelled_caught


async def test_messages_that_come_with_the_answer_are_kept() -> None:
    class Greeter(MessageComponent):
        def on_open(self, conn: Connection) -> None:
            for number in range(100):
                conn.send(str(number))
            conn.close()

    async with connected(Greeter()) as conn:
        assert [message async for message in conn] == [str(number) for number in range(100)]


# -- two tasks, cancellation -------------------------------------------------------------------------------------------


async def test_two_tasks_cannot_receive_at_once() -> None:
    received = []
    done = anyio.Event()

    async def receive(conn: ClientConnection) -> None:
        received.append(await conn.receive())
        done.set()

    async with connected() as conn, anyio.create_task_group() as tasks:
        tasks.start_soon(receive, conn)
        await until_blocked()
        with pytest.raises(ConfigurationError, match="two tasks receive"):
            await conn.receive()
        with pytest.raises(ConfigurationError, match="two tasks receive"):
            async for _ in conn:
                pass
        conn.send("first")
        conn.send("second")
        await done.wait()
        assert (received, await conn.receive()) == (["first"], "second")


async def test_cancelling_a_waiting_receive_loses_no_message() -> None:
    async with connected() as conn:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(conn.receive)
            await until_blocked()
            tasks.cancel_scope.cancel()
        conn.send("one")
        assert await conn.receive() == "one"


async def test_cancelling_at_the_moment_of_arrival_loses_no_message() -> None:
    received: list[str | bytes] = []

    async def receive(conn: ClientConnection) -> None:
        received.append(await conn.receive())

    async with connected(options=Options(max_queue=2)) as conn:
        for number in range(300):
            conn.send(str(number))
        while len(received) < 300:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive, conn)
                for _ in range(len(received) % 4):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
    assert received == [str(number) for number in range(300)]


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"])
async def test_wait_for_of_asyncio() -> None:
    async with connected() as conn:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(conn.receive(), 0.01)
        conn.send("one")
        assert await asyncio.wait_for(conn.receive(), GUARD) == "one"


# -- leaving the block -------------------------------------------------------------------------------------------------


async def test_leaving_the_block_closes_with_1000() -> None:
    server = Server()
    async with connected(server) as conn:
        conn.send("before the close frame")
    assert (conn.close_code, conn.was_clean, conn.is_open) == (1000, True, False)
    assert server.calls == [("open",), ("close", 1000, "", True)]


async def test_leaving_the_block_by_an_exception_closes_with_1011() -> None:
    server = Server()
    error = LookupError("in the block")
    async with echoing(server) as app:
        with pytest.raises(LookupError) as caught:
            async with connect(f"ws://127.0.0.1:{app.port}/") as conn:
                raise error
        assert caught.value is error
        assert (conn.close_code, conn.was_clean) == (1011, True)
        await server.until_called("close")
    assert server.calls == [("open",), ("close", 1011, "", True)]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
async def test_exiting_the_program_aborts_the_connection(error: BaseException) -> None:
    server = Server()
    async with echoing(server) as app:
        with pytest.raises(type(error)) as caught:
            async with connect(f"ws://127.0.0.1:{app.port}/") as conn:
                raise error
        assert caught.value is error
        assert conn.close_code == 1006
        await server.until_called("close")
    assert server.calls[-1][:2] == ("close", 1006)


async def test_connection_closed_leaves_the_block_as_it_is() -> None:
    async with echoing(Remote()) as app:
        with pytest.raises(ConnectionClosed, match="4000"):  # noqa: PT012 - the block is what is tested
            async with connect(f"ws://127.0.0.1:{app.port}/") as conn:
                await conn.send("close 4000")
                await conn.receive()
    assert conn.close_code == 4000


async def test_cancelling_the_block_aborts_the_connection() -> None:
    server = Server()
    async with echoing(server) as app:
        with anyio.CancelScope() as scope:
            async with connect(f"ws://127.0.0.1:{app.port}/") as conn:
                await server.until_called("open")
                scope.cancel()
                await conn.receive()
        assert scope.cancelled_caught
        assert conn.close_code == 1006
        await server.until_called("close")
    assert server.calls[-1][:2] == ("close", 1006)


async def test_connecting_can_be_cancelled_at_any_moment() -> None:
    options = Options(on_close_timeout=10 * GUARD)  # a connection that is not forgotten would be waited for
    async with echoing() as app:
        for steps in range(15):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_enter_and_stay, f"ws://127.0.0.1:{app.port}/", options)
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()


async def _enter_and_stay(url: str, options: Options) -> None:
    async with connect(url, options=options) as conn:
        await conn.receive()


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"])
async def test_cancelling_an_asyncio_task() -> None:
    server = Server()
    async with echoing(server) as app:

        async def run() -> None:
            async with connect(f"ws://127.0.0.1:{app.port}/") as conn:
                await conn.receive()

        task = asyncio.create_task(run())
        await server.until_called("open")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.until_called("close")
    assert server.calls[-1][:2] == ("close", 1006)


class Busy(Server):
    """Answers no close frame before `finish` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.finish = anyio.Event()

    async def on_open(self, conn: Connection) -> None:
        super().on_open(conn)
        await self.finish.wait()


async def test_leaving_the_block_waits_no_longer_than_close_timeout() -> None:
    server = Busy()
    async with echoing(server) as app:
        async with connect(f"ws://127.0.0.1:{app.port}/", options=Options(close_timeout=0.1)) as conn:
            await server.until_called("open")
        assert (conn.close_code, conn.was_clean) == (1000, False)
        server.finish.set()


async def test_waiting_for_the_close_frame_can_be_cancelled() -> None:
    server = Busy()
    async with echoing(server) as app:
        with anyio.CancelScope() as scope:
            async with connect(f"ws://127.0.0.1:{app.port}/", options=Options(close_timeout=10 * GUARD)) as conn:
                await server.until_called("open")
                scope.deadline = anyio.current_time() + 0.1
        assert scope.cancelled_caught
        assert (conn.close_code, conn.was_clean) == (1000, False)
        server.finish.set()


async def test_leaving_the_block_with_messages_left() -> None:
    class Flood(Server):
        async def on_open(self, conn: Connection) -> None:
            super().on_open(conn)
            for _ in range(300):
                await conn.send(bytes(64 * 1024))

    server = Flood()
    async with echoing(server) as app:
        async with connect(f"ws://127.0.0.1:{app.port}/", options=Options(max_queue=2)) as conn:
            await conn.receive()
        assert (conn.close_code, conn.was_clean) == (1000, True)
        await server.until_called("close")
    assert server.calls[-1] == ("close", 1000, "", True)


# -- arguments ---------------------------------------------------------------------------------------------------------


async def test_request_carries_the_arguments() -> None:
    class Two(Server):
        subprotocols = ("v2", "v1")

    server = Two()
    async with (
        echoing(server) as app,
        connect(
            f"ws://localhost:{app.port}/a%20b?c=d",
            subprotocols=["v1", "v2"],
            headers={"Authorization": "Bearer token"},
            origin="https://page.example",
        ) as conn,
    ):
        (request,) = server.requests
        assert (conn.subprotocol, conn.request.path, conn.remote_address) == ("v2", "/a b", "127.0.0.1")
    assert (request.path, request.query_params["c"]) == ("/a b", "d")
    assert request.headers["authorization"] == "Bearer token"
    assert request.headers["origin"] == "https://page.example"


async def test_wss(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async with echoing(tls=server_tls) as app, connect(f"wss://localhost:{app.port}/", tls=client_tls) as conn:
        await conn.send("x" * 100_000)
        assert await conn.receive() == "x" * 100_000
        assert conn.request.scheme == "https"


async def test_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with echoing(unix_path=path), connect("ws://chat.example/room", unix_path=path) as conn:
        await conn.send("x")
        assert (await conn.receive(), conn.remote_address) == ("x", "")


async def test_several_connections_in_one_task() -> None:
    async with echoing() as app:
        url = f"ws://127.0.0.1:{app.port}/"
        async with connect(url) as one, connect(url) as two:
            one.send("one")
            two.send("two")
            assert [await two.receive(), await one.receive()] == ["two", "one"]


async def test_ping_without_receiving() -> None:
    async with connected() as conn:
        assert await conn.ping() > 0


# -- likely mistakes ---------------------------------------------------------------------------------------------------


async def test_awaiting_instead_of_async_with() -> None:
    with pytest.raises(ConfigurationError, match="async with connect\\(url\\) as conn:"):
        await connect("ws://localhost/")  # type: ignore[misc]


async def test_component_instead_of_a_url() -> None:
    for arguments in [(Server(), "ws://localhost/"), (Server,), ("ws://localhost/", Server())]:
        with pytest.raises(ConfigurationError, match="await run_client\\(component, url\\)"):
            connect(*arguments)  # type: ignore[arg-type]


async def test_url_without_component_for_run_client() -> None:
    with pytest.raises(ConfigurationError, match=r"takes the component first: `await run_client\(component, url\)`"):
        await run_client("ws://localhost/", Server())  # type: ignore[arg-type]


async def test_connecting_twice_with_one_call() -> None:
    async with echoing() as app:
        once = connect(f"ws://127.0.0.1:{app.port}/")
        async with once:
            with pytest.raises(ConfigurationError, match="call connect\\(\\) again"):
                async with once:
                    pytest.fail("the block is entered")
