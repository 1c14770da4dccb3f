"""The runtime of connections that no App has: it starts with its first connection, on asyncio and uvloop."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from pywsapp._event_loop import call_at_end_of_turn
from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp._outbox.flushing import TurnFlusher
from pywsapp._server.runtime import Runtime
from pywsapp.exceptions import ConfigurationError
from pywsapp.options import Deflate, Options

_NEVER = float("inf")
#: `send` of ASGI waits while more than `Options.high_water` bytes are queued, so an outbox has no other limit.
_UNLIMITED = 1 << 62


class LoopRuntime(Runtime):
    """The connections of one server in the running event loop; their tasks are tasks of the loop.

    Args:
        options: the limits of the connections.

    Raises:
        ConfigurationError: the event loop is neither asyncio's nor uvloop's.
    """

    def __init__(self, options: Options) -> None:
        self.loop = asyncio.get_running_loop()
        check_loop(self.loop)
        super().__init__(options)
        self.flusher = TurnFlusher(call_at_end_of_turn())
        self._tasks: set[asyncio.Task[None]] = set()
        self._clock: asyncio.Task[None] | None = None  # exists while there are connections

    def add(self, connection: Lifecycle) -> None:
        """Add a connection, which is removed by `discard`."""
        self.connections.add(connection)
        if self._clock is None:
            self._clock = self.loop.create_task(self._enforce_time_limits())

    def discard(self, connection: Any) -> None:
        """Remove a connection that has ended."""
        super().discard(connection)
        if self._clock is not None and not self.connections:
            self._clock.cancel()
            self._clock = None

    def start_soon(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a task of the event loop."""
        task = self.loop.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


_runtimes: WeakKeyDictionary[Any, LoopRuntime] = WeakKeyDictionary()


def runtime_of(server: Any, options: Options) -> LoopRuntime:
    """Return the runtime of a server, which is made at its first connection.

    Args:
        server: what the connections of the server share.
        options: the limits of the connections.
    """
    runtime = _runtimes.get(server)
    if runtime is None:
        runtime = _runtimes[server] = LoopRuntime(options)
    return runtime


def check_running_loop() -> None:
    """Check the event loop, if one runs: uvicorn imports its protocol then.

    Raises:
        ConfigurationError: it is neither asyncio's nor uvloop's.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    check_loop(loop)


def check_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Check that an event loop is one of asyncio or uvloop, or a subclass of one.

    Raises:
        ConfigurationError: it is another one.
    """
    kind = type(loop)
    if isinstance(loop, asyncio.BaseEventLoop) or any(base.__module__.startswith("uvloop") for base in kind.__mro__):
        return
    raise ConfigurationError(
        f"pywsapp.asgi.uvicorn runs on asyncio and uvloop, not on {kind.__module__}.{kind.__qualname__}: "
        "start uvicorn with --loop asyncio or --loop uvloop"
    )


@functools.lru_cache(100)
def settings_of(
    options: Options,
    max_size: int,
    max_queue: int,
    ping_interval: float | None,
    ping_timeout: float | None,
    has_deflate: bool,
) -> Options:
    """Return options with the settings of a server in place of those that it has too.

    Args:
        options: the options.
        max_size: bytes of a message.
        max_queue: messages that wait for the application.
        ping_interval: seconds between pings; None or 0 sends none.
        ping_timeout: seconds in which a ping must be answered; None or 0 sets no limit.
        has_deflate: whether compression is used.
    """
    return replace(
        options,
        max_message_size=max_size,
        max_outbox=_UNLIMITED,
        max_queue=max(1, max_queue // 2),  # as many wait in the `Channel`
        ping_interval=ping_interval or None,
        ping_timeout=ping_timeout or _NEVER,
        deflate=(options.deflate or Deflate()) if has_deflate else None,
    )
