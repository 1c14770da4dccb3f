"""Functions of the application that are called for events: broadcast listeners, presence watchers and others.

A def is called at once, while the message is delivered. An async def, or a def marked with `in_thread`, has a task of
its own that calls it once for each message, in order. Up to `MAX_WAITING` calls wait for that task. When the queue is
full, the newest call is skipped: the *skip newest* policy, which is counted and logged.
"""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.lowlevel

from pywsapp._log_fields import log_fields
from pywsapp._signatures import check_no_function, check_takes, name_of
from pywsapp.exceptions import ConfigurationError
from pywsapp.topics.names import TopicPattern, without_included

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from pywsapp._trace_hooks import TraceHooks
    from pywsapp.topics.topic import Topic

logger = logging.getLogger("pywsapp")

#: Calls that wait for the task of one async function.
MAX_WAITING = 10_000

Function = Callable[..., Any]
FunctionT = TypeVar("FunctionT", bound=Function)
_Call = tuple[Any, ...]


class Listeners:
    """The functions for one kind of event, such as a user that goes offline. Services of the registry create them.

    Args:
        hook: the method of App that registers them, for messages.
        calls: what the calls carry, for logs: "messages".
        arguments: the names of the arguments of a function, for messages.

    Attributes:
        hook: the method of App.
    """

    def __init__(self, hook: str, calls: str, *arguments: str) -> None:
        self.hook = hook
        self._calls = calls
        self._arguments = arguments
        self._listeners: list[_Listener] = []
        self._running = False

    def __bool__(self) -> bool:
        return bool(self._listeners)

    @property
    def skipped(self) -> int:
        """The number of calls that were skipped because the queue of an async function was full."""
        return sum(listener.skipped for listener in self._listeners)

    def check_not_running(self, method: str) -> None:
        """Check that functions can be registered still.

        Args:
            method: the method of App that was called.

        Raises:
            ConfigurationError: the app is running already.
        """
        if self._running:
            raise ConfigurationError(f"App.{method} must be called before the app runs")

    def register(self, function: Function, pattern: str = "*") -> None:
        """Register a function; only `TopicListeners` have patterns.

        Raises:
            ConfigurationError: the pattern is invalid, the function takes other arguments, or the app is running
                already.
        """
        self.check_not_running(self.hook)
        check_takes(function, self._arguments, name_of(function))
        self._listeners.append(_Listener(TopicPattern(pattern), function, self._calls))

    def include(self, other: Listeners) -> None:
        """Register the functions of another app as well."""
        self._listeners += other._listeners

    def call_all(self, *event: Any) -> None:
        """Call all functions; their exceptions are logged."""
        for listener in self._listeners:
            listener.call(event)

    def start(self, tasks: TaskGroup, hooks: TraceHooks | None = None) -> None:
        """Start the tasks of async functions.

        Args:
            tasks: runs them.
            hooks: calls the functions in the contexts of the events; None without traces.
        """
        self._running = True
        if hooks is not None:
            self._listeners = [_traced(one, hooks) for one in self._listeners]
        for listener in self._listeners:
            if listener.is_async:
                listener.queue = deque()
                tasks.start_soon(listener.run)

    async def until_idle(self) -> None:
        """Wait until the calls of async functions have ended."""
        for listener in self._listeners:
            await listener.until_idle()

    def stop(self) -> None:
        """Accept no more calls of async functions; their tasks end with the task group."""
        self._running = False
        for listener in self._listeners:
            listener.queue = None


