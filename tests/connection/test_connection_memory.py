"""An idle connection is small, and a closed one is freed."""

from __future__ import annotations

import gc
import sys
import weakref
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.serving import (
    CLOSE,
    GUARD,
    Pipe,
    Recorder,
    close_frame,
    serving,
)

from pywsapp._outbox.pings import Pings
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection

pytestmark = pytest.mark.anyio


class WeakReferences(MessageComponent):
    """A component with weak references to its connections."""

    def __init__(self) -> None:
        self.refs: list[weakref.ref[Connection]] = []

    def on_open(self, conn: Connection) -> Any:
        conn.state.something = object()
        self.refs.append(weakref.ref(conn))

    def on_message(self, conn: Connection, message: Any) -> Any:
        if message == "crash":
            raise LookupError
        return conn.send(message)

    def on_error(self, conn: Connection, exc: Exception) -> Any:
        conn.close(1011)


class AsyncWeakReferences(WeakReferences):
    async def on_message(self, conn: Connection, message: Any) -> None:
        await anyio.lowlevel.checkpoint()
        await super().on_message(conn, message)
        if message == "ping":
            with anyio.move_on_after(0):
                await conn.ping()


@pytest.mark.parametrize("how", ["peer closes", "peer resets", "crash", "drain"])
@pytest.mark.parametrize("kind", [WeakReferences, AsyncWeakReferences], ids=["def", "async"])
async def test_a_closed_connection_is_freed(kind: type[WeakReferences], how: str, anyio_backend_name: str) -> None:
    component = kind()
    async with serving(component) as server:
        for _ in range(5):
            async with server.client() as client:
                await client.send("hello", "ping")
                assert await client.message() == "hello"
                assert await client.message() == "ping"
                if how == "peer closes":
                    await client.close()
                elif how == "peer resets":
                    await client.reset()
                elif how == "crash":
                    await client.send("crash")
                    while (await client.receive())[0] != CLOSE:
                        pass
                    await client.stream.send(close_frame(1011))
                    await client.read_to_end()
        if how == "drain":
            server.stop()
            await server.ended.wait()
        with anyio.move_on_after(GUARD):
            while any(ref() is not None for ref in component.refs):
                for _ in range(5):
                    await anyio.lowlevel.checkpoint()
                gc.collect()
    assert len(component.refs) == 5
    assert [ref() for ref in component.refs if ref() is not None] == []


def test_a_closed_connection_is_freed_without_the_garbage_collector() -> None:
    component = WeakReferences()
    gc.disable()
    try:
        for how in ("peer", "close", "abort", "lost"):
            pipe = Pipe(component)
            pipe.send("hello")
            conn: Connection | None = pipe.conn
            pipe.end(how)
            if how in ("close", "abort"):
                pipe.write(close_frame())
            assert conn is not None
            assert sys.getrefcount(conn) <= 5  # by the pipe, the lifecycle, its state machine, this test and the call
            del conn, pipe
        assert [ref() for ref in component.refs] == [None] * 4
    finally:
        gc.enable()


def has_one(kind: type, *holders: object) -> bool:
    return any(isinstance(held, kind) for held in gc.get_referents(*holders))


def test_an_idle_connection_has_no_optional_objects() -> None:
    pipe = Pipe(Recorder())
    holders = (pipe.conn, pipe.conn.request, pipe.lifecycle, pipe.lifecycle.machine)
    assert [kind for kind in (SimpleNamespace, Pings, anyio.Event) if has_one(kind, *holders)] == []
    assert pipe.conn.state is pipe.conn.state
    assert has_one(SimpleNamespace, *holders)
    assert pipe.host.filled == []
    assert sys.getsizeof(pipe.conn) + sys.getsizeof(pipe.lifecycle) < 600
