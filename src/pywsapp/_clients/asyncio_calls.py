"""Calls of a client library that needs asyncio, from any event loop.

    calls = AsyncioCalls("pywsapp sessions", close=client.close, forget=client.forget)
    answer = await calls.call(client.ask, "question")
    await calls.aclose()

On asyncio and uvloop a call is `await client.ask("question")` and no more. On trio it runs in an `AsyncioThread`, which
the first call starts. An object can be used in several event loops one after the other; connections of a loop that has
ended are forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import anyio

from pywsapp._clients.asyncio_thread import AsyncioThread, AsyncioThreadStopped
from pywsapp._event_loop import on_asyncio

T = TypeVar("T")


class AsyncioCalls:
    """Runs coroutine functions on asyncio, whatever the event loop of the caller is.

    Args:
        name: the name of the thread under trio.
        close: closes all connections; runs on asyncio.
        forget: drops everything that belongs to an event loop; called before the first call in another one.
    """

    def __init__(self, name: str, *, close: Callable[[], Awaitable[None]], forget: Callable[[], None]) -> None:
        self._name = name
        self._close = close
        self._forget = forget
        self._loop: object = None  # the event loop of asyncio, or the run of trio, of the last call
        self._thread: AsyncioThread | None = None
        self._is_started: anyio.Event

    async def call(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Run a coroutine function on asyncio, and return its result.

        Raises:
            ConnectionError: `aclose` was called meanwhile.
            Exception: whatever the function raises.
        """
        if on_asyncio():
            self._enter(asyncio.get_running_loop())
            return await function(*args)
        thread = await self._thread_here()
        try:
            return await thread.call(function, *args)
        except AsyncioThreadStopped:
            raise ConnectionError("the connection is closed") from None

    def _enter(self, loop: object) -> None:
        if self._loop is not loop:
            self._loop, self._thread = loop, None
            self._forget()

    async def _thread_here(self) -> AsyncioThread:
        import trio

        self._enter(trio.lowlevel.current_trio_token())
        if self._thread is None:
            self._thread, self._is_started = AsyncioThread(self._name, cleanup=self._close), anyio.Event()
            try:
                await self._thread.start()
            finally:
                self._is_started.set()
        thread = self._thread
        await self._is_started.wait()
        return thread

    async def aclose(self) -> None:
        """Close the connections, and end the thread. A later call begins anew. Never raises."""
        thread, self._thread = self._thread, None
        self._loop = None
        if thread is not None:
            await thread.stop()
        elif on_asyncio():
            with suppress(Exception):
                await self._close()
        self._forget()
