"""Publish on topics from programs that are not a pywsapp server: Django, Flask, Celery, a cron job, another service.

A `Publisher` blocks, and can be used from any thread. An `AsyncPublisher` is for async programs. Both talk to the
broker only, so they do not need to reach the servers; the servers do not even need to run.
"""

from __future__ import annotations

import os
import secrets
import threading
from concurrent.futures import Future
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import count
from types import TracebackType
from typing import Any

import anyio
from anyio.from_thread import BlockingPortal
from typing_extensions import Self

from pywsapp._protocol.opcodes import TEXT
from pywsapp._protocol.prepared import Sendable, payload_of
from pywsapp.brokers.base import Broker, Keep
from pywsapp.brokers.envelope import Envelope, EnvelopeNumbers, Keys, encode_envelope, keys_of
from pywsapp.brokers.relay import Relay
from pywsapp.brokers.urls import broker_for
from pywsapp.exceptions import BrokerUnavailable, ConfigurationError
from pywsapp.topics.names import TopicPattern, check_name

#: Seconds that a call of `Publisher` blocks at most.
_TIMEOUT_SECONDS = 5.0
#: Seconds that the end of `async with AsyncPublisher(...)` waits until queued messages are published.
_FLUSH_SECONDS = 5.0


class AsyncPublisher:
    """Publishes on topics from an async program.

        async with AsyncPublisher("redis://localhost") as publisher:
            await publisher.publish("news", "hello")

    The end of the block waits up to 5 seconds until queued messages are published, and closes the connection.

    Args:
        broker: the URL of the broker that the servers use, or a Broker.
        key: the `broker_key` of the App, if it has one; of several, the first one signs.

    Raises:
        ConfigurationError: the URL is invalid, the client library of the broker is not installed, or the URL is
            "memory", which does not reach other processes.
    """

    def __init__(self, broker: str | Broker, *, key: Keys | None = None) -> None:
        resolved = broker_for(broker) if isinstance(broker, str) else broker
        if resolved is None:
            raise ConfigurationError('a publisher needs a broker that connects processes, such as "redis://localhost"')
        self._broker = resolved
        self._keys = keys_of(key)
        self._numbers = EnvelopeNumbers()
        self._origin = secrets.token_hex(8)
        self._message_numbers = count(1)
        self._histories: list[tuple[TopicPattern, int, float]] = []
        self._relay: Relay | None = None
        self._stack = AsyncExitStack()

    def history(self, pattern: str, *, size: int = 100, seconds: float = 300) -> None:
        """Declare which topics keep a history. Use the same arguments as for `App.history` in the servers.

        Args:
            pattern: a topic's name, or a pattern such as "room:*".
            size: messages that each topic keeps.
            seconds: seconds for which each topic keeps them, counted from its last message.

        Raises:
            ConfigurationError: the broker keeps no histories, or the pattern is invalid.
        """
        if not self._broker.keeps_history:
            raise ConfigurationError(f"{self._broker.name} keeps no histories")
        self._histories.append((TopicPattern(pattern), size, seconds))

    async def __aenter__(self) -> Self:
        tasks = await self._stack.enter_async_context(anyio.create_task_group())
        relay = Relay(self._broker, _ignore_message)
        await tasks.start(relay.run)
        self._stack.callback(tasks.cancel_scope.cancel)
        self._relay = relay
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        relay, self._relay = self._relay, None
        if relay is not None and kind is None:
            with anyio.move_on_after(_FLUSH_SECONDS):
                await relay.flush()
        await self._stack.aclose()

    async def publish(self, topic: str, message: Sendable) -> None:
        """Publish a message, and wait until the broker has accepted it.

        Args:
            topic: the topic's name.
            message: text (str) or bytes.

        Raises:
            BrokerUnavailable: the broker has not accepted the message.
            TopicError: the name is invalid, or the message is larger than the broker allows.
            TypeError: the message is neither text nor bytes.
            ConfigurationError: the publisher is used outside of `async with`.
        """
        if self._relay is None:
            raise ConfigurationError("an AsyncPublisher publishes within `async with` only")
        opcode, payload = payload_of(message)
        content = payload.decode() if opcode == TEXT else payload
        envelope = Envelope(check_name(topic), content, self._origin)
        if self._keys:
            envelope = replace(envelope, number=next(self._numbers))
        data = encode_envelope(envelope, self._keys[0] if self._keys else None)
        await self._relay.publish(topic, data, self._keep(topic))

    def _keep(self, topic: str) -> Keep | None:
        for pattern, size, seconds in self._histories:
            if pattern.matches(topic):
                return Keep((self._origin, next(self._message_numbers)), size, seconds)
        return None


