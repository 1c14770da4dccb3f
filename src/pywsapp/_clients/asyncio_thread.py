"""An asyncio event loop in a thread of its own, for client libraries that need asyncio in a program that runs trio.

    thread = AsyncioThread("pywsapp broker", cleanup=client.close)
    await thread.start()
    answer = await thread.call(client.ask, "question")
    await thread.stop()

Each call becomes a task of the asyncio loop. When its caller in trio is cancelled, the task is cancelled too, but the
caller does not wait for the end of the task. Only `stop` waits.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from typing import Any, TypeVar

import anyio

T = TypeVar("T")

#: Seconds that `stop` waits for cancelled calls, and again for `cleanup`.
_CLEANUP_SECONDS = 1.0
#: Seconds that `stop` waits for the thread.
_STOP_SECONDS = 1.5


class AsyncioThreadStopped(Exception):
    """The thread was stopped before or during a call."""


class AsyncioThread:
    """A thread that runs an asyncio event loop. Create it in trio; only `run_in_trio` may be called from its thread.

    Args:
        name: the name of the thread.
        cleanup: awaited in the asyncio loop when the thread stops, after all calls have been cancelled. It is cancelled
            after 1 second.
    """

    def __init__(self, name: str, *, cleanup: Callable[[], Awaitable[None]]) -> None:
        import trio

        self._run_sync_soon = trio.lowlevel.current_trio_token().run_sync_soon
        self._cleanup = cleanup
        self._stopping = False
        self._started, self._ended = anyio.Event(), anyio.Event()
        self._calls: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event
        # In an empty context, because the context of this task says that trio is running.
        self._thread = threading.Thread(target=Context().run, args=[self._run], name=name, daemon=True)

    # -- called in trio ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the thread, and wait until its event loop runs. Call `stop` even if this raises."""
        self._thread.start()
        with anyio.CancelScope(shield=True):  # a thread starts at once, and `stop` needs its event loop
            await self._started.wait()

    async def call(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Run a coroutine function in the asyncio loop, and return its result.

        Raises:
            AsyncioThreadStopped: the thread was stopped before or during the call.
            Exception: whatever the function raises.
        """
        if self._stopping or self._loop is None:
            raise AsyncioThreadStopped
        done = anyio.Event()
        future = Context().run(asyncio.run_coroutine_threadsafe, self._tracked(function, args), self._loop)
        future.add_done_callback(lambda _: self.run_in_trio(done.set))
        try:
            await done.wait()
        except BaseException:
            future.cancel()
            raise
        if future.cancelled():
            raise AsyncioThreadStopped
        return future.result()

    async def stop(self) -> None:
        """Cancel all calls, run `cleanup` and end the thread. Takes 1.5 seconds at most, also when it is cancelled."""
        self._stopping = True
        if self._loop is None or self._ended.is_set():
            return
        with suppress(RuntimeError):  # the event loop is closed already
            self._loop.call_soon_threadsafe(self._stop.set)
        with anyio.move_on_after(_STOP_SECONDS, shield=True):
            await self._ended.wait()
            self._thread.join()

    # -- called in the asyncio thread --------------------------------------------------------------------------------

    def run_in_trio(self, function: Callable[[], object]) -> None:
        """Call a function in the thread of trio, soon. Does nothing after trio has ended."""
        with suppress(RuntimeError):  # trio has ended, so no task waits for the call
            self._run_sync_soon(function)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        finally:
            self.run_in_trio(self._ended.set)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.run_in_trio(self._started.set)
        await self._stop.wait()
        for task in self._calls:
            task.cancel()
        if self._calls:
            await asyncio.wait(self._calls, timeout=_CLEANUP_SECONDS)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._cleanup(), _CLEANUP_SECONDS)

    async def _tracked(self, function: Callable[..., Coroutine[Any, Any, T]], args: tuple[Any, ...]) -> T:
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        try:
            return await function(*args)
        finally:
            self._calls.discard(task)
