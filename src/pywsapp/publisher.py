"""Publish on topics from programs that are not a pywsapp server: Django, Flask, Celery, a cron job, another service.

A `Publisher` blocks, and can be used from any thread. An `AsyncPublisher` is for async programs. Both talk to the
broker only, so they do not need to reach the servers; the servers do not even need to run.

A call that fails with `BrokerUnavailable` has not published its message, and nothing publishes it later. If that cannot
be said, because the message was on its way, the call fails with `OutcomeUnknown`. Publishing the message again under
the id in that exception does not double it.
"""

from __future__ import annotations

import math
import os
import secrets
import threading
from concurrent.futures import Future
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import count
from types import TracebackType
from typing import Any
from weakref import WeakSet

import anyio
from anyio.from_thread import BlockingPortal
from typing_extensions import Self

from pywsapp._messages.objects import content_to_publish
from pywsapp._protocol.prepared import Sendable
from pywsapp._traceparent import current_traceparent
from pywsapp.brokers.acknowledgement import Acknowledgement
from pywsapp.brokers.base import Broker, Keep
from pywsapp.brokers.envelope import Envelope, EnvelopeNumbers, Keys, encode_envelope, keys_of
from pywsapp.brokers.message_ids import check_message_id
from pywsapp.brokers.relay import Relay
from pywsapp.brokers.urls import broker_for
from pywsapp.codecs.base import Codec
from pywsapp.codecs.kinds import Encodable
from pywsapp.exceptions import BrokerUnavailable, ConfigurationError, OutcomeUnknown
from pywsapp.topics.history.rules import HistoryRule, wrap_as_json
from pywsapp.topics.names import TopicPattern, check_name
from pywsapp.topics.topic_codecs import TopicCodecs

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
        self._histories: list[HistoryRule] = []
        self._codecs = TopicCodecs()
        self._relay: Relay | None = None
        self._stack = AsyncExitStack()

    def history(self, pattern: str, *, size: int = 100, seconds: float = 300) -> None:
        """Declare which topics keep a history. Use the same arguments as for `App.history` in the servers.

        Args:
            pattern: a topic's name, or a pattern such as "room:*".
            size: messages that each topic keeps.
            seconds: seconds for which each topic keeps them, counted from its last message.

        Raises:
            ConfigurationError: the broker keeps no histories, or an argument is invalid.
        """
        if not self._broker.keeps_history:
            raise ConfigurationError(f"{self._broker.name} keeps no histories")
        self._histories.append(HistoryRule(TopicPattern(pattern), size, seconds, wrap_as_json))

    def topic_codec(self, pattern: str, codec: Codec) -> None:
        """Declare in which codec topics carry objects. Use the same arguments as for `App.topic_codec` in the servers.

        Args:
            pattern: a topic's name, or a pattern such as "room:*".
            codec: such as `MessagePackCodec()`.

        Raises:
            ConfigurationError: an argument is invalid.
        """
        self._codecs.add(TopicPattern(pattern), codec)

    async def __aenter__(self) -> Self:
        relay = await self._open()
        await relay.attempted.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close(flush=kind is None)

    async def _open(self) -> Relay:
        """Begin to connect."""
        tasks = await self._stack.enter_async_context(anyio.create_task_group())
        self._relay = relay = Relay(self._broker, _ignore_message)
        tasks.start_soon(relay.run)
        self._stack.callback(tasks.cancel_scope.cancel)
        return relay

    async def _close(self, *, flush: bool) -> None:
        relay, self._relay = self._relay, None
        if relay is not None and flush:
            with anyio.move_on_after(_FLUSH_SECONDS):
                await relay.flush()
        await self._stack.aclose()

    async def publish(self, topic: str, message: Sendable | Encodable, *, message_id: str | None = None) -> None:
        """Publish a message, and wait until the broker has accepted it. A call that is cancelled withdraws the message.

        Args:
            topic: the topic's name.
            message: text (str), bytes, or an object, such as a dict or a list; see `Topic.broadcast`.
            message_id: an id under which subscribers get the message once, however often it is published; by default a
                new one. See `Topic.broadcast`.

        Raises:
            BrokerUnavailable: the broker has not accepted the message.
            OutcomeUnknown: the broker may have accepted it; publish it again with the `message_id` of this exception.
            TopicError: the name is invalid, or the message is larger than the broker allows.
            TypeError: the message is neither text, bytes, nor an object with a form in the topic's codec.
            ValueError: a part of the object is out of the range of the topic's codec.
            ConfigurationError: the publisher is used outside of `async with`, or the id is invalid.
        """
        await self._publish(topic, message, message_id, math.inf, current_traceparent())

    async def _publish(
        self,
        topic: str,
        message: Sendable | Encodable,
        message_id: str | None,
        seconds: float,
        traceparent: str | None = None,
    ) -> None:
        """Publish a message within a number of seconds; see `publish`.

        Args:
            topic: the topic's name.
            message: the message.
            message_id: its id; None for a new one.
            seconds: for how long to wait.
            traceparent: the trace that the message belongs to; None for none.
        """
        relay = self._relay
        if relay is None:
            raise ConfigurationError("an AsyncPublisher publishes within `async with` only")
        if message_id is None:
            message_id = f"{self._origin}-{next(self._message_numbers)}"
        check_name(topic)
        check_message_id(message_id)
        content = content_to_publish(message, self._codecs.find(topic))
        acknowledgement: Acknowledgement | None = None
        late = f"{self._broker.name} has not answered within {seconds:g} seconds"
        try:
            with anyio.move_on_after(seconds):
                await relay.attempted.wait()
                # The number of a signed envelope is taken when it is queued, so that the numbers arrive in their order.
                data = self._encode(topic, content, message_id, traceparent)
                acknowledgement = relay.publish(topic, data, self._keep(topic, message_id))
                await acknowledgement
                return
            if acknowledgement is None:
                raise BrokerUnavailable(late)
            relay.withdraw(acknowledgement, late)
            await acknowledgement
        except OutcomeUnknown as exc:
            hint = f"the message may have been published; publish it again with message_id={message_id!r}"
            raise OutcomeUnknown(f"{exc}; {hint}", message_id) from None
        except anyio.get_cancelled_exc_class():
            if acknowledgement is not None:
                relay.withdraw(acknowledgement, "the call was cancelled")
            raise

    def _encode(self, topic: str, content: str | bytes, message_id: str, traceparent: str | None) -> bytes:
        envelope = Envelope(topic, content, self._origin, None, message_id)
        if not self._keys:
            return encode_envelope(envelope, None, traceparent)
        return encode_envelope(replace(envelope, number=next(self._numbers)), self._keys[0], traceparent)

    def _keep(self, topic: str, message_id: str) -> Keep | None:
        for rule in self._histories:
            if rule.pattern.matches(topic):
                return Keep((message_id, 0), rule.size, rule.seconds, rule.max_bytes)
        return None


