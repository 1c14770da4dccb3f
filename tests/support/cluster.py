"""Apps that are the processes of a cluster, with a virtual clock, and lines to their broker that a test can cut."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import pytest

from pywsapp import App, Connection, MessageComponent, Options, Request, Topic
from pywsapp.auth import public
from pywsapp.brokers.base import Broker, BrokerConnection, Receive
from pywsapp.brokers.memory import MemoryBroker, MemoryConnection
from pywsapp.exceptions import BrokerUnavailable
from pywsapp.testing import TestClient, VirtualClock
from pywsapp.topics.occupancy import service as occupancy
from pywsapp.topics.presence import service as presence

#: Seconds after which a process that has started can report.
START = 2.0


class Line(Broker):
    """The connection of one process to a broker."""

    name = "the line"

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._connections: list[MemoryConnection] = []
        self.is_cut = False
        self.is_dropping: Callable[[str], bool] = lambda topic: False

    async def connect(self, receive: Receive, patterns: Sequence[str]) -> BrokerConnection:
        if self.is_cut:
            raise BrokerUnavailable("the line is cut")

        def receive_some(topic: str, data: bytes, position: object) -> None:
            if not self.is_dropping(topic):
                receive(topic, data, None)

        connection = await self._broker.connect(receive_some, patterns)
        self._connections.append(connection)
        return connection

    def cut(self) -> None:
        self.is_cut = True
        for connection in self._connections:
            connection.lose()
        self._connections.clear()


class Rooms(MessageComponent):
    """Subscribes each connection to the topic of its path: "/room:1", or "/room:1/ana" with a user."""

    async def on_open(self, conn: Connection) -> None:
        await conn.subscribe(conn.request.path_params["room"])


def by_path(request: Request) -> str:
    return str(request.path_params["user"])


class Node:
    """One process.

    Attributes:
        reports: what it has reported: "occupied room:1".
    """

    def __init__(self, broker: MemoryBroker | None, clock: VirtualClock, delay: float = 1) -> None:
        self.line = None if broker is None else Line(broker)
        self.app = App("*", 0, broker=self.line, options=Options(absence_delay=delay))
        self.app.route("/{room}", Rooms(), authenticate=public)
        self.app.route("/{room}/{user}", Rooms(), authenticate=by_path)
        self.client = TestClient(self.app, clock=clock)
        self.reports: list[str] = []
        self.app.on_occupied("room:*")(lambda topic: self._note("occupied", topic))
        self.app.on_vacated("room:*")(lambda topic: self._note("vacated", topic))
        self.app.on_user_online(lambda user: self.reports.append(f"online {user}"))
        self.app.on_user_offline(lambda user: self.reports.append(f"offline {user}"))
        self.stack = AsyncExitStack()

    def _note(self, what: str, topic: Topic) -> None:
        self.reports.append(f"{what} {topic.name}")

    def cut(self) -> None:
        assert self.line is not None
        self.line.cut()


class Cluster:
    """Processes with one broker.

    Args:
        has_broker: whether there is a broker; only one process can start without.
        delay: the `absence_delay` of the Apps.
    """

    def __init__(self, *, has_broker: bool = True, delay: float = 1) -> None:
        self.broker = MemoryBroker() if has_broker else None
        self.clock = VirtualClock()
        self.nodes: list[Node] = []
        self._delay = delay

    async def start(self, stack: AsyncExitStack) -> Node:
        """Start a process, and wait until it can report."""
        node = Node(self.broker, self.clock, self._delay)
        await stack.enter_async_context(node.stack)
        await node.stack.enter_async_context(node.client)
        self.nodes.append(node)
        await self.clock.advance(START)
        return node

    async def stop(self, node: Node) -> None:
        """Shut a process down."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._pass_time)
            await node.stack.aclose()
            tasks.cancel_scope.cancel()

    async def _pass_time(self) -> None:
        while True:
            await self.clock.advance(0.1)

    async def reports_of(self, seconds: float) -> list[str]:
        """Let time pass, and return what all processes have reported since the last call, sorted."""
        await self.clock.advance(seconds)
        found = sorted(report for node in self.nodes for report in node.reports)
        for node in self.nodes:
            node.reports.clear()
        return found


@asynccontextmanager
async def cluster(count: int, *, delay: float = 1) -> AsyncIterator[tuple[Cluster, AsyncExitStack]]:
    """Run processes; yield the cluster, and a stack for clients and further processes."""
    made = Cluster(has_broker=count > 0, delay=delay)
    async with AsyncExitStack() as stack:
        ticks = stack.enter_context(pytest.MonkeyPatch.context())
        for service in presence, occupancy:
            ticks.setattr(service, "_TICK_SECONDS", 0.2)  # virtual time with fewer ticks takes less real time
        for _ in range(max(1, count)):
            await made.start(stack)
        yield made, stack
