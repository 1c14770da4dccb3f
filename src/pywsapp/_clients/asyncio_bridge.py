"""Clients of brokers that know only asyncio, under trio.

    async def connect(self, receive, patterns):
        return await connect_on_asyncio(self._connect, receive, patterns)

On asyncio and uvloop that is `await self._connect(receive, patterns)` and no more. On trio the connection lives on an
asyncio loop in a thread of its own, and what is given out is a `BridgedConnection`, which passes calls on to that
thread and what is received back. The thread ends with the connection.

A call becomes a task over there. Whoever waits for it in trio and is cancelled cancels the task, and does not wait for
its end: after that a connection is only good for being closed, and closing waits.

What is received goes into a queue that is emptied in trio's thread. One wake-up is under way at a time, so a burst
costs one switch between the threads and not one for each message. If trio does not keep up, the queue reaches its
bound, and `receive` waits in the asyncio thread. That loop has nothing else to do than this connection, so blocking it
is what makes it read no more: the socket's buffers fill, and the broker learns that we are slow. It goes on as soon as
trio turns again, for that is all it takes to empty the queue. So the waiting cannot deadlock: whatever in trio awaits
the asyncio thread, lets trio turn.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Any, TypeVar

import anyio

from pywsapp._event_loop import on_asyncio
from pywsapp.brokers.base import MIB, BrokerConnection, Kept, Outgoing, Position, Receive
from pywsapp.exceptions import BrokerUnavailable

T = TypeVar("T")
Connect = Callable[[Receive, Sequence[str]], Awaitable[BrokerConnection]]

#: What is received and not yet handed over; one message may exceed the bytes.
MAX_WAITING = 1000
MAX_WAITING_BYTES = 4 * MIB
#: Messages handed over before other tasks of trio get their turn.
_AT_ONCE = 100
#: Seconds that closing may take: the connection itself, and then its thread.
_CLOSE_SECONDS = 1.0
_END_SECONDS = 1.5


async def connect_on_asyncio(connect: Connect, receive: Receive, patterns: Sequence[str]) -> BrokerConnection:
    """Connect with a client that needs asyncio, whatever the event loop is.

    Args:
        connect: the client's `Broker.connect`. What it is given as `receive` is to be called in its loop's thread.
        receive: called in the thread of the event loop that this runs in.
        patterns: passed on.

    Raises:
        Exception: what `connect` raises.
    """
    if on_asyncio():
        return await connect(receive, patterns)
    bridge = BridgedConnection(receive)
    try:
        await bridge.connect(connect, patterns)
    except BaseException:
        await bridge.aclose()
        raise
    return bridge


class BridgedConnection(BrokerConnection):
    """A connection that lives on asyncio in another thread, used from trio.

    Args:
        receive: takes what comes, in trio's thread.
    """

    def __init__(self, receive: Receive) -> None:
        import trio

        self._run_in_trio = trio.lowlevel.current_trio_token().run_sync_soon
        self._receive = receive
        self._inner: BrokerConnection | None = None
        self._closed = False
        self._started, self._ended = anyio.Event(), anyio.Event()
        self._calls: set[asyncio.Task[Any]] = set()
        self._arrived: deque[tuple[str, bytes, Position | None]] = deque()
        self._bytes = 0
        self._waking = False  # a call of _hand_over is under way
        self._room = threading.Condition()
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._thread = threading.Thread(target=Context().run, args=[self._work], name="pywsapp broker", daemon=True)

    # -- trio's thread -----------------------------------------------------------------------------------------------

    async def connect(self, connect: Connect, patterns: Sequence[str]) -> None:
        """Start the thread and connect in it; to be closed also if this raises."""
        self._thread.start()
        with anyio.CancelScope(shield=True):  # a new thread takes no time, and closing needs its loop
            await self._started.wait()
        await self._call(self._connect, connect, patterns)

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        await self._call(self._connected.publish, messages)

    async def subscribe(self, topics: Sequence[str]) -> None:
        await self._call(self._connected.subscribe, topics)

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        await self._call(self._connected.unsubscribe, topics)

    async def read_history(self, topic: str, since: Position | None) -> Kept:
        return await self._call(self._connected.read_history, topic, since)

    async def wait_lost(self) -> None:
        await self._call(self._connected.wait_lost)

    async def aclose(self) -> None:
        with self._room:
            self._closed = True  # nothing is received any more
            self._arrived.clear()
            self._room.notify_all()
        if self._ended.is_set():
            return
        with suppress(RuntimeError):  # its loop is closed already
            self._loop.call_soon_threadsafe(self._stop.set)
        with anyio.move_on_after(_END_SECONDS, shield=True):
            await self._ended.wait()
            self._thread.join()

    @property
    def _connected(self) -> BrokerConnection:
        assert self._inner is not None, "connect has not succeeded"
        return self._inner

    async def _call(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        if self._closed:
            raise BrokerUnavailable("the connection is closed")
        done = anyio.Event()
        # in a context of its own, for ours says that this is trio
        future = Context().run(asyncio.run_coroutine_threadsafe, self._tracked(function, args), self._loop)
        future.add_done_callback(lambda _: self._in_trio(done.set))
        try:
            await done.wait()
        except BaseException:
            future.cancel()
            raise
        if future.cancelled():
            raise BrokerUnavailable("the connection is closed")
        return future.result()

    def _hand_over(self) -> None:
        self._waking = False  # first, so that what is appended from here on is not forgotten
        for _ in range(_AT_ONCE):
            with self._room:
                if self._closed or not self._arrived:
                    break
                message = self._arrived.popleft()
                self._bytes -= len(message[1])
                self._room.notify()
            self._receive(*message)
        else:
            self._wake()

    # -- the asyncio thread ------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            asyncio.run(self._serve())
        finally:
            self._in_trio(self._ended.set)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._in_trio(self._started.set)
        await self._stop.wait()
        for task in self._calls:
            task.cancel()
        if self._calls:
            await asyncio.wait(self._calls, timeout=_CLOSE_SECONDS)
        if self._inner is not None:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._inner.aclose(), _CLOSE_SECONDS)

    async def _connect(self, connect: Connect, patterns: Sequence[str]) -> None:
        self._inner = await connect(self._take, patterns)

    async def _tracked(self, function: Callable[..., Coroutine[Any, Any, T]], args: tuple[Any, ...]) -> T:
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        try:
            return await function(*args)
        finally:
            self._calls.discard(task)

    def _take(self, topic: str, data: bytes, position: Position | None) -> None:
        with self._room:
            while not self._closed and (len(self._arrived) >= MAX_WAITING or self._bytes >= MAX_WAITING_BYTES):
                self._room.wait()
            if self._closed:
                return
            self._arrived.append((topic, data, position))
            self._bytes += len(data)
        self._wake()

    # -- either thread -----------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if not self._waking:
            self._waking = True
            self._in_trio(self._hand_over)

    def _in_trio(self, function: Callable[[], object]) -> None:
        """Call something in trio's thread, soon."""
        with suppress(RuntimeError):  # trio has ended, and nobody waits for it any more
            self._run_in_trio(function)
