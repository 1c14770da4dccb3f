"""Several servers with one broker in one test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from pywsapp.brokers.memory import MemoryBroker
from pywsapp.testing.client import TestClient

if TYPE_CHECKING:
    from pywsapp.app import App


@asynccontextmanager
async def two_nodes(make_app: Callable[[], App], **options: Any) -> AsyncIterator[tuple[TestClient, TestClient]]:
    """Run two Apps that share a broker in memory: `async with two_nodes(make_app) as (a, b):`.

    A message that is broadcast on a topic of one App reaches the subscribers of the other one, as on two machines.

    Args:
        make_app: returns a new App with its components; it is called twice.
        options: those of `TestClient`.
    """
    broker = MemoryBroker()
    async with AsyncExitStack() as opened:
        clients = []
        for _ in range(2):
            app = make_app()
            app.configure(broker=broker)
            clients.append(await opened.enter_async_context(TestClient(app, **options)))
        yield clients[0], clients[1]
