"""Many small messages that inflate to large ones are delivered one by one, however slow the handler."""

from __future__ import annotations

import tracemalloc
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.serving import MemoryClient, MemoryHost, Pipe, Recorder, Sink, message_frame

from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp._protocol.deflate import DeflateParameters
from pywsapp._protocol.websocket import WebSocket
from pywsapp._transports.memory import memory_pipe
from pywsapp.connection import Connection
from pywsapp.http import Request
from pywsapp.options import Deflate, Options

pytestmark = pytest.mark.anyio
MIB = 1024 * 1024
COUNT = 60
PARAMETERS = DeflateParameters(True, True, 15, 15)
OPTIONS = Options(deflate=Deflate())


class Sizes(Recorder):
    def __init__(self, handler_waits: bool) -> None:
        super().__init__()
        self.total = 0
        self.waits = handler_waits

    def on_message(self, conn: Connection, message: Any) -> Any:
        self.total += len(message)
        return anyio.lowlevel.checkpoint() if self.waits else None


@pytest.mark.parametrize("waits", [False, True])
async def test_memory_of_many_bombs_in_one_read(waits: bool) -> None:
    bomb = WebSocket(client=True, options=OPTIONS, deflate=PARAMETERS).encode(bytes(MIB))
    data = bomb * COUNT
    component = Sizes(waits)
    async with anyio.create_task_group() as tasks:
        host, sink = MemoryHost(tasks), Sink()
        ws = WebSocket(client=False, options=OPTIONS, deflate=PARAMETERS)
        lifecycle = Lifecycle(component, Request(), ws, sink, OPTIONS, host)
        sink.inner, _ = memory_pipe(lifecycle, MemoryClient())
        lifecycle.open(b"")
        tracemalloc.start()
        try:
            lifecycle.data_received(data)
            turns = 0
            while component.total < COUNT * MIB:
                await anyio.lowlevel.checkpoint()
                turns += 1
            assert turns >= COUNT // 2, "others get their turn in between"
            assert tracemalloc.get_traced_memory()[1] < 10 * MIB
        finally:
            tracemalloc.stop()
        assert not lifecycle.machine.pause_causes
        lifecycle.connection_lost(None)
        tasks.cancel_scope.cancel()


class Slow(Recorder):
    def __init__(self) -> None:
        super().__init__()
        self.go_on = anyio.Event()

    async def on_message(self, conn: Connection, message: Any) -> None:
        await self.go_on.wait()
        self.record("message", message)


async def test_a_message_is_not_late_while_a_slow_handler_keeps_us_from_reading_it() -> None:
    component = Slow()
    async with anyio.create_task_group() as tasks:
        pipe = Pipe(component, Options(max_queue=1, message_timeout=30, ping_interval=None), tasks)
        late = message_frame("late")
        pipe.write(message_frame("first") + message_frame("second") + late[:-2])
        await pipe.run_until_blocked()
        assert pipe.lifecycle.machine.pause_causes
        for now in range(0, 300, 10):
            pipe.lifecycle.tick(float(now))
        component.go_on.set()
        await pipe.run_until_blocked()
        pipe.write(late[-2:])
        await pipe.run_until_blocked()
        assert [call[1] for call in component.calls if call[0] == "message"] == ["first", "second", "late"]
        pipe.lifecycle.connection_lost(None)
        await pipe.run_until_blocked()
