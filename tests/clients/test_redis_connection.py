"""One connection to a real Redis, without a broker around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from redis.exceptions import ResponseError
from support.outages import until
from support.services import Redis, redis_server
from support.serving import GUARD

from pywsapp._clients.redis_connection import RedisConnection
from pywsapp._clients.redis_url import RedisUrl

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]


@asynccontextmanager
async def connected(
    redis: Redis, reasons: list[Exception], on_message: Callable[[Any], bool] | None = None, health: float = 60
) -> AsyncIterator[RedisConnection]:
    connection = RedisConnection(RedisUrl(redis.url).new_connection(), health, reasons.append, on_message)
    try:
        await connection.open()
        yield connection
    finally:
        await connection.aclose()


async def test_replies_belong_to_their_commands(redis: Redis) -> None:
    reasons: list[Exception] = []
    async with connected(redis, reasons) as connection:
        sets = [("SET", f"key:{number}", number) for number in range(100)]
        replies = await asyncio.gather(
            connection.execute(sets), connection.execute([("ECHO", b"\x00\xff"), ("PING",)]), connection.execute([])
        )
        assert list(replies) == [[b"OK"] * 100, [b"\x00\xff", b"PONG"], []]
    assert reasons == []


async def test_a_refused_command_raises_and_the_others_are_executed(redis: Redis) -> None:
    reasons: list[Exception] = []
    async with connected(redis, reasons) as connection:
        with pytest.raises(ResponseError, match="not an integer"):
            await connection.execute([("SET", "word", "x"), ("INCR", "word"), ("SET", "after", "y")])
        assert await connection.execute([("GET", "after")]) == [b"y"]
    assert reasons == []


async def test_published_messages_are_passed_on(redis: Redis) -> None:
    received: asyncio.Queue[list[Any]] = asyncio.Queue()

    def on_message(reply: Any) -> bool:
        if reply[0] != b"message":
            return False
        received.put_nowait(reply)
        return True

    async with connected(redis, [], on_message) as connection:
        await connection.execute([("SUBSCRIBE", "one"), ("SUBSCRIBE", "two")])
        assert redis.ask("PUBLISH", "two", "hello") == ":1"
        assert await asyncio.wait_for(received.get(), GUARD) == [b"message", b"two", b"hello"]


async def test_closing_does_not_wait_for_the_next_check_of_health(redis: Redis) -> None:
    """Before Python 3.12, `asyncio.wait_for` can lose a cancellation at the moment in which its task ends."""
    for turns in range(8):
        connection = RedisConnection(RedisUrl(redis.url).new_connection(), 6 * GUARD, lambda _: None)
        await connection.open()
        for _ in range(turns):
            await asyncio.sleep(0)  # up to the moments in which the first ping is sent
        await asyncio.wait_for(connection.aclose(), GUARD)  # the next check would come after 40 seconds
        assert connection._transport is not None
        assert connection._transport.is_closing()
        assert [task.done() for task in connection._tasks] == [True, True]


async def test_a_closed_connection_raises(redis: Redis) -> None:
    async with connected(redis, []) as connection:
        blocked = asyncio.create_task(connection.execute([("BLPOP", "nothing", 0)]))
        await until(lambda: "cmd=blpop" in redis.ask("CLIENT", "LIST"))
        unsent = asyncio.create_task(connection.execute([("PING",)]))
        await asyncio.sleep(0)
    for task in (blocked, unsent):
        with pytest.raises(ConnectionError, match="the connection is closed"):
            await task
    with pytest.raises(ConnectionError, match="the connection is closed"):
        await connection.execute([("PING",)])


async def test_a_frozen_server_is_noticed() -> None:
    reasons: list[Exception] = []
    with redis_server() as redis:
        async with connected(redis, reasons, health=0.5) as connection:
            redis.freeze()
            with pytest.raises(ConnectionError, match=r"no answer for 0\.5 seconds"):
                await asyncio.wait_for(connection.execute([("GET", "key")]), GUARD)
    assert str(reasons[0]) == "no answer for 0.5 seconds"


async def test_time_limit_around_closing_stays_one(redis: Redis) -> None:
    """The cancellation of the connection's own tasks must not look like one of the task that closes it."""
    connection = RedisConnection(RedisUrl(redis.url).new_connection(), 60, lambda _: None)
    await connection.open()
    await connection.execute([("PING",)])  # both tasks run
    with anyio.CancelScope() as scope:
        scope.cancel()
        await connection.aclose()
    assert scope.cancelled_caught
    await connection.aclose()
