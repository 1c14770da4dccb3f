"""`SyncTestClient`: the `TestClient` for tests without async."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from pywsapp._event_loop import loop_options
from pywsapp.close_codes import CloseCode
from pywsapp.exceptions import ConfigurationError, ConnectionClosed
from pywsapp.testing.client import HandshakeArguments, TestClient
from pywsapp.testing.cookies import Cookies
from pywsapp.testing.event_stream import StreamEvent, TestEventStream
from pywsapp.testing.response import TestResponse
from pywsapp.testing.websocket import TestWebSocket

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from pywsapp.app import App
    from pywsapp.http import Headers

#: pytest leaves the frames of this module out of tracebacks, so a failure ends in the line of the test.
__tracebackhide__ = True

T = TypeVar("T")


class SyncTestClient:
    """Runs an App in a test without async: `with SyncTestClient(app) as client:`.

    The App runs in an event loop of its own, in another thread. The methods are those of `TestClient`, without `await`.

    Args:
        app: the App.
        backend: "asyncio" or "trio".
        uvloop: whether asyncio uses uvloop.
        options: the options of `TestClient`.
    """

    __test__ = False  # pytest collects classes with this beginning of a name

    def __init__(self, app: App, *, backend: str = "asyncio", uvloop: bool = False, **options: Any) -> None:
        self.app = app
        self._backend = backend
        self._backend_options = loop_options(backend, uvloop)
        self._client = TestClient(app, **options)
        self._opened = ExitStack()
        self._portal: BlockingPortal | None = None

    def __enter__(self) -> Self:
        self._portal = self._opened.enter_context(start_blocking_portal(self._backend, self._backend_options))
        try:
            self._opened.enter_context(self._portal.wrap_async_context_manager(self._client))
        except BaseException:
            self._opened.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._opened.__exit__(kind, exc, trace)

    @property
    def cookies(self) -> Cookies:
        """The cookies, a dict that the test can change."""
        return self._client.cookies

    @property
    def errors(self) -> list[BaseException]:
        """The exceptions of the App that were not raised yet."""
        return self._client.errors

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a def or async def in the thread of the App, and return its result: `client.call(topic.broadcast, "x")`.

        Raises:
            ConfigurationError: the App does not run.
        """
        return self._running_portal.call(function, *arguments)

    def advance(self, seconds: float) -> None:
        """Advance the time of a virtual clock; see `VirtualClock.advance`."""
        self.call(self._client.clock.advance, seconds)

    @contextmanager
    def connect(self, path: str, **handshake: Unpack[HandshakeArguments]) -> Iterator[SyncTestWebSocket]:
        """Open a WebSocket: `with client.connect("/chat") as ws:`; the arguments are those of `TestClient.connect`."""
        connecting: AbstractContextManager[TestWebSocket] = self._running_portal.wrap_async_context_manager(
            self._client.connect(path, **handshake)
        )
        with connecting as ws:
            yield SyncTestWebSocket(self, ws)

    @contextmanager
    def events(self, path: str, **arguments: Any) -> Iterator[SyncTestEventStream]:
        """Open an event stream: `with client.events("/news") as stream:`; see `TestClient.events`."""
        opening: AbstractContextManager[TestEventStream] = self._running_portal.wrap_async_context_manager(
            self._client.events(path, **arguments)
        )
        with opening as stream:
            yield SyncTestEventStream(self, stream)

    def assert_refused(
        self, path: str, status: int | None = None, **handshake: Unpack[HandshakeArguments]
    ) -> TestResponse:
        """Check that the App refuses a handshake; see `TestClient.assert_refused`."""
        return self._run(lambda: self._client.assert_refused(path, status, **handshake))

    def request(self, method: str, path: str, **arguments: Any) -> TestResponse:
        """Send a plain HTTP request; see `TestClient.request`."""
        return self._run(lambda: self._client.request(method, path, **arguments))

    def get(self, path: str, **arguments: Any) -> TestResponse:
        """Send a GET request; see `TestClient.request`."""
        return self.request("GET", path, **arguments)

    def post(self, path: str, **arguments: Any) -> TestResponse:
        """Send a POST request; see `TestClient.request`."""
        return self.request("POST", path, **arguments)

    def _run(self, method: Callable[[], Awaitable[T]]) -> T:
        result: T = self.call(method)
        return result

    @property
    def _running_portal(self) -> BlockingPortal:
        if self._portal is None:
            raise ConfigurationError("the App does not run: write `with SyncTestClient(app) as client:`")
        return self._portal


