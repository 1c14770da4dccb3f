"""An event stream of a test: what `TestClient.events` gives, and a parser that reads as browsers do."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
import anyio.lowlevel

from pywsapp._protocol.http import HeadBuffer, parse_response
from pywsapp.exceptions import ConnectionClosed
from pywsapp.http import Headers
from pywsapp.testing.awaiting import HasAwaitables, awaited
from pywsapp.testing.response import HttpPeer
from pywsapp.testing.transcript import failure_text

if TYPE_CHECKING:
    from pywsapp.testing.client import TestClient

#: pytest leaves the frames of this module out of tracebacks, so a failure ends in the line of the test.
__tracebackhide__ = True

_MAX_HEAD = 1 << 20
_MAX_FIELDS = 1000
_LINE_END = re.compile(rb"\r\n|\n|\r(?=[^\n])")
_SHOWN = 200


class StreamEvent(NamedTuple):
    """An event that a client has received.

    Attributes:
        data: its text.
        event: its name; "message" if it has none.
        id: the last id that the stream has named, which a browser sends when it connects again; "" without one.
    """

    data: str
    event: str
    id: str

    def json(self) -> Any:
        """Return the value of data that is JSON.

        Raises:
            ValueError: it is no JSON.
        """
        return json.loads(self.data)


class EventParser:
    """Reads an event stream as browsers do (WHATWG HTML, section 9.2.6).

    Attributes:
        last_id: the last id that the stream has named.
        retry: milliseconds after which a client connects again; None if the stream has not said it.
        comments: the comments so far.
    """

    def __init__(self) -> None:
        self.last_id = ""
        self.retry: int | None = None
        self.comments = 0
        self._buffer = b""
        self._id = self._event = ""
        self._data: list[str] = []

    def receive(self, data: bytes) -> Iterator[StreamEvent]:
        """Yield the events that are complete."""
        *lines, self._buffer = _LINE_END.split(self._buffer + data)
        for line in lines:
            if line:
                self._read_field(line.decode("utf-8", "replace"))
                continue
            self.last_id, event, content = self._id, self._event or "message", self._data
            self._event, self._data = "", []
            if content:
                yield StreamEvent("\n".join(content), event, self.last_id)

    def _read_field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not name:
            self.comments += 1
        elif name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry = int(value)


class EventPeer(HttpPeer):
    """The client's end of one event stream: the protocol of its transport.

    Args:
        request: the bytes to send.

    Attributes:
        status: the status of the response; None until its head has come.
        headers: its header fields.
        parser: reads the stream.
        inbox: the events that were received, and not taken by the test.
    """

    def __init__(self, request: bytes) -> None:
        super().__init__(request)
        self.status: int | None = None
        self.headers = Headers()
        self.parser = EventParser()
        self.inbox: deque[StreamEvent] = deque()
        self._head = HeadBuffer(_MAX_HEAD)
        self._changed = anyio.Event()

    async def wait_for_change(self) -> None:
        """Wait until something has happened."""
        self._changed = anyio.Event()
        await self._changed.wait()

    def data_received(self, data: bytes) -> None:
        """Handle a part of the response."""
        super().data_received(data)
        if self.status is None:
            head = self._head.receive(data)
            if head is not None:
                parsed = parse_response(head, max_headers=_MAX_FIELDS)
                self.status, self.headers = parsed.status, parsed.headers
                data = bytes(self._head.rest)
        if self.status == 200:
            self.inbox.extend(self.parser.receive(data))
        self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end of the stream."""
        super().connection_lost(exc)
        self._changed.set()


class TestEventStream(HasAwaitables):
    """One event stream of a test.

    Methods that wait must be awaited. They fail after the `timeout` of the client.

    Attributes:
        path: the path with its query.
    """

    __test__ = False  # pytest collects classes with this beginning of a name

    def __init__(self, client: TestClient, path: str, peer: EventPeer, timeout: float) -> None:
        super().__init__("stream", client._forgotten)
        self.path = path
        self._client = client
        self._peer = peer
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"<TestEventStream {self.path} {'open' if self.is_open else 'ended'}>"

    @property
    def headers(self) -> Headers:
        """The header fields of the response."""
        return self._peer.headers

    @property
    def is_open(self) -> bool:
        """Whether the App has not ended the stream, as far as the client has seen."""
        return not self._peer.ended.is_set()

    @property
    def last_event_id(self) -> str:
        """The last id that the stream has named; `client.events(path, last_event_id=...)` goes on from there."""
        return self._peer.parser.last_id

    @property
    def retry(self) -> int | None:
        """The milliseconds after which a browser would connect again; None if the stream has not said it."""
        return self._peer.parser.retry

    @property
    def comments(self) -> int:
        """The number of comments so far, which the App sends as keepalives."""
        return self._peer.parser.comments

    @awaited
    async def receive(self, *, timeout: float | None = None) -> StreamEvent:
        """Wait for the next event.

        Args:
            timeout: seconds, instead of those of the client.

        Raises:
            AssertionError: no event came in time.
            ConnectionClosed: the stream has ended, and no event is left.
        """
        return await self._receive(timeout)

    async def _receive(self, timeout: float | None = None) -> StreamEvent:
        inbox = self._peer.inbox
        if not await self._wait_until(lambda: bool(inbox) or not self.is_open, timeout):
            raise self._failure("no event came in time")
        if inbox:
            return inbox.popleft()
        raise ConnectionClosed(failure_text(f"{self.path} has ended", "", self._client.errors))

    async def __aiter__(self) -> AsyncIterator[StreamEvent]:
        """Iterate over the events until the App ends the stream."""
        while True:
            try:
                event = await self._receive()
            except ConnectionClosed:
                return
            yield event

    @awaited
    async def assert_ended(self, *, timeout: float | None = None) -> None:
        """Wait until the App has ended the stream. Events that were not received are dropped.

        Raises:
            AssertionError: the stream is still open.
        """
        if not await self._wait_until(lambda: not self.is_open, timeout):
            raise self._failure("the stream is still open")

    @awaited
    async def assert_silent(self, seconds: float = 0) -> None:
        """Check that no event arrives and that the stream stays open; see `TestWebSocket.assert_silent`.

        Raises:
            AssertionError: an event arrived, or the stream ended.
        """
        await self._client._settle()
        if seconds:
            await self._client._pass_time(seconds)
        if self._peer.inbox:
            raise self._failure(f"an event arrived: {self._peer.inbox[0]!r:.{_SHOWN}}")
        if not self.is_open:
            raise self._failure("the stream has ended")

    def pause_reading(self) -> None:
        """Read nothing more, like a client that is too slow; `resume_reading` ends that."""
        self._peer.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on after `pause_reading`."""
        self._peer.transport.resume_reading()

    async def _end(self) -> None:
        """Leave, and wait until the App has handled that."""
        self._peer.transport.abort()
        await self._client._settle()

    async def _wait_until(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until a condition holds, which is checked after each change; return whether it holds."""
        if not condition():
            with self._client._time_limit(self._timeout if timeout is None else timeout):
                while not condition():
                    await self._peer.wait_for_change()
        else:
            await anyio.lowlevel.checkpoint()  # a loop around this call must not block other tasks
        return condition()

    def _failure(self, problem: str) -> AssertionError:
        return AssertionError(failure_text(f"{self.path}: {problem}", "", self._client.errors))
