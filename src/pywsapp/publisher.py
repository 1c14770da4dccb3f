"""Publishing on topics from elsewhere: from Django, Flask, Celery, a cron job, another service.

A `Publisher` blocks and may be used from any thread; an `AsyncPublisher` is for async programs. Both only talk to the
broker, so the servers need not be reachable, nor even run.
"""

from __future__ import annotations

import os
import secrets
import threading
from concurrent.futures import Future
from contextlib import AsyncExitStack
from itertools import count
from types import TracebackType
from typing import Any

import anyio
from anyio.from_thread import BlockingPortal
from typing_extensions import Self

from pywsapp._protocol.opcodes import TEXT
from pywsapp._protocol.prepared import Sendable, payload_of
from pywsapp.brokers.base import Broker, Keep
from pywsapp.brokers.envelope import Envelope, encode_envelope
from pywsapp.brokers.relay import Relay
from pywsapp.brokers.urls import broker_for
from pywsapp.exceptions import BrokerUnavailable, ConfigurationError
from pywsapp.topics.names import TopicPattern, check_name

_SECONDS = 5.0


class AsyncPublisher:
    """Publishes on topics from an async program; used with `async with`.

    Args:
        broker: the URL of the app's broker, or a Broker.
        key: the app's `broker_key`, if it has one.

    Raises:
        ConfigurationError: there is no such broker, or it is only within one process.
    """

    def __init__(self, broker: str | Broker, *, key: str | bytes | None = None) -> None:
        found = broker_for(broker) if isinstance(broker, str) else broker
        if found is None:
            raise ConfigurationError("a publisher needs a broker that the servers are connected to, Redis for instance")
        self._broker = found
        self._key = key.encode() if isinstance(key, str) else key
        self._origin = secrets.token_hex(8)
        self._numbers = count(1)
        self._histories: list[tuple[TopicPattern, int, float]] = []
        self._relay: Relay | None = None
        self._stack = AsyncExitStack()

    def history(self, pattern: str, *, size: int = 100, seconds: float = 300) -> None:
        """Say which topics keep a history, with the arguments of `App.history`; the same as there.

        Raises:
            ConfigurationError: the broker keeps none, or it is no pattern.
        """
        if not self._broker.keeps_history:
            raise ConfigurationError(f"{self._broker.name} keeps no history")
        self._histories.append((TopicPattern(pattern), size, seconds))

    async def __aenter__(self) -> Self:
        tasks = await self._stack.enter_async_context(anyio.create_task_group())
        relay = Relay(self._broker, _ignore)
        await tasks.start(relay.run)
        self._stack.callback(tasks.cancel_scope.cancel)
        self._relay = relay
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        relay, self._relay = self._relay, None
        if relay is not None and kind is None:
            with anyio.move_on_after(_SECONDS):
                await relay.flush()
        await self._stack.aclose()

    async def publish(self, topic: str, message: Sendable) -> None:
        """Publish a message; returns when the broker has taken it.

        Args:
            topic: the topic's name.
            message: text or bytes.

        Raises:
            BrokerUnavailable: it has not.
            TopicError: it is no name, or the message is too large.
            TypeError: the message is neither text nor bytes.
            ConfigurationError: not within `async with`.
        """
        if self._relay is None:
            raise ConfigurationError("an AsyncPublisher publishes within `async with`")
        opcode, payload = payload_of(message)
        content = payload.decode() if opcode == TEXT else payload
        data = encode_envelope(Envelope(check_name(topic), content, self._origin), self._key)
        await self._relay.publish(topic, data, self._keep(topic))

    def _keep(self, topic: str) -> Keep | None:
        for pattern, size, seconds in self._histories:
            if pattern.matches(topic):
                return Keep((self._origin, next(self._numbers)), size, seconds)
        return None


class Publisher:
    """Publishes on topics from a program without an event loop; from any thread, also after a fork.

    It connects when something is published first, in a thread of its own, and keeps the connection until `close`.

    Args:
        broker: the URL of the app's broker, or a Broker.
        key: the app's `broker_key`, if it has one.
        timeout: seconds that a call may block.

    Raises:
        ConfigurationError: there is no such broker, or it is only within one process.
    """

    def __init__(self, broker: str | Broker, *, key: str | bytes | None = None, timeout: float = _SECONDS) -> None:
        self._arguments: dict[str, Any] = {"broker": broker, "key": key}
        self._timeout = timeout
        self._histories: list[tuple[str, int, float]] = []
        self._lock = threading.Lock()
        self._thread: _PublisherThread | None = None
        AsyncPublisher(**self._arguments)  # a mistake shows here, and not when something is published

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def history(self, pattern: str, *, size: int = 100, seconds: float = 300) -> None:
        """Say which topics keep a history, with the arguments of `App.history`; before anything is published.

        Raises:
            ConfigurationError: the broker keeps none, or it is no pattern.
        """
        AsyncPublisher(**self._arguments).history(pattern, size=size, seconds=seconds)
        self._histories.append((pattern, size, seconds))

    def publish(self, topic: str, message: Sendable) -> None:
        """Publish a message; blocks until the broker has taken it, or for as long as `timeout`.

        Args:
            topic: the topic's name.
            message: text or bytes.

        Raises:
            BrokerUnavailable: the broker has not taken it.
            TopicError: it is no name, or the message is too large.
            TypeError: the message is neither text nor bytes.
        """
        with self._lock:
            if self._thread is None or self._thread.pid != os.getpid():
                self._thread = self._started()
            thread = self._thread
        thread.portal.call(self._publish, thread.publisher, topic, message)

    async def _publish(self, publisher: AsyncPublisher, topic: str, message: Sendable) -> None:
        try:
            with anyio.fail_after(self._timeout):
                await publisher.publish(topic, message)
        except TimeoutError:
            raise BrokerUnavailable(f"the broker has not answered in {self._timeout:g} s") from None

    def _started(self) -> _PublisherThread:
        publisher = AsyncPublisher(**self._arguments)
        for pattern, size, seconds in self._histories:
            publisher.history(pattern, size=size, seconds=seconds)
        return _PublisherThread(publisher)

    def close(self) -> None:
        """Close the connection and end the thread; publishing again begins anew. Blocks for a moment."""
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None and thread.pid == os.getpid():
                thread.end()


class _PublisherThread:
    """A publisher with a thread and an event loop of its own. A forked child has no such thread, and makes its own."""

    def __init__(self, publisher: AsyncPublisher) -> None:
        self.pid = os.getpid()
        self.publisher = publisher
        self.portal: BlockingPortal
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="pywsapp publisher", daemon=True)
        self._thread.start()
        self._ready.result()

    def _run(self) -> None:
        try:
            anyio.run(self._serve)
        except BaseException as exc:
            if self._ready.done():
                raise
            self._ready.set_exception(exc)

    async def _serve(self) -> None:
        async with self.publisher, BlockingPortal() as self.portal:
            self._ready.set_result(None)
            await self.portal.sleep_until_stopped()

    def end(self) -> None:
        """End it, when what waits is published."""
        self.portal.call(self.portal.stop)
        self._thread.join()


def _ignore(topic: str, data: bytes, position: object) -> None:
    """Take nothing: nothing is subscribed."""
