"""Pings of one connection that wait for their pongs."""

from __future__ import annotations

import time
from itertools import count

import anyio

from pywsapp._outbox.awaitables import LazyAwaitable, LazyCoroutine
from pywsapp.exceptions import ConfigurationError, ConnectionClosed

MAX_WAITING = 100
"""Pings that can wait for pongs. A peer need not send any, and one that sends other data is never dropped for it."""

_payloads = count(1)
_MAX_PAYLOAD = 125
_KEEPALIVE = b""


class _Ping:
    __slots__ = ("_answer", "_event", "_failure", "_sent")

    def __init__(self) -> None:
        self._sent = time.perf_counter()
        self._answer: float | None = None
        self._event: anyio.Event | None = None
        self._failure: tuple[type[Exception], str] | None = None

    def answered(self, now: float) -> None:
        self._answer = now - self._sent
        self._wake()

    def fail(self, failure: type[Exception], reason: str) -> None:
        self._failure = failure, reason
        self._wake()

    def _wake(self) -> None:
        if self._event is not None:
            self._event.set()

    async def latency(self) -> float:
        if self._answer is None and self._failure is None:
            if self._event is None:
                self._event = anyio.Event()
            await self._event.wait()
        if self._failure is not None:
            failure, reason = self._failure
            raise failure(reason)
        assert self._answer is not None
        return self._answer


class Pings:
    """The pings of one connection that wait for their pongs."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[bytes, _Ping | None] = {}  # in the order of sending; None is a ping of the keepalive

    def add(self, payload: bytes | None) -> tuple[bytes, LazyCoroutine[float]]:
        """Add a ping that is sent now; return its payload, made up if it is None, and an awaitable of its latency.

        Raises:
            ConfigurationError: the payload is too long or in use.
        """
        if payload is None:
            payload = b"%d" % next(_payloads)
        if len(payload) > _MAX_PAYLOAD:
            raise ConfigurationError(f"a ping carries at most {_MAX_PAYLOAD} bytes, not {len(payload)}")
        if self._waiting.get(payload) is not None:
            raise ConfigurationError(f"a ping with payload {payload!r} is still unanswered")
        self._waiting.pop(payload, None)
        if len(self._waiting) >= MAX_WAITING:
            oldest = self._waiting.pop(next(iter(self._waiting)))
            if oldest is not None:
                oldest.fail(TimeoutError, f"the peer has answered neither this ping nor {MAX_WAITING - 1} later ones")
        ping = self._waiting[payload] = _Ping()
        return payload, LazyAwaitable(ping.latency)

    def keepalive_sent(self) -> None:
        """Note that a ping without payload was sent: its pong answers all earlier pings.

        The keepalive sends it on its own. RFC 6455, section 5.5.3, lets a peer answer only the newest of several pings.
        """
        if self._waiting:
            self._waiting.setdefault(_KEEPALIVE, None)

    def pong_received(self, payload: bytes) -> None:
        """Handle a pong: it answers its ping and all earlier ones (RFC 6455 section 5.5.3)."""
        if payload not in self._waiting:
            return
        now = time.perf_counter()
        for sent in list(self._waiting):
            ping = self._waiting.pop(sent)
            if ping is not None:
                ping.answered(now)
            if sent == payload:
                return

    def end(self) -> None:
        """Wake those who wait for a pong, because none will come."""
        for ping in self._waiting.values():
            if ping is not None:
                ping.fail(ConnectionClosed, "the connection ended before the pong came")
        self._waiting.clear()