class TopicListeners(Listeners):
    """The functions for one kind of event on topics, such as broadcasts, each for the topics of a pattern.

    Args:
        hook: the method of App that registers them, for messages.
        calls: what the calls carry, for logs: "messages".
        arguments: the names of the arguments of a function behind the topic, for messages.
    """

    def __init__(self, hook: str, calls: str, *arguments: str) -> None:
        super().__init__(hook, calls, "topic", *arguments)

    @property
    def patterns(self) -> list[str]:
        """The smallest set of patterns that matches the same topics; no two of them match the same name."""
        return [pattern.text for pattern in without_included(listener.pattern for listener in self._listeners)]

    def add(self, pattern: str, function: Function) -> None:
        """Register a function for the topics of a pattern.

        Raises:
            ConfigurationError: the pattern is invalid, the function takes other arguments, or the app is running
                already.
        """
        self.register(function, pattern)

    def decorator(self, pattern: str) -> Callable[[FunctionT], FunctionT]:
        """Return a decorator that registers a function for the topics of a pattern.

        Raises:
            ConfigurationError: the decorator is used without a pattern, or the app is running already; the decorator
                raises it as `add` does.
        """
        check_no_function(pattern, f'@app.{self.hook}("room:*")')
        self.check_not_running(self.hook)

        def decorate(function: FunctionT) -> FunctionT:
            self.add(pattern, function)
            return function

        return decorate

    def covers(self, name: str) -> bool:
        """Return whether a function is registered for a topic."""
        for listener in self._listeners:  # noqa: SIM110 - faster than any(), mostly there is none
            if listener.pattern.matches(name):
                return True
        return False

    def call(self, topic: Topic, event: Any) -> None:
        """Call the functions that are registered for a topic; their exceptions are logged."""
        for listener in self._listeners:
            if listener.pattern.matches(topic.name):
                listener.call((topic, event))

    def call_without_event(self, topic: Topic) -> None:
        """Call the functions that are registered for a topic, and take nothing else."""
        for listener in self._listeners:
            if listener.pattern.matches(topic.name):
                listener.call((topic,))


class _Listener:
    """One function with its pattern, and the queue of its calls if it is async."""

    def __init__(self, pattern: TopicPattern, function: Function, calls: str) -> None:
        self.pattern = pattern
        self.is_async = any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))
        self.queue: deque[_Call] | None = None  # None while the app does not run
        self.skipped = 0
        self._function = function
        self._name = name_of(function)
        self._calls = calls
        self._event: anyio.Event | None = None  # while the task waits for a call
        self._idle: anyio.Event | None = None  # while the end of all calls is awaited

    def call(self, call: _Call) -> None:
        if self.is_async:
            self._enqueue(call)
            return
        try:
            self._function(*call)
        except Exception:
            self._log_failure()

    async def until_idle(self) -> None:
        if self.queue is not None and (self.queue or self._event is None):
            self._idle = anyio.Event()
            await self._idle.wait()

    def _enqueue(self, call: _Call) -> None:
        if self.queue is None:
            return
        if len(self.queue) >= MAX_WAITING:
            self.skipped += 1
            if self.skipped & (self.skipped - 1) == 0:  # at 1, 2, 4, 8, ...
                logger.warning(
                    "%s is too slow: skipped %d %s so far",
                    self._name,
                    self.skipped,
                    self._calls,
                    extra=log_fields("listener.too_slow", handler=self._name, count=self.skipped),
                )
            return
        self.queue.append(call)
        if self._event is not None:
            self._event.set()

    async def run(self) -> None:
        queue = self.queue
        assert queue is not None
        while True:
            if not queue:
                if self._idle is not None:
                    self._idle.set()
                self._event = anyio.Event()
                await self._event.wait()
                self._event = None
            call = queue.popleft()
            try:
                await self._function(*call)
            except Exception:
                self._log_failure()
            await anyio.lowlevel.checkpoint()  # a function that awaits nothing could keep the loop busy for ever

    def _log_failure(self) -> None:
        logger.exception("%s failed", self._name, extra=log_fields("listener.failed", handler=self._name))


class _TracedListener(_Listener):
    """A listener whose function is called in the context of the event, also if the call has waited."""

    def __init__(self, listener: _Listener, hooks: TraceHooks) -> None:
        function = hooks.around_listener(listener._function, is_async=listener.is_async)
        super().__init__(listener.pattern, function, listener._calls)
        self._name = listener._name
        self._note_context = hooks.note_context

    def call(self, call: _Call) -> None:
        super().call((self._note_context(), *call))


def _traced(listener: _Listener, hooks: TraceHooks) -> _Listener:
    """Return a listener that is called in the context of the event; the same one if it is already."""
    return listener if isinstance(listener, _TracedListener) else _TracedListener(listener, hooks)
