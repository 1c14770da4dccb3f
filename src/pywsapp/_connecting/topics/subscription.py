"""A subscription of a client of topics: its messages, its position, and the users who are present."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic

import anyio
from typing_extensions import Self, TypeVar

from pywsapp._connecting.topics.bell import Bell
from pywsapp._connecting.topics.message_queue import MessageQueue
from pywsapp._connecting.topics.messages import Fields, data_of, keys_of, size_of_user, users_of
from pywsapp.exceptions import CallError, ConfigurationError, ConnectionClosed, InvalidMessage, MessagesLost, QueueFull
from pywsapp.options import Options
from pywsapp.topics.presence.topic_presence import PresenceDiff

if TYPE_CHECKING:
    from pywsapp._connecting.topics.driver import TopicsDriver

#: The type of the data of the messages, for type checkers.
DataT = TypeVar("DataT", default=Any)

#: Called with the position up to which messages are lost.
OnLost = Callable[[str | None], Awaitable[object] | object]
Convert = Callable[[Any], Any]

#: Bytes of the users in one topic whom a client keeps, as on a server: a server that makes users up, or large values,
#: must not fill its memory.
MAX_PRESENT_BYTES = Options().max_presence_bytes


class TopicMessage(Generic[DataT]):
    """A message of a topic.

    Attributes:
        topic: the name of the topic.
        data: what was published; `bytes` for bytes.
        position: its place in the history; None for a topic without one.
    """

    __slots__ = ("data", "position", "topic")

    def __init__(self, topic: str, data: DataT, position: str | None) -> None:
        self.topic = topic
        self.data = data
        self.position = position

    def __repr__(self) -> str:
        return f"TopicMessage(topic={self.topic!r}, data={self.data!r}, position={self.position!r})"


class _Lost:
    """The place in the queue where messages are missing."""

    __slots__ = ("position",)

    def __init__(self, position: str | None) -> None:
        self.position = position


class TopicSubscription(Generic[DataT]):
    """A subscription to one topic, which `TopicsClient.subscribe` creates.

    `async for message in subscription` gets its messages, over all connections. The loop ends when the subscription is
    over. One task receives at a time.

    Args:
        driver: the driver of the client.
        topic: the name of the topic.
        fields: the fields of the request: `since`, `presence`, `track`, `filter`, `newest`.
        limit: how many messages may wait.
        convert: makes the data of a message an object; None leaves it as it is.
        on_lost: called in place of raising MessagesLost.
    """

    def __init__(
        self,
        driver: TopicsDriver,
        topic: str,
        fields: Fields,
        *,
        limit: int,
        convert: Convert | None,
        on_lost: OnLost | None,
    ) -> None:
        self._driver = driver
        self._topic = topic
        self._fields = fields
        self._convert = convert
        self._on_lost = on_lost
        self._queue: MessageQueue[TopicMessage[Any] | _Lost] = MessageQueue(limit)
        self._received: str | None = None  # the position up to which everything has arrived
        self._taken: str | None = fields.get("since")  # and up to which the program has taken it
        self._present: dict[str, Any] = {}
        self._sizes: dict[str, int] = {}  # bytes of each user who is present
        self._present_bytes = 0
        self._bell = Bell()  # rings when the state or the users change
        self._is_subscribed = False
        self._is_sent = False  # on the current connection

    # -- for the program ---------------------------------------------------------------------------------------------

    @property
    def topic(self) -> str:
        """The name of the topic."""
        return self._topic

    @property
    def is_subscribed(self) -> bool:
        """Whether the server has accepted the subscription on the current connection."""
        return self._is_subscribed

    @property
    def position(self) -> str | None:
        """The position up to which the program has received everything; None for a topic without a history.

        It is the position of the last message that was taken from the queue, so a program can keep it, and go on with
        `subscribe(topic, since=position)` after a restart.
        """
        return self._taken if self._queue.items or self._received is None else self._received

    @property
    def present(self) -> Mapping[str, Any]:
        """The users in the topic: what they track, by their keys. It shows the latest known state."""
        return MappingProxyType(self._present)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TopicMessage[DataT]:
        message = await self._take()
        if message is None:
            raise StopAsyncIteration
        return message

    async def receive(self, *, timeout: float | None = None) -> TopicMessage[DataT]:  # noqa: ASYNC109 - of one message
        """Wait for the next message, and return it. Cancelling it loses no message.

        Args:
            timeout: seconds to wait at most; None sets no limit.

        Raises:
            MessagesLost: messages are missing before the next one. You can receive again.
            TimeoutError: no message came in time. You can receive again.
            InvalidMessage: the data is not of the `message_type`. You can receive again.
            QueueFull: the program has received too slowly, or the users who are present take too much memory; the
                subscription has ended.
            CallError: the server has ended the subscription.
            ConnectionClosed: the subscription or the client is over.
            ConfigurationError: another task is waiting.
        """
        try:
            with anyio.fail_after(timeout):
                message = await self._take()
        except TimeoutError:
            raise TimeoutError(f"no message within {timeout} seconds") from None
        if message is None:
            raise self._over()
        return message

    def presence_changes(self) -> AsyncIterator[PresenceDiff]:
        """Iterate over the changes of `present`: `async for change in subscription.presence_changes():`.

        The first one has everyone who is present then. A slow loop gets several changes as one. The loop ends with the
        subscription, in the same way as one over its messages.

        Raises:
            ConfigurationError: the subscription is one without `presence=True`.
        """
        if not self._fields.get("presence"):
            raise ConfigurationError("presence_changes() needs subscribe(topic, presence=True)")
        return _PresenceChanges(self._present, self._bell, self._queue)

    async def track(self, meta: Any) -> None:
        """Be present in the topic, now and after each reconnect.

        Args:
            meta: what others see of the user: a value of JSON of 4 KiB at most.

        Raises:
            CallError: the server refuses it.
            ConnectionClosed: the subscription or the client is over.
            TypeError: the codec has no form for it.
        """
        fields = self._driver.copied({"type": "track", "topic": self._topic, "meta": meta})
        before, tracking = self._fields, {**self._fields, "track": fields["meta"]}
        self._fields = tracking
        try:
            await self._driver.change_presence(self, fields)
        except CallError:
            if self._fields is tracking:  # and no later change has replaced it
                self._fields = before  # or the next connection could not subscribe
            raise

    async def untrack(self) -> None:
        """Be present no longer.

        Raises:
            CallError: the server refuses it.
            ConnectionClosed: the subscription or the client is over.
        """
        self._fields = {name: value for name, value in self._fields.items() if name != "track"}
        await self._driver.change_presence(self, {"type": "untrack", "topic": self._topic})

    def __repr__(self) -> str:
        return f"<TopicSubscription {self._topic!r} at {self.position}>"

    # -- for the driver ----------------------------------------------------------------------------------------------

    def _over(self) -> ConnectionClosed:
        """Return the exception for the use of a subscription that has ended."""
        return ConnectionClosed(f"the subscription to {self._topic!r} is over")

    async def _wait_subscribed(self) -> None:
        """Wait until the server has accepted the subscription once.

        Raises:
            Exception: it has ended before, and no message waits.
        """
        while not self._is_subscribed:
            if self._queue.has_ended:
                if self._queue.items:  # what the topic keeps is more than the buffer
                    return
                raise self._queue.failure or ConnectionClosed("the client is closed")
            await self._bell.wait()

    def _request(self) -> Fields:
        """Return the fields of the request for the current connection."""
        self._is_sent = True
        fields = {"type": "subscribe", "topic": self._topic, **self._fields}
        if self._received is not None:
            fields["since"] = self._received
        return fields

    def _accepted(self, fields: Fields) -> None:
        """Note that the server has accepted the subscription."""
        self._advance(fields.get("position"))
        self._is_subscribed = True
        if "present" in fields:
            self._leave(list(self._present))
            self._join(users_of(fields, "present"))
        self._bell.ring()

    def _disconnected(self) -> None:
        self._is_subscribed = self._is_sent = False

    def _forget_position(self) -> bool:
        """Forget a position that the server refuses; return whether there was one."""
        if self._received is None:
            return False
        self._received = None
        self._fields.pop("since", None)
        self._put(_Lost(None))
        return True

    def _receive(self, fields: Fields) -> None:
        """Handle a message of the server for this topic."""
        kind, position = fields["type"], fields.get("position")
        if kind == "message":
            self._put(TopicMessage(self._topic, data_of(fields), position))
        elif kind == "lost":
            self._put(_Lost(position))
        else:
            joined, changed = users_of(fields, "joined"), users_of(fields, "changed")
            self._leave(keys_of(fields, "left"))
            self._join(joined | changed)
            self._bell.ring()

    def _join(self, users: Mapping[str, Any]) -> None:
        """Note users who are present. If they take too much memory, the subscription ends, without any of them.

        Raises:
            BrokenProtocol: a meta is nested too deeply.
        """
        sizes = {key: size_of_user(key, meta) for key, meta in users.items()}
        replaced = sum(self._sizes.get(key, 0) for key in users)
        size = self._present_bytes + sum(sizes.values()) - replaced
        if size > MAX_PRESENT_BYTES:
            reason = f"the users in {self._topic!r} take more than {MAX_PRESENT_BYTES:,} bytes"
            self._driver.leave(self, QueueFull(reason))
            return
        self._present_bytes = size
        self._sizes |= sizes
        self._present |= users

    def _leave(self, keys: Iterable[str]) -> None:
        """Note users who are present no longer."""
        for key in keys:
            self._present.pop(key, None)
            self._present_bytes -= self._sizes.pop(key, 0)

    def _advance(self, position: str | None) -> None:
        if position is not None:
            if not self._queue.items:
                self._taken = position
            self._received = position

    def _put(self, item: TopicMessage[Any] | _Lost) -> None:
        if self._queue.is_full:
            self._driver.leave(self, QueueFull(f"too many messages of {self._topic!r} wait: the program is too slow"))
            return
        if not self._queue.items and self._received is not None:
            self._taken = self._received
        self._queue.append(item)
        if item.position is not None:
            self._received = item.position

    def _end(self, failure: Exception | None) -> None:
        """End the subscription; what waits can still be received."""
        self._queue.end(failure)
        self._is_subscribed = self._is_sent = False
        self._bell.ring()

    async def _take(self) -> TopicMessage[DataT] | None:
        """Wait for the next message, and remove it from the queue; return None if the subscription is over.

        Raises:
            Exception: see `receive`.
        """
        with self._queue.receiving():
            while await self._queue.wait():
                # Nothing is awaited between the message and its removal, or a cancellation would lose it.
                item = self._queue.items[0]
                if isinstance(item, TopicMessage):
                    self._remove(item)
                    return self._converted(item)
                if self._on_lost is None:
                    self._remove(item)
                    raise MessagesLost(self._topic, item.position)
                called = self._on_lost(item.position)
                if inspect.isawaitable(called):
                    await called
                self._remove(item)
        return None

    def _remove(self, item: TopicMessage[Any] | _Lost) -> None:
        self._queue.items.popleft()
        if item.position is not None or isinstance(item, _Lost):
            self._taken = item.position

    def _converted(self, message: TopicMessage[Any]) -> TopicMessage[DataT]:
        if self._convert is not None:
            try:
                message.data = self._convert(message.data)
            except InvalidMessage as exc:
                raise InvalidMessage(exc.reason, f"$.data{exc.path[1:]}") from None
        return message


class _PresenceChanges:
    """An iterator over the changes of the users in a topic."""

    def __init__(self, present: Mapping[str, Any], bell: Bell, queue: MessageQueue[Any]) -> None:
        self._present = present
        self._bell = bell
        self._queue = queue
        self._seen: dict[str, Any] = {}

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> PresenceDiff:
        while (diff := _difference(self._seen, self._present)) is None:
            if self._queue.has_ended:
                self._queue.raise_failure()
                raise StopAsyncIteration
            await self._bell.wait()
        self._seen = dict(self._present)
        return diff


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> PresenceDiff | None:
    """Return what has changed; None for nothing."""
    diff = PresenceDiff(
        joined={key: meta for key, meta in now.items() if key not in before},
        left={key: meta for key, meta in before.items() if key not in now},
        changed={key: (before[key], meta) for key, meta in now.items() if key in before and before[key] != meta},
    )
    return diff if diff.joined or diff.left or diff.changed else None
