"""Functions of the server that listen to topics, by patterns.

A def is called right where a message is delivered. An async def has a task of its own, which takes what waits for it in
order; what waits is bounded, and what does not fit any more is left out and said so.
"""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from pywsapp.topics.names import TopicPattern
    from pywsapp.topics.topic import Topic

logger = logging.getLogger("pywsapp")

#: Messages that may wait for one async listener.
MAX_WAITING = 10_000

Handler = Callable[["Topic", Any], Any]
_Call = tuple["Topic", Any]


class TopicListeners:
    """The listeners of one app in one process."""

    def __init__(self) -> None:
        self._listeners: list[_Listener] = []

    @property
    def patterns(self) -> list[str]:
        """What is listened to: the fewest patterns that match all of it, and no two of them the same name."""
        patterns = {listener.pattern.text: listener.pattern for listener in self._listeners}.values()
        return [
            one.text
            for one in patterns
            if not any(other is not one and other.matches(one.prefix or one.text) for other in patterns)
        ]

    def add(self, pattern: TopicPattern, handler: Handler) -> None:
        """Add one."""
        self._listeners.append(_Listener(pattern, handler))

    def adopt(self, other: TopicListeners) -> None:
        """Add the listeners of another App."""
        self._listeners += other._listeners

    def cover(self, name: str) -> bool:
        """Tell whether a topic is listened to."""
        return any(listener.pattern.matches(name) for listener in self._listeners)

    def tell(self, topic: Topic, message: str | bytes) -> None:
        """Call whoever listens to the topic; what a listener raises is logged."""
        for listener in self._listeners:
            if listener.pattern.matches(topic.name):
                listener.take((topic, message))

    def start(self, tasks: TaskGroup) -> None:
        """Let async listeners run."""
        for listener in self._listeners:
            if listener.is_async:
                listener.queue = deque()
                tasks.start_soon(listener.run)

    def stop(self) -> None:
        """Let them take nothing more."""
        for listener in self._listeners:
            listener.queue = None


class _Listener:
    def __init__(self, pattern: TopicPattern, handler: Handler) -> None:
        self.pattern = pattern
        self.is_async = any(map(inspect.iscoroutinefunction, (handler, type(handler).__call__)))
        self.queue: deque[_Call] | None = None
        self._handler = handler
        self._event: anyio.Event | None = None
        self._left_out = 0

    def take(self, call: _Call) -> None:
        if not self.is_async:
            try:
                self._handler(*call)
            except Exception:
                self._log()
        elif self.queue is None:
            return  # the app does not run
        elif len(self.queue) < MAX_WAITING:
            self.queue.append(call)
            if self._event is not None:
                self._event.set()
        else:
            self._left_out += 1
            if self._left_out & (self._left_out - 1) == 0:
                logger.warning("%s is too slow: left %d messages out so far", self._name, self._left_out)

    async def run(self) -> None:
        queue = self.queue
        assert queue is not None
        while True:
            if not queue:
                self._event = anyio.Event()
                await self._event.wait()
                self._event = None
            call = queue.popleft()
            try:
                await self._handler(*call)
            except Exception:
                self._log()
            await anyio.lowlevel.checkpoint()  # it may not wait for anything, and find more to do for ever

    @property
    def _name(self) -> str:
        return str(getattr(self._handler, "__qualname__", self._handler))

    def _log(self) -> None:
        logger.exception("%s failed", self._name)
