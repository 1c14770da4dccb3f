"""A subscription of a client, until the client has what it missed."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio

from pywsapp._outbox.awaitables import ALREADY_DONE
from pywsapp.brokers.base import Position
from pywsapp.protocols.errors import RequestError
from pywsapp.topics.delivery import form_of
from pywsapp.topics.history.recovery import Recovery

if TYPE_CHECKING:
    from pywsapp.protocols.client import TopicClient
    from pywsapp.topics.topic import Topic


class Subscribed(NamedTuple):
    """The answer to a client that has subscribed.

    Args:
        position: the client has all messages up to here; None if the topic keeps no history.
        complete: whether it has all messages since the position that it named; None if it named none.
        present: the users in the topic with their metas; None if it did not ask for them.
    """

    position: str | None
    complete: bool | None
    present: dict[str, Any] | None


class Subscription:
    """A subscription that has begun: the client is a subscriber of the topic. `TopicClient.subscribe` creates it.

    Args:
        client: the client.
        topic: the topic.
        received: awaited until the broker delivers the messages of the topic.
        since: the position after which the client gets what it has missed; None for everything that is kept.
        recovers: whether it gets what it has missed.
        presence: whether it gets the users in the topic, and the changes.
    """

    __slots__ = ("_client", "_ended", "_presence", "_received", "_recovers", "_since", "topic")

    def __init__(
        self,
        client: TopicClient,
        topic: Topic,
        received: Awaitable[None],
        *,
        since: Position | None,
        recovers: bool,
        presence: bool,
    ) -> None:
        self.topic = topic
        self._client = client
        self._received = received
        self._since = since
        self._recovers = recovers
        self._presence = presence
        self._ended = client._unfinished[topic.name] = anyio.Event()

    @property
    def must_wait(self) -> bool:
        """Whether `finish` takes time."""
        return self._recovers or self._received is not ALREADY_DONE

    async def finish(self) -> Subscribed:
        """Wait until the client has what it missed, and all further messages come.

        Nothing is awaited after the users in the topic have been read, so that the client gets all later changes.
        """
        topic, conn = self.topic, self._client.conn
        recovery: Recovery | None = None
        try:
            await self._received
            if self._recovers:
                recovery = await topic._send_missed(conn, self._since)
        except BaseException:
            self.undo()
            raise
        finally:
            self._end()
        if conn not in topic:
            raise RequestError("not_subscribed", "the subscription ended before it was complete")
        present = None
        form = form_of(conn)
        if self._presence and form is not None:
            shown = topic._registry.presence.show(topic.name, conn, form)
            present = {key: entry.meta for key, entry in shown.items()}
        if recovery is not None:
            return Subscribed(recovery.position, recovery.complete, present)
        position = None if topic.history is None else topic._registry.history.position(topic.name)
        return Subscribed(None if position is None else str(position), None, present)

    def undo(self) -> None:
        """End the subscription, because the request has failed."""
        self._end()
        if self._client.conn in self.topic:
            self._client.unsubscribe(self.topic.name)

    def _end(self) -> None:
        self._ended.set()
        if self._client._unfinished.get(self.topic.name) is self._ended:
            del self._client._unfinished[self.topic.name]
