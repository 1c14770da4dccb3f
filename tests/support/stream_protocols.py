"""Protocols of a transport that keep or send back what they receive; no other module of the tests is imported."""

from __future__ import annotations

from typing import Any

import anyio


class Collector:
    """A protocol that keeps what it receives.

    Args:
        pending: what a server passes to the protocols that it makes; it is ignored.
    """

    def __init__(self, pending: object = None) -> None:
        self.transport: Any = None
        self.received = b""
        self.lost = anyio.Event()
        self._changed = anyio.Event()

    async def until_received(self, size: int) -> bytes:
        """Wait until that many bytes have arrived; return them."""
        while len(self.received) < size:
            await self._changed.wait()
        return self.received

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def eof_received(self) -> None:
        pass

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


class Echo(Collector):
    """A protocol that sends back what it receives, and keeps nothing."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)
