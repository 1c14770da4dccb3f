"""Callbacks of uvicorn's transports, in whose context anyio does not recognise asyncio if sniffio is installed."""

from __future__ import annotations

import asyncio
import functools
from contextvars import Context
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trustme
from support.asgi_servers import exchange, site_server, unknown_to_anyio
from support.serving import GUARD
from support.tls_contexts import context_for_client

from pywsapp import App, Connection, MessageComponent, Options, connect
from pywsapp._server.runtime import Runtime
from pywsapp.asgi.uvicorn import Protocol
from pywsapp.brokers.memory import MemoryBroker

BACKENDS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
]
pytestmark = [pytest.mark.anyio, pytest.mark.once, pytest.mark.parametrize("anyio_backend", BACKENDS)]


class Later(MessageComponent):
    """Does what needs a task, in a def and in an async def."""

    def __init__(self) -> None:
        self.closed = anyio.Event()

    def on_message(self, conn: Connection, message: str | bytes) -> Any:
        assert conn.app is not None
        if message == "task":
            conn.app.start_soon(self.answer, conn, "from a task")  # type: ignore[attr-defined]
        elif message == "wait":
            return self.answer(conn, "from an async def")
        else:
            conn.subscribe(str(message))
            conn.send("subscribed")
        return None

    async def answer(self, conn: Connection, text: str) -> None:
        await anyio.lowlevel.checkpoint()
        conn.send(text)

    async def on_close(self, conn: Connection) -> None:
        await anyio.lowlevel.checkpoint()
        self.closed.set()


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ("wait", "from an async def"),
        ("task", "from a task"),
        ("kept", "subscribed"),
        ("present", "subscribed"),
    ],
)
@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])  # uvloop has two contexts for TLS
async def test_tasks_start_from_the_callbacks_of_a_transport(
    over_tls: bool, message: str, answer: str, tmp_path: Path
) -> None:
    authority, pem = trustme.CA(), tmp_path / "server.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    component = Later()
    app = App(broker=MemoryBroker())
    app.route("/", component)
    app.history("kept")
    app.on_presence("present")(lambda topic, change: None)
    async with site_server(app, ws=Protocol, **({"ssl_certfile": pem} if over_tls else {})) as server:
        url = f"{'wss' if over_tls else 'ws'}://localhost:{server.port}/"
        async with connect(url, tls=context_for_client(authority) if over_tls else None) as conn:
            assert await exchange(conn, message) == answer
        with anyio.fail_after(GUARD):
            await component.closed.wait()


async def test_a_callback_of_another_context_starts_a_handler_task() -> None:
    """A site that broadcasts flushes connections in its own context, where a lost one starts the task of `on_close`."""
    done = anyio.Event()
    loop = asyncio.get_running_loop()

    async def work() -> None:
        await anyio.lowlevel.checkpoint()
        done.set()

    async def body(_: object) -> None:
        loop.call_soon(functools.partial(runtime.start_soon, work), context=Context())
        with anyio.fail_after(GUARD):
            await done.wait()

    runtime = Runtime(Options())
    await unknown_to_anyio(runtime.run(body))