class Publisher:
    """Publishes on topics from a program without an event loop.

        publisher = Publisher("redis://localhost")
        publisher.publish("news", "hello")

    The first message opens a connection, in a background thread. `close`, or the end of a `with` block, closes it. A
    publisher can be used from any thread, and in a forked child process, which gets a connection of its own. The child
    may be forked at any time, also while another thread publishes.

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
        self._codecs: list[tuple[str, Codec]] = []
        self._lock = threading.Lock()
        self._thread: _PublisherThread | None = None
        AsyncPublisher(**self._arguments)  # raises for invalid arguments now, not at the first message
        _publishers.add(self)

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
            ConfigurationError: the broker keeps no histories, or an argument is invalid.
        """
        AsyncPublisher(**self._arguments).history(pattern, size=size, seconds=seconds)  # raises for invalid arguments
        with self._lock:
            self._histories.append((pattern, size, seconds))
            if self._thread is not None:
                self._thread.publisher.history(pattern, size=size, seconds=seconds)

    def topic_codec(self, pattern: str, codec: Codec) -> None:
        """Declare in which codec topics carry objects. Use the same arguments as for `App.topic_codec` in the servers.

        Args:
            pattern: a topic's name, or a pattern such as "room:*".
            codec: such as `MessagePackCodec()`.

        Raises:
            ConfigurationError: an argument is invalid.
        """
        AsyncPublisher(**self._arguments).topic_codec(pattern, codec)  # raises for invalid arguments
        with self._lock:
            self._codecs.append((pattern, codec))
            if self._thread is not None:
                self._thread.publisher.topic_codec(pattern, codec)

    def publish(self, topic: str, message: Sendable | Encodable, *, message_id: str | None = None) -> None:
        """Publish a message, and block until the broker has accepted it, for `timeout` seconds at most.

        Args:
            topic: the topic's name.
            message: text (str), bytes, or an object, such as a dict or a list; see `Topic.broadcast`.
            message_id: an id under which subscribers get the message once, however often it is published; by default a
                new one. See `Topic.broadcast`.

        Raises:
            BrokerUnavailable: the broker has not accepted the message, and will not publish it later.
            OutcomeUnknown: the broker may have accepted it; publish it again with the `message_id` of this exception.
            TopicError: the name is invalid, or the message is larger than the broker allows.
            TypeError: the message is neither text, bytes, nor an object with a form in the topic's codec.
            ValueError: a part of the object is out of the range of the topic's codec.
            ConfigurationError: the id is invalid.
        """
        with self._lock:
            if self._thread is None:
                self._thread = self._start_thread()
            thread = self._thread
        thread.publish(topic, message, message_id, self._timeout)

    def _start_thread(self) -> _PublisherThread:
        publisher = AsyncPublisher(**self._arguments)
        for pattern, size, seconds in self._histories:
            publisher.history(pattern, size=size, seconds=seconds)
        for pattern, codec in self._codecs:
            publisher.topic_codec(pattern, codec)
        return _PublisherThread(publisher)

    def close(self) -> None:
        """Publish queued messages, close the connection and end the thread. Blocks for up to 7 seconds.

        A later `publish` opens a new connection.
        """
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop()

    def _begin_anew(self) -> None:
        """Begin anew in a forked child, where the thread does not run."""
        if self._thread is not None:
            _lost_threads.append(self._thread)
            self._thread = None


