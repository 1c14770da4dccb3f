"""Brokers whose client library needs asyncio, under trio.

    async def connect(self, receive, patterns):
        return await connect_on_asyncio(self._connect, receive, patterns)

On asyncio and uvloop this is `await self._connect(receive, patterns)` and no more. On trio the connection lives in an
`AsyncioThread`, and the caller gets a `BridgedConnection`. It passes calls to that thread, and received messages back.
The thread ends with the connection.

Received messages go into a queue, which is emptied in the thread of trio. At most one wake-up is on its way, so a burst
of messages costs one switch between the threads, not one for each message.

When trio does not keep up, the queue reaches its bound, and `receive` blocks the asyncio thread. That is intended: this
connection is all that the thread serves, so blocking it stops the reading. The buffers of the socket fill, and the
broker notices a slow reader. Trio empties the queue in its next turn, and no code in trio blocks while it waits for the
asyncio thread, so the two threads cannot deadlock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from pywsapp._clients.asyncio_thread import AsyncioThread, AsyncioThreadStopped
from pywsapp._event_loop import on_asyncio
from pywsapp.brokers.base import MIB, BrokerConnection, Kept, Outgoing, Position, Receive
from pywsapp.exceptions import BrokerUnavailable

T = TypeVar("T")
Connect = Callable[[Receive, Sequence[str]], Awaitable[BrokerConnection]]

#: Bounds of the queue of received messages; one message may exceed the number of bytes.
MAX_QUEUED = 1000
MAX_QUEUED_BYTES = 4 * MIB
#: Messages that are delivered before other tasks of trio get their turn.
_MESSAGES_PER_TURN = 100


async def connect_on_asyncio(connect: Connect, receive: Receive, patterns: Sequence[str]) -> BrokerConnection:
    """Connect with a client library that needs asyncio, on any event loop.

    Args:
        connect: the `Broker.connect` of the client library. It always runs on asyncio, and calls its own `receive` in
            the thread of its event loop.
        receive: called in the thread of the event loop that runs this function.
        patterns: passed on to `connect`.

    Raises:
        Exception: whatever `connect` raises.
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
        receive: called with each received message in the thread of trio.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._thread = AsyncioThread("pywsapp broker", cleanup=self._close_inner)
        self._inner: BrokerConnection | None = None
        self._queue: deque[tuple[str, bytes, Position | None]] = deque()
        self._queued_bytes = 0
        self._closed = False
        #: Guards the queue and `_closed`; notified when the queue shrinks.
        self._queue_changed = threading.Condition()
        self._wake_up_sent = False  # a call of _deliver is on its way

    # -- called in trio ----------------------------------------------------------------------------------------------

    async def connect(self, connect: Connect, patterns: Sequence[str]) -> None:
        """Start the thread and connect in it. Call `aclose` even if this raises."""
        await self._thread.start()
        await self._call(self._connect_inner, connect, patterns)

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        await self._call(self._connected.publish, messages)

    async def subscribe(self, topics: Sequence[str]) -> None:
        await self._call(self._connected.subscribe, topics)

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        await self._call(self._connected.unsubscribe, topics)

    async def read_history(self, topic: str, since: Position | None, max_bytes: int | None = None) -> Kept:
        return await self._call(self._connected.read_history, topic, since, max_bytes)

    async def wait_lost(self) -> None:
        await self._call(self._connected.wait_lost)

    async def aclose(self) -> None:
        with self._queue_changed:
            self._closed = True  # no message is delivered from here on
            self._queue.clear()
            self._queue_changed.notify_all()
        await self._thread.stop()

    @property
    def _connected(self) -> BrokerConnection:
        assert self._inner is not None, "connect has not succeeded"
        return self._inner

    async def _call(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        try:
            return await self._thread.call(function, *args)
        except AsyncioThreadStopped:
            raise BrokerUnavailable("the connection is closed") from None

    def _deliver(self) -> None:
        self._wake_up_sent = False  # first, so that a message queued from here on sends a new wake-up
        for _ in range(_MESSAGES_PER_TURN):
            with self._queue_changed:
                if self._closed or not self._queue:
                    break
                message = self._queue.popleft()
                self._queued_bytes -= len(message[1])
                self._queue_changed.notify()
            self._receive(*message)
        else:
            self._wake_trio()

    # -- called in the asyncio thread --------------------------------------------------------------------------------

    async def _connect_inner(self, connect: Connect, patterns: Sequence[str]) -> None:
        self._inner = await connect(self._enqueue, patterns)

    async def _close_inner(self) -> None:
        if self._inner is not None:
            await self._inner.aclose()

    def _enqueue(self, topic: str, data: bytes, position: Position | None) -> None:
        with self._queue_changed:
            while not self._closed and (len(self._queue) >= MAX_QUEUED or self._queued_bytes >= MAX_QUEUED_BYTES):
                self._queue_changed.wait()
            if self._closed:
                return
            self._queue.append((topic, data, position))
            self._queued_bytes += len(data)
        self._wake_trio()

    # -- called in either thread -------------------------------------------------------------------------------------

    def _wake_trio(self) -> None:
        if not self._wake_up_sent:
            self._wake_up_sent = True
            self._thread.run_in_trio(self._deliver)
