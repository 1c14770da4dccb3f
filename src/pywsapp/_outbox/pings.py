"""Pings of one connection that wait for their pongs."""

from __future__ import annotations

import time
from itertools import count

import anyio

from pywsapp._outbox.awaitables import LazyAwaitable, LazyCoroutine
from pywsapp.exceptions import ConfigurationError, ConnectionClosed

_payloads = count(1)
_MAX_PAYLOAD = 125


class _Ping:
    __slots__ = ("_answer", "_event", "_sent")

    def __init__(self) -> None:
        self._sent = time.perf_counter()
        self._answer: float | None = None
        self._event: anyio.Event | None = None

    def answered(self, now: float | None) -> None:
        self._answer = -1.0 if now is None else now - self._sent
        if self._event is not None:
            self._event.set()

    async def latency(self) -> float:
        if self._answer is None:
            if self._event is None:
                self._event = anyio.Event()
            await self._event.wait()
        assert self._answer is not None
        if self._answer < 0:
            raise ConnectionClosed("the connection ended before the pong came")
        return self._answer


class Pings:
    """The pings of one connection that wait for their pongs."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[bytes, _Ping] = {}

    def add(self, payload: bytes | None) -> tuple[bytes, LazyCoroutine[float]]:
        """Add a ping that is sent now; return its payload, made up if it is None, and an awaitable of its latency.

        Raises:
            ConfigurationError: the payload is too long or in use.
        """
        if payload is None:
            payload = b"%d" % next(_payloads)
        if len(payload) > _MAX_PAYLOAD:
            raise ConfigurationError(f"a ping carries at most {_MAX_PAYLOAD} bytes, not {len(payload)}")
        if payload in self._waiting:
            raise ConfigurationError(f"a ping with payload {payload!r} is still unanswered")
        ping = self._waiting[payload] = _Ping()
        return payload, LazyAwaitable(ping.latency)

    def pong_received(self, payload: bytes) -> None:
        """Handle a pong: it answers its ping and all earlier ones (RFC 6455 section 5.5.3)."""
        if payload not in self._waiting:
            return
        now = time.perf_counter()
        for sent in list(self._waiting):
            self._waiting.pop(sent).answered(now)
            if sent == payload:
                return

    def end(self) -> None:
        """Wake those who wait for a pong, because none will come."""
        for ping in self._waiting.values():
            ping.answered(None)
        self._waiting.clear()