class _PublisherThread:
    """An `AsyncPublisher` in a thread with an event loop of its own, which connects in the background."""

    def __init__(self, publisher: AsyncPublisher) -> None:
        self.publisher = publisher
        self._portal: BlockingPortal
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="pywsapp publisher", daemon=True)
        self._thread.start()
        self._ready.result()

    def publish(self, topic: str, message: Sendable | Encodable, message_id: str | None, seconds: float) -> None:
        """Publish a message, see `Publisher.publish`."""
        arguments = topic, message, message_id, seconds, current_traceparent()  # of the calling thread
        try:
            call = self._portal.start_task_soon(self.publisher._publish, *arguments)
        except RuntimeError:
            raise BrokerUnavailable("the publisher was closed meanwhile") from None
        try:
            call.result()
        except BaseException:  # KeyboardInterrupt, or an exception that a signal handler raises
            call.cancel()
            raise

    def _run(self) -> None:
        try:
            anyio.run(self._serve)
        except BaseException as exc:
            if self._ready.done():
                raise
            self._ready.set_exception(exc)

    async def _serve(self) -> None:
        await self.publisher._open()
        async with BlockingPortal() as self._portal:
            self._ready.set_result(None)
            await self._portal.sleep_until_stopped()
        await self.publisher._close(flush=True)

    def stop(self) -> None:
        """Publish queued messages, close the connection, and wait for the end of the thread."""
        self._portal.call(self._portal.stop)
        self._thread.join()


def _ignore_message(topic: str, data: bytes, position: object) -> None:
    """Ignore a received message; a publisher subscribes to no topic, so there is none."""


#: The publishers of this process.
_publishers: WeakSet[Publisher] = WeakSet()
#: The threads of the parent process. They are referenced for ever, because the end of an object such as an event loop
#: would change an epoll that the parent uses.
_lost_threads: list[_PublisherThread] = []
#: Held by a thread that forks, with the locks of these publishers. So no publisher is starting its thread meanwhile, of
#: which the child would have a part, such as the lock of a module that is being imported.
_forking = threading.Lock()
_locked: list[Publisher] = []


def _before_fork() -> None:
    _forking.acquire()
    _locked[:] = _publishers
    for publisher in _locked:
        publisher._lock.acquire()


def _after_fork() -> None:
    for publisher in _locked:
        publisher._lock.release()
    _locked.clear()
    _forking.release()


def _after_fork_in_child() -> None:
    _after_fork()
    for publisher in _publishers:
        publisher._begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
