"""The requests of a program that wait for their replies, also while there is no connection."""

from __future__ import annotations

from collections import deque

import anyio

from pywsapp._connecting.topics.bell import Bell
from pywsapp._connecting.topics.messages import Fields
from pywsapp.exceptions import CallTimeout, ConnectionClosed, QueueFull


class WaitingRequest:
    """A request that waits for its reply.

    Args:
        request_id: its id, the same on each connection.
        data: the message.
        can_repeat: whether it is sent again over the next connection, because the server knows it by its key.

    Attributes:
        is_sent: whether it was sent on this connection.
        is_over: whether nothing waits for its reply any more.
        reply: the reply; None before it comes.
        error: why it has failed.
    """

    __slots__ = ("_done", "can_repeat", "data", "error", "id", "is_over", "is_sent", "reply", "size")

    def __init__(self, request_id: int, data: str | bytes, *, can_repeat: bool) -> None:
        self.id = request_id
        self.data = data
        self.size = len(data if isinstance(data, bytes) else data.encode())
        self.can_repeat = can_repeat
        self.is_sent = False
        self.is_over = False
        self.reply: Fields | None = None
        self.error: Exception | None = None
        self._done = anyio.Event()

    def resolve(self, reply: Fields) -> None:
        """Pass the reply to the task that waits."""
        self.reply = reply
        self._done.set()

    def fail(self, error: Exception) -> None:
        """Pass an error to the task that waits."""
        self.error = error
        self._done.set()

    async def result(self, seconds: float | None) -> Fields:
        """Wait for the reply, and return it.

        Raises:
            CallTimeout: it did not come in time.
            Exception: the request has failed.
        """
        with anyio.move_on_after(seconds):
            await self._done.wait()
        if self.error is not None:
            raise self.error
        if self.reply is None:
            raise CallTimeout(f"the server did not answer within {seconds:g} seconds")
        return self.reply


class RequestQueue:
    """The requests that wait, in their order.

    Args:
        limit: how many may wait.
        max_bytes: bytes of their messages that may wait.
    """

    def __init__(self, limit: int, max_bytes: int) -> None:
        self._limit = limit
        self._max_bytes = max_bytes
        self._bytes = 0
        self._waiting: dict[int, WaitingRequest] = {}
        self._unsent: deque[WaitingRequest] = deque()
        self._bell = Bell()

    async def ask(self, request: WaitingRequest, seconds: float | None) -> Fields:
        """Wait for the reply to a request, and return it.

        Raises:
            QueueFull: too many requests wait, or too many bytes; this one is not sent.
            CallTimeout: the reply did not come in time.
            Exception: the request has failed.
        """
        if len(self._waiting) >= self._limit:
            raise QueueFull(f"{len(self._waiting)} requests wait for the server already")
        if self._bytes + request.size > self._max_bytes:
            raise QueueFull(
                f"a request of {request.size} bytes has no space: {self._bytes} of {self._max_bytes} bytes wait already"
            )
        self._waiting[request.id] = request
        self._bytes += request.size
        self._unsent.append(request)
        self._bell.ring()
        try:
            return await request.result(seconds)
        finally:
            request.is_over = True
            del self._waiting[request.id]
            self._bytes -= request.size

    async def wait(self) -> None:
        """Wait until there is a request to send."""
        while not self._unsent:
            await self._bell.wait()

    def take(self) -> WaitingRequest | None:
        """Return the next request to send; None if there is none any more."""
        while self._unsent:
            request = self._unsent.popleft()
            if not request.is_over:
                request.is_sent = True
                return request
        return None

    def repeat(self, request: WaitingRequest) -> None:
        """Send a request again, in its order."""
        request.is_sent = False
        self._find_unsent()
        self._bell.ring()

    def disconnected(self, error: ConnectionClosed) -> None:
        """Prepare the requests for the next connection; those that cannot be repeated fail with an error."""
        for request in self._waiting.values():
            if request.is_sent and not request.can_repeat:
                request.fail(error)
            request.is_sent = False
        self._find_unsent()

    def _find_unsent(self) -> None:
        self._unsent = deque(
            request
            for request in self._waiting.values()
            if not request.is_sent and request.reply is None and request.error is None
        )

    def end(self, error: Exception) -> None:
        """Fail all requests."""
        self._unsent.clear()
        for request in self._waiting.values():
            if request.reply is None and request.error is None:
                request.fail(error)
