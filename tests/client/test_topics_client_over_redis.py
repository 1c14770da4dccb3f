"""Clients of topics of two processes behind one Redis: a client that moves from one to the other loses nothing."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from support.program import Program
from support.services import Redis
from support.serving import GUARD

from pywsapp import Backoff, TopicSubscription, connect_topics

pytestmark = [pytest.mark.anyio, pytest.mark.once]
SITE = str(Path(__file__).parent.parent / "support" / "topic_site.py")
QUICK = Backoff(base=0.01, cap=0.05)
MESSAGES, TOGETHER = 300, 15


class Switch:
    """A load balancer that sends each new connection to one of the processes, the one that the test names.

    Args:
        target: the port of that process.

    Attributes:
        port: its own port.
        taken: the ports to which it has connected clients.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.taken: list[int] = []
        self._scopes: set[anyio.CancelScope] = set()

    async def carry(self, client: SocketStream) -> None:
        with anyio.CancelScope() as scope, suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            self._scopes.add(scope)
            async with client, await anyio.connect_tcp("127.0.0.1", self.target) as server:
                self.taken.append(self.target)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._copy, client, server, scope)
                    await self._copy(server, client, scope)
        self._scopes.discard(scope)

    async def _copy(self, source: SocketStream, to: SocketStream, scope: anyio.CancelScope) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            async for data in source:
                await to.send(data)
        scope.cancel()

    def move(self, target: int) -> None:
        """Break all connections; the clients come back to another process."""
        self.target = target
        for scope in list(self._scopes):
            scope.cancel()


@asynccontextmanager
async def switching(target: int) -> AsyncIterator[Switch]:
    switch = Switch(target)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        switch.port = listener.extra(SocketAttribute.local_port)
        tasks.start_soon(listener.serve, switch.carry)
        with anyio.fail_after(GUARD):
            yield switch
        tasks.cancel_scope.cancel()


@pytest.fixture(scope="module")
def ports(redis: Redis) -> Iterator[list[int]]:
    """The ports of two processes."""
    with ExitStack() as stack:
        programs = [stack.enter_context(Program([SITE, "0", redis.url])) for _ in range(2)]
        yield [program.port for program in programs]
        assert [program.output for program in programs if "Traceback" in program.output] == []


async def until_present(subscription: TopicSubscription, expected: dict[str, object]) -> None:
    if subscription.present != expected:
        async for _ in subscription.presence_changes():
            if subscription.present == expected:
                return


async def test_a_client_moves_between_two_processes(ports: list[int], request: Any) -> None:
    topic = f"room:{request.node.name}"
    async with (
        switching(ports[0]) as switch,
        connect_topics(f"ws://localhost:{switch.port}/live", backoff=QUICK) as ana,
        connect_topics(f"ws://localhost:{ports[1]}/live") as ben,
        ana.subscribe(topic, presence=True, track="Ana") as of_ana,
        ben.subscribe(topic, presence=True, track="Ben") as of_ben,
    ):
        await until_present(of_ana, {str(ana.id): "Ana", str(ben.id): "Ben"})
        for first in range(0, MESSAGES, TOGETHER):
            async with anyio.create_task_group() as tasks:
                for number in range(first, first + TOGETHER):
                    tasks.start_soon((ana, ben)[number % 2].publish, topic, number)
                switch.move(ports[(first // TOGETHER) % 2])
        received = [(await of_ana.receive()).data for _ in range(MESSAGES)]
        assert received == [(await of_ben.receive()).data for _ in range(MESSAGES)]
        assert sorted(received) == list(range(MESSAGES))
        await ana.call("add", {"a": 1, "b": 1})
        with pytest.raises(TimeoutError):
            await of_ana.receive(timeout=0)
        assert len(switch.taken) > MESSAGES // TOGETHER // 2
        assert set(switch.taken) == set(ports)
        for subscription in (of_ana, of_ben):  # the entries of the former connections have gone
            await until_present(subscription, {str(ana.id): "Ana", str(ben.id): "Ben"})


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_the_process_of_a_client_is_killed(redis: Redis, ports: list[int]) -> None:
    with Program([SITE, "0", redis.url]) as program:
        async with (
            switching(program.port) as switch,
            connect_topics(f"ws://localhost:{switch.port}/live", backoff=QUICK) as ana,
            connect_topics(f"ws://localhost:{ports[0]}/live") as ben,
            ana.subscribe("room:killed") as subscription,
        ):
            for number in range(3):
                await ben.publish("room:killed", number)
            switch.target = ports[1]
            program.send(signal.SIGKILL)
            for number in range(3, 6):
                await ben.publish("room:killed", number)
            await ana.publish("room:killed", 6)
            assert [(await subscription.receive()).data for _ in range(7)] == list(range(7))
