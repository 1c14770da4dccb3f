"""The events of one WebSocket for an ASGI application: what its `receive` returns.

A `Channel` is the component of the connection. Its `on_message` puts an event into a queue, and a plain `receive` takes
it out. While the queue is full, `on_message` returns an awaitable: the connection is busy then, so its lifecycle keeps
further messages in a queue of its own, stops to read when that is full. The peer's close frame is answered when the
application has handled the messages before it, and receives again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pywsapp._outbox.awaitables import LazyAwaitable
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection

if TYPE_CHECKING:
    from pywsapp._lifecycle.state_machine import StateMachine


#: The queue of a connection that has none yet, or never, because an App takes it over. A deque takes 760 bytes.
_NO_MESSAGES: deque[str | bytes] = deque()


class Channel(MessageComponent):
    """The events that an application has not received.

    Args:
        loop: the event loop.
        max_events: messages from which on the queue is full.
        max_size: bytes, or characters of text, from which on the queue is full.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, max_events: int, max_size: int) -> None:
        self._loop = loop
        self._first: dict[str, Any] | None = None  # the event before all messages
        self._events = _NO_MESSAGES
        self._max_events = max_events
        self._max_size = max_size
        self._size = 0
        self._receivers: list[asyncio.Future[None]] = []
        self._space: asyncio.Event | None = None  # exists while the queue is full
        self._disconnect: dict[str, Any] | None = None
        self._answer: Callable[[], bool] | None = None
        self._owes_answer = False  # the peer has closed, and the application has not handled what came before

    def serve(self, machine: StateMachine) -> None:
        """Have the peer's close frame answered when the application has handled all messages before it."""
        self._events = deque()
        self._answer = machine.answer
        machine.is_behind = self._is_behind

    @property
    def has_ended(self) -> bool:
        """Whether no more messages are put into the queue."""
        return self._disconnect is not None

    def begin(self, event: dict[str, Any]) -> None:
        """Have `receive` return an event before all messages; call this before the first `receive`."""
        self._first = event

    def end(self, code: int | None, reason: str) -> None:
        """Make `receive` return `websocket.disconnect` behind what is in the queue; only the first call counts."""
        if self._disconnect is None:
            self._disconnect = {"type": "websocket.disconnect", "code": code, "reason": reason}
            while self._receivers:
                self._wake()
            self._make_space()

    def discard(self) -> None:
        """Drop the messages: the application does not receive any more."""
        self._events.clear()
        self._size = 0
        self._make_space()

    async def receive(self) -> dict[str, Any]:
        """Return the next event: the `receive` of ASGI."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        while not (events := self._events):
            if self._disconnect is not None:
                return self._disconnect.copy()
            if self._owes_answer and self._answer is not None:
                self._owes_answer = False
                self._answer()
            receiver = self._loop.create_future()
            self._receivers.append(receiver)
            try:
                await receiver
            except BaseException:
                if receiver.done() and not receiver.cancelled():
                    self._wake()  # another task receives in place of this one
                elif receiver in self._receivers:
                    self._receivers.remove(receiver)
                raise
        event = events.popleft()
        self._size -= len(event)
        if self._space is not None and len(events) <= self._max_events // 2 and self._size <= self._max_size // 2:
            self._make_space()
        if type(event) is str:
            return {"type": "websocket.receive", "text": event}
        return {"type": "websocket.receive", "bytes": event}

    def _is_behind(self) -> bool:
        self._owes_answer = self._disconnect is None and (bool(self._events) or not self._receivers)
        return self._owes_answer

    def _wake(self) -> None:
        while self._receivers:
            receiver = self._receivers.pop(0)
            if not receiver.done():
                receiver.set_result(None)
                return

    def _make_space(self) -> None:
        if self._space is not None:
            self._space.set()
            self._space = None

    # -- as a component ----------------------------------------------------------------------------------------------

    def on_message(self, conn: Connection, message: Any) -> Any:
        """Queue a message; return what must be awaited before the next one if the queue is full."""
        if self._disconnect is not None:
            return None
        self._events.append(message)
        self._size += len(message)
        if self._receivers:
            self._wake()
        if len(self._events) < self._max_events and self._size < self._max_size:
            return None
        if self._space is None:
            self._space = asyncio.Event()
        return LazyAwaitable(self._space.wait)