class Publisher:
    """Publishes on topics from a program without an event loop.

        publisher = Publisher("redis://localhost")
        publisher.publish("news", "hello")

    The first message opens a connection, in a background thread. `close`, or the end of a `with` block, closes it. A
    publisher can be used from any thread, and in a forked child process, which gets a connection of its own.

    Args:
        broker: the URL of the broker that the servers use, or a Broker.
        key: the `broker_key` of the App, if it has one; of several, the first one signs.
        timeout: seconds that `publish` blocks at most.

    Raises:
        ConfigurationError: the URL is invalid, the client library of the broker is not installed, or the URL is
            "memory", which does not reach other processes.
    """

    def __init__(self, broker: str | Broker, *, key: Keys | None = None, timeout: float = _TIMEOUT_SECONDS) -> None:
        self._arguments: dict[str, Any] = {"broker": broker, "key": key}
        self._timeout = timeout
        self._histories: list[tuple[str, int, float]] = []
        self._lock = threading.Lock()
        self._thread: _PublisherThread | None = None
        AsyncPublisher(**self._arguments)  # raises for invalid arguments now, not at the first message

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def history(self, pattern: str, *, size: int = 100, seconds: float = 300) -> None:
        """Declare which topics keep a history. Use the same arguments as for `App.history` in the servers.

        Args:
            pattern: a topic's name, or a pattern such as "room:*".
            size: messages that each topic keeps.
            seconds: seconds for which each topic keeps them, counted from its last message.

        Raises:
            ConfigurationError: the broker keeps no histories, or the pattern is invalid.
        """
        AsyncPublisher(**self._arguments).history(pattern, size=size, seconds=seconds)  # raises for invalid arguments
        with self._lock:
            self._histories.append((pattern, size, seconds))
            if self._thread is not None:
                self._thread.publisher.history(pattern, size=size, seconds=seconds)

    def publish(self, topic: str, message: Sendable) -> None:
        """Publish a message, and block until the broker has accepted it, for `timeout` seconds at most.

        Args:
            topic: the topic's name.
            message: text (str) or bytes.

        Raises:
            BrokerUnavailable: the broker has not accepted the message.
            TopicError: the name is invalid, or the message is larger than the broker allows.
            TypeError: the message is neither text nor bytes.
        """
        with self._lock:
            if self._thread is None or self._thread.pid != os.getpid():
                self._thread = self._start_thread()
            thread = self._thread
        thread.portal.call(self._publish, thread.publisher, topic, message)

    async def _publish(self, publisher: AsyncPublisher, topic: str, message: Sendable) -> None:
        try:
            with anyio.fail_after(self._timeout):
                await publisher.publish(topic, message)
        except TimeoutError:
            raise BrokerUnavailable(f"the broker has not answered within {self._timeout:g} seconds") from None

    def _start_thread(self) -> _PublisherThread:
        publisher = AsyncPublisher(**self._arguments)
        for pattern, size, seconds in self._histories:
            publisher.history(pattern, size=size, seconds=seconds)
        return _PublisherThread(publisher)

    def close(self) -> None:
        """Publish queued messages, close the connection and end the thread. Blocks for up to 7 seconds.

        A later `publish` opens a new connection.
        """
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None and thread.pid == os.getpid():
                thread.stop()


class _PublisherThread:
    """An `AsyncPublisher` in a thread with an event loop of its own.

    A fork copies this object but not the thread, so `Publisher` compares `pid` and starts another thread in the child.
    """

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

    def stop(self) -> None:
        """Publish queued messages, close the connection, and wait for the end of the thread."""
        self.portal.call(self.portal.stop)
        self._thread.join()


def _ignore_message(topic: str, data: bytes, position: object) -> None:
    """Ignore a received message; a publisher subscribes to no topic, so there is none."""
