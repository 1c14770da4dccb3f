"""Publishing through real brokers: from threads, from async programs and from a shell."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest
from support.serving import Client, serving

from pywsapp import App, AsyncPublisher, BrokerUnavailable, Connection, MessageComponent, Options, Publisher

pytestmark = pytest.mark.timeout(120)  # RabbitMQ can start slowly
KEY = "a secret for the test"


class News(MessageComponent):
    def __init__(self, app: App) -> None:
        self.app = app

    async def on_open(self, conn: Connection) -> None:
        await self.app.topic("news").add(conn)
        conn.send("ready")


@asynccontextmanager
async def news_client(url: str) -> AsyncIterator[Client]:
    app = App("*", 0, broker=url, broker_key=KEY, options=Options(ping_interval=None))  # a command can take longer
    app.route("/", News(app), allowed_origins=["*"])
    async with serving(app) as server, server.client() as client:
        assert (await client.receive())[1] == b"ready"
        yield client


@pytest.mark.anyio
async def test_publishers_reach_a_client(service: Any) -> None:
    async with news_client(service.url) as client:
        async with AsyncPublisher(service.url, key=KEY) as publisher:
            await publisher.publish("news", "from a task")
        assert (await client.receive())[1] == b"from a task"
        with Publisher(service.url, key=KEY) as blocking:
            await anyio.to_thread.run_sync(blocking.publish, "news", b"\x00 from a thread")
        assert (await client.receive())[1] == b"\x00 from a thread"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_command_line_reaches_a_client(service: Any) -> None:
    async def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "pywsapp", "publish", service.url, *arguments]
        environment = {**os.environ, "PYWSAPP_BROKER_KEY": KEY}
        with anyio.fail_after(30):
            return await anyio.run_process(command, env=environment, check=False, **options)

    async with news_client(service.url) as client:
        for _ in range(2):
            assert (await run("news", "hello", "--id", "a")).returncode == 0
        assert (await client.receive())[1] == b"hello"
        assert (await run("news", "-", input="über\n".encode())).returncode == 0
        assert (await client.receive())[1] == "über\n".encode()
        bad = await run("no spaces", "hello")
        assert (bad.returncode, bad.stderr[:45]) == (1, b"pywsapp: 'no spaces' cannot be the name of a ")


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "amqp://127.0.0.1:1", "nats://127.0.0.1:1"])
def test_an_unreachable_broker_raises(url: str) -> None:
    with Publisher(url) as publisher, pytest.raises(BrokerUnavailable, match=rf"^{url}.* is not connected"):
        publisher.publish("news", "hello")
