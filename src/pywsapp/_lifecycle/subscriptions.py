"""The topics that one connection subscribes to, and what is left to await of subscribing and unsubscribing."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from pywsapp._authorize import Authorize, authorizers_of
from pywsapp._lifecycle.authorization import CACHED_FOR_EACH, MIN_CACHED, TopicAuthorization
from pywsapp._lifecycle.error_report import await_reported
from pywsapp._log_fields import log_fields
from pywsapp._outbox.awaitables import LazyAwaitable, await_all
from pywsapp.component import MessageComponent
from pywsapp.exceptions import TopicError

if TYPE_CHECKING:
    from pywsapp._lifecycle.host import Host
    from pywsapp._lifecycle.lifecycle import Lifecycle
    from pywsapp.topics.topic import Topic

#: Starts a task that ends with the host of its connection.
StartSoon = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
#: The name of the limit.
MAX_TOPICS = "max_topics"
logger = logging.getLogger("pywsapp")


class Subscriptions:
    """The topics of one connection; its lifecycle creates them with the first one.

    An async `authorize` or `on_subscribe` can take its time, and a component can await several at once. A topic that
    waits for it counts as one of the topics, so that a client cannot make the server hold more than the limit.

    Args:
        lifecycle: awaits what async hooks return, and reports exceptions.
        component: its hooks are called.
        max_topics: how many topics there may be.
        start_soon: starts a task.

    Attributes:
        start_soon: starts a task.
        topics: the topics, in the order of subscribing, each with what `TopicAuthorization` notes of it.
        hooks: what async `on_unsubscribe` calls returned, in their order; the handler task awaits it.
        authorization: what `authorize` allows the connection; None if it has no `authorize`.
    """

    __slots__ = ("_component", "_lifecycle", "_max_topics", "_pending", "hooks", "start_soon", "topics")

    authorization: TopicAuthorization | None = None

    def __init__(
        self, lifecycle: Lifecycle, component: MessageComponent, max_topics: int, start_soon: StartSoon
    ) -> None:
        self.start_soon = start_soon
        self.topics: dict[Topic, Any] = {}
        self.hooks: deque[Awaitable[Any]] = deque()
        self._lifecycle = lifecycle
        self._component = component
        self._max_topics = max_topics
        self._pending = 0  # topics whose async `authorize` or `on_subscribe` is awaited

    @property
    def is_full(self) -> bool:
        """Whether there are as many topics as there may be."""
        return len(self.topics) + self._pending >= self._max_topics

    def _check(self) -> None:
        if self.is_full:
            self._lifecycle.exceeded(MAX_TOPICS)
            raise TopicError(f"a connection subscribes to at most {self._max_topics} topics")

    def ask(self, topic: Topic, *, history: bool = False) -> Any:
        """Call the hooks that decide about a topic; return what must be awaited, or what `on_subscribe` returned.

        Args:
            topic: the topic.
            history: ask also whether the connection may read the topic's history.

        Raises:
            TopicError: there are as many topics as there may be. Awaiting the result raises it too.
        """
        self._check()
        result = self._call_hooks(topic, history)
        return LazyAwaitable(lambda: self._wait(result)) if isinstance(result, Awaitable) else result

    def _call_hooks(self, topic: Topic, history: bool) -> Any:
        return self._component.on_subscribe(self._lifecycle.conn, topic)

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

    def remove(self, topic: Topic) -> None:
        """Remove a topic, and call `on_unsubscribe`; raises what that raises."""
        self.topics.pop(topic, None)
        result: Any = self._component.on_unsubscribe(self._lifecycle.conn, topic)
        if isinstance(result, Awaitable):
            self._await_soon(result)

    def leave(self) -> Awaitable[None] | None:
        """Unsubscribe from all topics at the end of the connection; return what must still be awaited."""
        conn, reports = self._lifecycle.conn, list[Awaitable[None] | None]()
        for topic in list(self.topics):
            try:
                topic.remove(conn)
            except BaseException as exc:
                reports.append(self._lifecycle.report(exc))
        while self.hooks:
            reports.append(await_reported(self._component, conn, self.hooks.popleft()))
        return await_all(reports)

    def report(self, exc: BaseException) -> None:
        """Call `on_error` for what was raised outside of a handler; log it if the connection has ended."""
        lifecycle = self._lifecycle
        if lifecycle.conn._driver is None:
            logger.error(
                "%s failed for %r",
                type(self._component).__name__,
                lifecycle.conn,
                exc_info=exc,
                extra=log_fields(
                    "handler.failed", lifecycle.conn, component=type(self._component).__name__, error=type(exc).__name__
                ),
            )
        elif (reported := lifecycle.report(exc)) is not None:
            self._await_soon(reported)

    def _await_soon(self, awaitable: Awaitable[Any]) -> None:
        self.hooks.append(awaitable)
        self._lifecycle.hooks_wait()


class AuthorizedSubscriptions(Subscriptions):
    """The topics of one connection that has an `authorize`.

    Args:
        lifecycle: as for `Subscriptions`.
        component: as for `Subscriptions`.
        max_topics: as for `Subscriptions`.
        authorizers: the functions to ask, the most specific one first.
        host: runs tasks.
    """

    __slots__ = ("authorization",)

    def __init__(
        self,
        lifecycle: Lifecycle,
        component: MessageComponent,
        max_topics: int,
        authorizers: tuple[Authorize, ...],
        host: Host,
    ) -> None:
        super().__init__(lifecycle, component, max_topics, host.start_soon)
        self.authorization = TopicAuthorization(
            lifecycle.conn,
            authorizers,
            component.on_subscribe,
            self.report,
            host.start_soon,
            self.topics,
            max(MIN_CACHED, CACHED_FOR_EACH * max_topics),
        )

    def _call_hooks(self, topic: Topic, history: bool) -> Any:
        assert self.authorization is not None
        return self.authorization.ask_subscribe(topic, history=history)

    def add(self, topic: Topic) -> None:
        """Add a topic, and note what `authorize` has just answered.

        Raises:
            TopicError: there are as many as there may be.
        """
        super().add(topic)
        assert self.authorization is not None
        self.authorization.subscribed(topic)


def make_subscriptions(
    lifecycle: Lifecycle,
    component: MessageComponent,
    max_topics: int,
    host: Host,
) -> Subscriptions:
    """Return the subscriptions of a connection, which has none yet."""
    authorizers = authorizers_of(component, lifecycle.conn.request)
    if not authorizers:
        return Subscriptions(lifecycle, component, max_topics, host.start_soon)
    return AuthorizedSubscriptions(lifecycle, component, max_topics, authorizers, host)
