"""The topics that one connection subscribes to, and what is left to await of subscribing and unsubscribing."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING, Any

from pywsapp._lifecycle.error_report import await_reported, report_error
from pywsapp._outbox.awaitables import await_all
from pywsapp.exceptions import TopicError

if TYPE_CHECKING:
    from pywsapp.component import MessageComponent
    from pywsapp.connection import Connection, Driver
    from pywsapp.topics.topic import Topic

#: The name of the limit.
MAX_TOPICS = "max_topics"


class Subscriptions:
    """The topics of one connection.

    An async `on_subscribe` can take its time, and a component can await several at once. A topic that waits for it
    counts as one of the topics, so that a client cannot make the server hold more of them than the limit.

    Args:
        driver: the driver of the connection, which counts what exceeds the limit.
        max_topics: how many there may be.

    Attributes:
        topics: the topics, in the order of subscribing.
        hooks: what async `on_unsubscribe` calls returned, in their order; the handler task awaits it.
    """

    __slots__ = ("_driver", "_max_topics", "_pending", "hooks", "topics")

    def __init__(self, driver: Driver, max_topics: int) -> None:
        self.topics: dict[Topic, None] = {}
        self.hooks: deque[Awaitable[Any]] = deque()
        self._driver = driver
        self._max_topics = max_topics
        self._pending = 0  # topics whose async `on_subscribe` is awaited

    def _check(self) -> None:
        if len(self.topics) + self._pending >= self._max_topics:
            self._driver.exceeded(MAX_TOPICS)
            raise TopicError(f"a connection subscribes to at most {self._max_topics} topics")

    def ask(self, component: MessageComponent, conn: Connection, topic: Topic) -> Any:
        """Call `on_subscribe` of a component; return what must be awaited, or what it returned.

        Raises:
            TopicError: there are as many topics as there may be. Awaiting the result raises it too.
        """
        self._check()
        result: Any = component.on_subscribe(conn, topic)
        return self._wait(result) if isinstance(result, Awaitable) else result

    async def _wait(self, asked: Awaitable[Any]) -> Any:
        try:
            self._check()
        except TopicError:
            if isinstance(asked, Coroutine):
                asked.close()
            raise
        self._pending += 1
        try:
            return await asked
        finally:
            self._pending -= 1

    def add(self, topic: Topic) -> None:
        """Add a topic.

        Raises:
            TopicError: there are as many as there may be.
        """
        self._check()
        self.topics[topic] = None

    def remove(self, component: MessageComponent, conn: Connection, topic: Topic) -> bool:
        """Remove a topic, and call `on_unsubscribe` of a component; return whether `hooks` has more to await."""
        self.topics.pop(topic, None)
        result: Any = component.on_unsubscribe(conn, topic)
        if not isinstance(result, Awaitable):
            return False
        self.hooks.append(result)
        return True

    def leave(self, component: MessageComponent, conn: Connection) -> Awaitable[None] | None:
        """Unsubscribe from the remaining topics; return what must still be awaited."""
        reports: list[Awaitable[None] | None] = []
        for topic in tuple(self.topics):
            try:
                topic.remove(conn)
            except BaseException as exc:
                reports.append(report_error(component, conn, exc))
        while self.hooks:
            reports.append(await_reported(component, conn, self.hooks.popleft()))
        return await_all(reports)
