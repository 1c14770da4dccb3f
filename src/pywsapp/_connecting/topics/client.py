"""The public client of topics: one connection for many topics, which is opened again after each loss."""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from typing_extensions import Self, TypeVar

from pywsapp._connecting.topics.driver import State, TopicsDriver
from pywsapp._connecting.topics.message_queue import MessageQueue
from pywsapp._connecting.topics.subscription import OnLost, TopicSubscription
from pywsapp.exceptions import ConfigurationError, InvalidMessage
from pywsapp.protocols.client import ABSENT

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from pywsapp.codecs.base import Codec

#: The type of the data of a subscription's messages and of the result of a call, for type checkers.
T = TypeVar("T", default=Any)

#: The values of a field by which a filter can select messages.
Scalar = str | int | float | bool | None


class TopicsClient:
    """A client of the topics of a server, which `connect_topics` creates.

    It connects again after each loss, subscribes to its topics from where they were, and repeats published messages
    without a reply. `async with` connects; its end closes the client permanently. Use it in the thread of the event
    loop.
    """

    def __init__(self, make_driver: Callable[[], TopicsDriver], codec: Codec) -> None:
        self._make_driver = make_driver
        self._codec = codec
        self._started: TopicsDriver | None = None

    async def __aenter__(self) -> Self:
        """Connect, and wait until the server has accepted the client.

        Raises:
            HandshakeError: the server refused the handshake in a way that a repetition does not change.
            OSError: the server cannot be reached, and a limit of `Backoff` is exceeded.
            ConnectionClosed: the server does not want this client.
            CallError: the server does not accept `connect`, or not the token.
        """
        if self._started is not None:
            raise ConfigurationError("this connect_topics() was used before; call it again for another client")
        self._started = self._make_driver()
        await self._started.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is None or isinstance(exc, Exception):
            await self.close()
        else:
            await self._driver.abort()

    @property
    def _driver(self) -> TopicsDriver:
        if self._started is None:
            raise ConfigurationError("write `async with connect_topics(url) as topics:`, and use topics in the block")
        return self._started

    @property
    def state(self) -> State:
        """ "connecting", "open", "waiting" for the next attempt, or "closed" permanently."""
        return self._driver.state

    @property
    def reason(self) -> Exception | None:
        """Why the client waits or is closed; None while it is open, and after `close`."""
        return self._driver.reason

    @property
    def id(self) -> str | None:
        """The public id of the last connection."""
        return self._driver.client_id

    @property
    def user(self) -> str | None:
        """The key of the user; None for none."""
        return self._driver.user

    def states(self) -> AsyncIterator[State]:
        """Iterate over the state: the current one, and each later one, until "closed".

        A slow loop misses states that did not last.
        """
        return _States(self._driver)

    def subscribe(
        self,
        topic: str,
        *,
        since: str | None = ABSENT,
        presence: bool = False,
        track: Any = ABSENT,
        filter: Mapping[str, Sequence[Scalar]] | None = None,
        newest: str | bool = False,
        on_lost: OnLost | None = None,
        message_type: TypeForm[T] = Any,
        buffer: int = 1000,
    ) -> AbstractAsyncContextManager[TopicSubscription[T]]:
        """Subscribe to a topic for the time of a block: `async with topics.subscribe(topic) as subscription:`.

        Entering the block waits until the server has accepted the subscription.

        Args:
            topic: the name of the topic.
            since: what to get first: None for everything that the topic keeps, or a position for what comes after it.
                By default only new messages come.
            presence: keep `TopicSubscription.present` up to date.
            track: be present in the topic, with this value.
            filter: get only messages that are objects whose fields have one of these values; the server allows the
                fields.
            newest: if this client is slow, get only the newest message: of the topic (True), or for each value of a
                field (its name).
            on_lost: called in place of raising MessagesLost in the task that receives, with the position up to which
                messages are missing. It can be async; later messages wait for it.
            message_type: the type of the data of the messages: a class or a union. By default data comes as JSON or
                MessagePack has it.
            buffer: how many messages may wait for the program. One more ends the subscription with QueueFull.

        Raises:
            CallError: on entering, the server refuses it, with a code of the protocol.
            ConnectionClosed: on entering, the client is closed.
            ConfigurationError: the client has a subscription to the topic, or an argument is invalid.
            ValueError: the topic has half of a surrogate pair.
        """
        fields = {"since": since, "track": track}
        fields = {name: value for name, value in fields.items() if value is not ABSENT}
        if presence:
            fields["presence"] = True
        if newest:
            fields["newest"] = newest
        if filter is not None:
            fields["filter"] = {name: _values_of(name, values) for name, values in filter.items()}
        driver = self._driver
        convert = None if message_type is Any else self._codec.converter(message_type)
        driver.copied({"topic": topic})  # a topic that the codec has no form for would break each connection
        subscription: TopicSubscription[T] = TopicSubscription(
            driver, topic, driver.copied(fields), limit=buffer, convert=convert, on_lost=on_lost
        )
        return _subscribed(driver, subscription)

    def messages(self, *, buffer: int = 1000) -> AbstractAsyncContextManager[AsyncIterator[Any]]:
        """Get what the server sends to this client alone, or to its user, for the time of a block.

        `async with topics.messages() as messages: async for data in messages:`

        Args:
            buffer: how many messages may wait for the program. One more ends the iteration with QueueFull.

        Raises:
            ConnectionClosed: on entering, the client is closed.
        """
        return _direct(self._driver, MessageQueue(buffer))

    async def publish(
        self,
        topic: str,
        data: Any,
        *,
        key: str | None = None,
        timeout: float | None = 30,
    ) -> None:
        """Publish a message once, also if the connection is lost meanwhile; wait until the server has accepted it.

        Args:
            topic: the name of the topic.
            data: any value that the codec has a form for, except None; bytes come as bytes.
            key: names the message: 1 to 32 letters, digits and `. : - _`. A key that was used before publishes nothing
                more. By default it is random.
            timeout: seconds to wait for the reply, also while there is no connection; None sets no limit.

        Raises:
            CallError: the server refuses it, with a code of the protocol or of the program.
            CallTimeout: there was no reply in time; the message may have been published.
            QueueFull: too many requests wait; this one was not sent.
            ConnectionClosed: the client is closed.
            ConfigurationError: the data is None.
            TypeError: the codec has no form for the data.
        """
        if data is None:
            raise ConfigurationError("the data of a message cannot be None")
        key = secrets.token_hex(16) if key is None else key
        fields: dict[str, Any] = {"type": "publish", "topic": topic, "key": key}
        if isinstance(data, (bytes, bytearray, memoryview)):
            fields |= {"data": bytes(data)} if self._codec.is_binary else {"base64": b64encode(data).decode()}
        else:
            fields["data"] = data
        await self._driver.ask(fields, can_repeat=True, seconds=timeout)

    async def call(
        self,
        method: str,
        params: Any = None,
        *,
        timeout: float | None = 30,
        result_type: TypeForm[T] = Any,
    ) -> T:
        """Call a procedure of the server, and return its result.

        Args:
            method: the name of the procedure.
            params: its parameters: an object, or a list.
            timeout: seconds to wait for the reply, also while there is no connection; None sets no limit.
            result_type: the type of the result; by default it comes as JSON or MessagePack has it.

        Raises:
            CallError: the server answers with an error.
            CallTimeout: there was no reply in time; the procedure may have run.
            ConnectionClosed: the connection was lost before the reply; the procedure may have run. Or the client is
                closed.
            QueueFull: too many requests wait; this one was not sent.
            InvalidMessage: the result is of another type.
            TypeError: the codec has no form for the parameters.
        """
        convert = None if result_type is Any else self._codec.converter(result_type)
        fields = {"type": "call", "method": method} | ({} if params is None else {"params": params})
        reply = await self._driver.ask(fields, can_repeat=False, seconds=timeout)
        result: Any = reply.get("result")
        try:
            return result if convert is None else convert(result)  # type: ignore[no-any-return]
        except InvalidMessage as exc:
            raise InvalidMessage(exc.reason, f"$.result{exc.path[1:]}") from None

    def reconnect(self) -> None:
        """Connect now instead of waiting, for a button such as "Try again". A closed client stays closed."""
        self._driver.skip_pause()

    async def close(self) -> None:
        """Close the connection permanently, and wait until it has ended, `Options.close_timeout` at most."""
        driver = self._driver
        try:
            await driver.close()
        except BaseException:
            await driver.abort()
            raise

    def __repr__(self) -> str:
        return f"<TopicsClient {'not started' if self._started is None else self._started.state}>"