class SyncTestWebSocket:
    """One open WebSocket of a `SyncTestClient`; the methods are those of `TestWebSocket`, without `await`."""

    __test__ = False  # pytest collects classes with this beginning of a name

    def __init__(self, client: SyncTestClient, ws: TestWebSocket) -> None:
        self._client = client
        self._ws = ws

    def __repr__(self) -> str:
        return repr(self._ws)

    @property
    def headers(self) -> Headers:
        """The header fields of the response to the handshake."""
        return self._ws.headers

    @property
    def subprotocol(self) -> str | None:
        """The agreed subprotocol."""
        return self._ws.subprotocol

    @property
    def has_compression(self) -> bool:
        """Whether permessage-deflate was agreed."""
        return self._ws.has_compression

    @property
    def is_open(self) -> bool:
        """Whether the App has neither closed nor lost the connection, as far as the client has seen."""
        return self._ws.is_open

    @property
    def close_code(self) -> int | None:
        """The close code of the App; None while the connection is open."""
        return self._ws.close_code

    @property
    def close_reason(self) -> str:
        """The reason that came with the code."""
        return self._ws.close_reason

    def send(self, message: str | bytes) -> None:
        """Send a str as text, or bytes as binary."""
        self._client.call(self._ws.send, message)

    def send_json(self, value: Any) -> None:
        """Send a value as JSON text."""
        self._client.call(self._ws.send_json, value)

    def receive(self, *, timeout: float | None = None) -> str | bytes:
        """Wait for the next message."""
        return self._run(lambda: self._ws.receive(timeout=timeout))

    def receive_text(self, *, timeout: float | None = None) -> str:
        """Wait for the next message, which must be text."""
        return self._run(lambda: self._ws.receive_text(timeout=timeout))

    def receive_bytes(self, *, timeout: float | None = None) -> bytes:
        """Wait for the next message, which must be binary."""
        return self._run(lambda: self._ws.receive_bytes(timeout=timeout))

    def receive_json(self, *, timeout: float | None = None) -> Any:
        """Wait for the next message, and return the value of its JSON."""
        return self._run(lambda: self._ws.receive_json(timeout=timeout))

    def __iter__(self) -> Iterator[str | bytes]:
        """Iterate over the messages until the App closes the connection with code 1000 or 1001."""
        while True:
            try:
                yield self.receive()
            except ConnectionClosed as exc:
                if exc.code in (CloseCode.NORMAL, CloseCode.GOING_AWAY):
                    return
                raise

    def assert_closed(
        self, code: int | None = None, reason: str | None = None, *, timeout: float | None = None
    ) -> None:
        """Wait until the App has closed the connection."""
        self._run(lambda: self._ws.assert_closed(code, reason, timeout=timeout))

    def assert_silent(self, seconds: float = 0) -> None:
        """Check that no message arrives and that the connection stays open."""
        self._run(lambda: self._ws.assert_silent(seconds))

    def ping(self) -> None:
        """Send a ping, and wait for its pong."""
        self._run(self._ws.ping)

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the connection, and wait until the App has handled that."""
        self._run(lambda: self._ws.close(code, reason))

    def _run(self, method: Callable[[], Awaitable[T]]) -> T:
        return self._client._run(method)


class SyncTestEventStream:
    """One event stream of a `SyncTestClient`; the methods are those of `TestEventStream`, without `await`."""

    __test__ = False  # pytest collects classes with this beginning of a name

    def __init__(self, client: SyncTestClient, stream: TestEventStream) -> None:
        self._client = client
        self._stream = stream

    def __repr__(self) -> str:
        return repr(self._stream)

    @property
    def headers(self) -> Headers:
        """The header fields of the response."""
        return self._stream.headers

    @property
    def is_open(self) -> bool:
        """Whether the App has not ended the stream, as far as the client has seen."""
        return self._stream.is_open

    @property
    def last_event_id(self) -> str:
        """The last id that the stream has named."""
        return self._stream.last_event_id

    @property
    def retry(self) -> int | None:
        """The milliseconds after which a browser would connect again; None if the stream has not said it."""
        return self._stream.retry

    @property
    def comments(self) -> int:
        """The number of comments so far, which the App sends as keepalives."""
        return self._stream.comments

    def receive(self, *, timeout: float | None = None) -> StreamEvent:
        """Wait for the next event."""
        return self._run(lambda: self._stream.receive(timeout=timeout))

    def __iter__(self) -> Iterator[StreamEvent]:
        """Iterate over the events until the App ends the stream."""
        while True:
            try:
                event = self.receive()
            except ConnectionClosed:
                return
            yield event

    def assert_ended(self, *, timeout: float | None = None) -> None:
        """Wait until the App has ended the stream."""
        self._run(lambda: self._stream.assert_ended(timeout=timeout))

    def assert_silent(self, seconds: float = 0) -> None:
        """Check that no event arrives and that the stream stays open."""
        self._run(lambda: self._stream.assert_silent(seconds))

    def _run(self, method: Callable[[], Awaitable[T]]) -> T:
        return self._client._run(method)
