"""Over each real broker, a webhook gets each change of two nodes once, also when the node that reported has stopped."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from support.cluster import Rooms
from support.outages import until
from support.receiver import SECRET, Receiver

from pywsapp import App, Options, Webhook
from pywsapp.testing import TestClient

pytestmark = [pytest.mark.anyio, pytest.mark.once, pytest.mark.timeout(120)]  # RabbitMQ can start slowly


@asynccontextmanager
async def node(broker: str, receiver: Receiver) -> AsyncIterator[tuple[TestClient, Webhook]]:
    """Run an App; its clients subscribe to the topic of their path."""
    app = App("*", 0, broker=broker, options=Options(absence_delay=0.2))
    app.route("/{room}", Rooms())
    hook = app.webhook(receiver.url, secret=SECRET, topics=["room:*"])
    async with TestClient(app) as client:
        yield client, hook


@pytest.mark.parametrize("anyio_backend", ["trio"])  # the clients of RabbitMQ and NATS then run on asyncio in a thread
async def test_each_change_is_reported_once(service: Any) -> None:
    with Receiver() as receiver:
        async with AsyncExitStack() as one, AsyncExitStack() as other:
            nodes = {stack: await stack.enter_async_context(node(service.url, receiver)) for stack in (one, other)}
            for stack, (client, _) in nodes.items():
                await stack.enter_async_context(client.connect("/room:1"))
            async with nodes[one][0].connect("/room:2"):
                await until(lambda: len(receiver.names) == 2)
            await until(lambda: len(receiver.names) == 3)
            reporting, rest = (one, other) if nodes[one][1].stats.delivered else (other, one)
            await reporting.aclose()
            async with nodes[rest][0].connect("/room:3"):
                await until(lambda: len(receiver.names) == 4)
            await rest.aclose()
        assert nodes[reporting][1].stats.delivered == 3
        assert sorted(receiver.names[:2]) == ["topic_occupied room:1", "topic_occupied room:2"]
        assert receiver.names[2:4] == ["topic_vacated room:2", "topic_occupied room:3"]
        assert sorted(receiver.names[4:]) == ["topic_vacated room:1", "topic_vacated room:3"]