def _values_of(name: str, values: Sequence[Scalar]) -> list[Scalar]:
    if isinstance(values, (str, bytes)):
        raise ConfigurationError(f"the filter for {name!r} must be a list of values, not {values!r}")
    return list(values)


@asynccontextmanager
async def _subscribed(driver: TopicsDriver, subscription: TopicSubscription[T]) -> AsyncIterator[TopicSubscription[T]]:
    driver.add(subscription)
    try:
        await subscription._wait_subscribed()
        yield subscription
    finally:
        driver.leave(subscription)


@asynccontextmanager
async def _direct(driver: TopicsDriver, queue: MessageQueue[Any]) -> AsyncIterator[AsyncIterator[Any]]:
    driver.add_direct(queue)
    try:
        yield _DirectMessages(queue)
    finally:
        driver.remove_direct(queue)


class _States:
    """An iterator over the states of a client."""

    def __init__(self, driver: TopicsDriver) -> None:
        self._driver = driver
        self._seen: State | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> State:
        if self._seen == "closed":
            raise StopAsyncIteration
        while self._driver.state == self._seen:
            await self._driver.changed.wait()
        self._seen = self._driver.state
        return self._seen


class _DirectMessages:
    """An iterator over what the server sends to one client alone."""

    def __init__(self, queue: MessageQueue[Any]) -> None:
        self._queue = queue

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        with self._queue.receiving():
            if await self._queue.wait():
                return self._queue.items.popleft()
        raise StopAsyncIteration
