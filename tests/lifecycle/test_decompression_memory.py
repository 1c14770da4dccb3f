"""Many small messages that inflate to large ones are inflated one by one, so memory stays bounded."""

from __future__ import annotations

import tracemalloc
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.serving import Pipe, Recorder

from pywsapp._protocol.deflate import DeflateParameters
from pywsapp._protocol.websocket import WebSocket
from pywsapp.connection import Connection
from pywsapp.options import Deflate, Options

pytestmark = pytest.mark.anyio
MIB = 1024 * 1024
COUNT = 60
PARAMETERS = DeflateParameters(True, True, 15, 15)
OPTIONS = Options(deflate=Deflate())


class SizeCounter(Recorder):
    """Adds up the sizes of its messages."""

    def __init__(self, *, waits: bool) -> None:
        super().__init__()
        self.total = 0
        self.waits = waits

    def on_message(self, conn: Connection, message: Any) -> Any:
        self.total += len(message)
        return anyio.lowlevel.checkpoint() if self.waits else None


@pytest.mark.parametrize("waits", [False, True], ids=["def", "async"])
async def test_memory_is_bounded_for_many_bombs_in_one_read(waits: bool) -> None:
    bomb = WebSocket(client=True, options=OPTIONS, deflate=PARAMETERS).encode(bytes(MIB))
    data = bomb * COUNT
    component = SizeCounter(waits=waits)
    async with anyio.create_task_group() as tasks:
        pipe = Pipe(component, OPTIONS, tasks, deflate=PARAMETERS)
        tracemalloc.start()
        try:
            pipe.lifecycle.data_received(data)
            turns = 0
            while component.total < COUNT * MIB:
                await anyio.lowlevel.checkpoint()
                turns += 1
            assert turns >= COUNT // 2, "other tasks run in between"
            assert tracemalloc.get_traced_memory()[1] < 10 * MIB
        finally:
            tracemalloc.stop()
        assert not pipe.lifecycle.machine.pause_causes
        pipe.lifecycle.connection_lost(None)
        tasks.cancel_scope.cancel()
