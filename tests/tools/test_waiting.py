"""`until_blocked` of the tests: it returns when the other tasks have done what they can, whatever they sleep for."""

from __future__ import annotations

import socket

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from support.waiting import GUARD, until_blocked

pytestmark = [pytest.mark.anyio, pytest.mark.once]


async def test_a_task_that_takes_many_turns_is_waited_for() -> None:
    done: list[str] = []

    async def work(name: str, next_event: anyio.Event | None) -> None:
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        done.append(name)
        if next_event is not None:
            next_event.set()

    async def follow() -> None:
        await first_is_done.wait()
        await work("second", None)

    first_is_done = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work, "first", first_is_done)
        tasks.start_soon(follow)
        await until_blocked()
        assert done == ["first", "second"]


async def test_bytes_on_a_socket_are_read() -> None:
    one, other = socket.socketpair()
    received: list[bytes] = []

    async def read(stream: anyio.abc.SocketStream) -> None:
        received.append(await stream.receive())
        await anyio.sleep_forever()

    async with (
        await anyio.abc.SocketStream.from_socket(one) as reader,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(read, reader)
        await until_blocked()
        assert received == []
        other.send(b"x")
        await until_blocked()
        assert received == [b"x"]
        other.close()
        tasks.cancel_scope.cancel()


async def test_tasks_that_wake_again_and_again_do_not_hinder_it() -> None:
    async def wake() -> None:
        while True:
            await anyio.sleep(0.001)
            woken.set()

    woken = anyio.Event()
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(wake)
        with anyio.fail_after(GUARD / 2):
            for _ in range(100):
                await until_blocked()
        await woken.wait()
        tasks.cancel_scope.cancel()
