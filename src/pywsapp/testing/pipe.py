"""Two connected transports in memory whose bytes move by themselves, in the turns of the running event loop."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import anyio

from pywsapp._event_loop import known_to_anyio, on_asyncio
from pywsapp._transports.base import TransportProtocol
from pywsapp._transports.memory import MemoryTransport

#: The address that connections in memory seem to come from.
CLIENT_ADDRESS = "127.0.0.1"


class Pump:
    """Moves the bytes of all pipes of one event loop; create it in a task of that loop.

    On asyncio a callback of the loop moves them, as it reads from a socket. On trio a task does, which must run `run`.
    """

    def __init__(self) -> None:
        self._due: list[PumpedTransport] = []
        self._event = anyio.Event()
        loop = asyncio.get_running_loop() if on_asyncio() else None
        self._at_end: Callable[[Callable[[], None]], Any]
        if loop is None:
            self._at_end = lambda _: self._event.set()
        else:
            with known_to_anyio():  # a test that reads has not the context of the server
                self._at_end = functools.partial(loop.call_soon, context=copy_context())

    async def run(self) -> None:
        """Move bytes until cancelled, on an event loop without `call_soon`."""
        while True:
            await self._event.wait()
            self._event = anyio.Event()
            self._move()

    def schedule(self, transport: PumpedTransport) -> None:
        """Move the bytes of a pipe at the end of this turn."""
        if not self._due:
            self._at_end(self._move)
        self._due.append(transport)

    def _move(self) -> None:
        due, self._due = self._due, []
        for transport in due:
            transport.is_scheduled = False
            transport.pump()

    def connect(self, client: TransportProtocol, server: TransportProtocol, address: str) -> PumpedTransport:
        """Connect two protocols; return the transport of the client. Calls `connection_made` of both.

        Args:
            client: the protocol of the client's end.
            server: the protocol of the server's end.
            address: the IP address of the client, as the server sees it.
        """
        near = PumpedTransport(client, self, {"peername": (CLIENT_ADDRESS, 80), "sockname": (address, 1)})
        far = PumpedTransport(server, self, {"peername": (address, 1), "sockname": (CLIENT_ADDRESS, 80)})
        near._peer, far._peer = far, near
        server.connection_made(far)
        client.connection_made(near)
        return near


class PumpedTransport(MemoryTransport):
    """One end of a pipe.

    Attributes:
        is_scheduled: whether the pump moves the bytes of this end at the end of the turn.
    """

    __slots__ = ("_pump", "is_scheduled")

    def __init__(self, protocol: TransportProtocol, pump: Pump, extra: dict[str, Any]) -> None:
        super().__init__(protocol, None, extra)
        self._pump = pump
        self.is_scheduled = False

    def _schedule(self) -> None:
        if not self.is_scheduled:
            self.is_scheduled = True
            self._pump.schedule(self)

    def write(self, data: bytes) -> None:
        super().write(data)
        self._schedule()

    def close(self) -> None:
        super().close()
        self._schedule()

    def abort(self) -> None:
        super().abort()
        self._schedule()

    def resume_reading(self) -> None:
        super().resume_reading()
        self._schedule()
