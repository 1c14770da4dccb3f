"""`TestClient`: runs an App in a test, in memory, and connects to it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypedDict

import anyio

from pywsapp._protocol.client_handshake import ClientHandshake
from pywsapp.exceptions import ConfigurationError, HandshakeError, HeaderItems
from pywsapp.options import Deflate, Options
from pywsapp.testing.awaiting import HasAwaitables, awaited
from pywsapp.testing.clock import VirtualClock
from pywsapp.testing.cookies import Cookies
from pywsapp.testing.event_stream import EventPeer, TestEventStream
from pywsapp.testing.failures import AppErrors, attach
from pywsapp.testing.given_user import NOT_GIVEN
from pywsapp.testing.idle import until_idle
from pywsapp.testing.peer import Peer
from pywsapp.testing.pipe import CLIENT_ADDRESS
from pywsapp.testing.response import HttpPeer, TestResponse, encode_request, parse
from pywsapp.testing.running import MemoryServer
from pywsapp.testing.transcript import Transcript, failure_text
from pywsapp.testing.websocket import Connecting, TestWebSocket

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from pywsapp.app import App

#: pytest leaves the frames of this module out of tracebacks, so a failure ends in the line of the test.
__tracebackhide__ = True

#: A browser sends a key that differs each time; here a failure is easier to repeat if it does not.
_KEY = b"the key of tests"
#: The limits of the client; the App has its own.
_OPTIONS = Options(
    max_message_size=1 << 30,
    max_header_size=1 << 20,
    max_headers=1000,
    control_frames_burst=1 << 30,
    deflate=None,
)
#: Seconds that the App may take until it is idle, where that is not what the test asks for.
_SETTLE_SECONDS = 5.0


class HandshakeArguments(TypedDict, total=False):
    """The arguments of a handshake, for `TestClient.connect` and `assert_refused`."""

    #: Further header fields.
    headers: HeaderItems
    #: What `authenticate` would return: it is not called. Without an `authenticate`, this is the user that the website
    #: around the App has found.
    user: Any
    #: The subprotocols to offer, the preferred one first.
    subprotocols: Sequence[str]
    #: The Origin field; None sends none, like a program that is no browser.
    origin: str | None
    #: Cookies for this request only.
    cookies: Mapping[str, str] | None
    #: The IP address that the client comes from.
    address: str
    #: True offers permessage-deflate, as browsers do; a `Deflate` offers it with this configuration.
    compression: bool | Deflate
    #: Seconds after which waiting fails, instead of those of the client.
    timeout: float | None


class TestClient(HasAwaitables):
    """Runs an App in a test, and connects to it in memory: `async with TestClient(app) as client:`.

    The App is the real one: startup and shutdown hooks, timers, middleware, guards, sessions, topics and all limits.
    Only the socket is missing, so nothing listens and ports do not matter. Works on asyncio, uvloop and trio, and in
    fixtures that end in another task than they began in.

    Args:
        app: the App. It must not be mounted on another one: test the outer App then.
        headers: header fields of every request.
        cookies: the cookies at the start. The client keeps those that the App sets.
        host: the Host field; by default the first name of the App's `http_host`.
        timeout: seconds after which waiting fails.
        raise_handler_errors: whether exceptions that the App would only log fail the test: those of handlers, of hooks
            and of background tasks. Exceptions that an `on_error` of the program handles are not among them.
        clock: the time of the App, which the test moves; None for the real time.

    Attributes:
        app: the App.
        cookies: the cookies, a dict that the test can change.
        errors: the exceptions of the App that were not raised yet; `client.errors.clear()` forgets them.
    """

    __test__ = False  # pytest collects classes with this beginning of a name

    def __init__(
        self,
        app: App,
        *,
        headers: HeaderItems = (),
        cookies: Mapping[str, str] | None = None,
        host: str | None = None,
        timeout: float = 5.0,
        raise_handler_errors: bool = True,
        clock: VirtualClock | None = None,
    ) -> None:
        super().__init__("client", set())
        self.app = app
        self.cookies = Cookies(cookies)
        self._headers = headers
        self._host = host or _host_of(app)
        self._timeout = timeout
        self._raises = raise_handler_errors
        self._app_errors = AppErrors()
        self._running: MemoryServer | None = None
        self._clock = clock

    @property
    def clock(self) -> VirtualClock:
        """The virtual clock.

        Raises:
            ConfigurationError: the client has none.
        """
        if self._clock is None:
            raise ConfigurationError("this client has the real time: write TestClient(app, clock=VirtualClock())")
        return self._clock

    @property
    def errors(self) -> list[BaseException]:
        """The exceptions of the App that were not raised yet."""
        return self._app_errors.found

    # -- starting and stopping ---------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._running is not None:
            raise ConfigurationError("this TestClient was used before; make another one")
        self._running = MemoryServer(self.app)
        self._app_errors.begin()
        if self._clock is not None:
            self._clock.begin()
        try:
            await self._running.start()
        except BaseException:
            self._end()
            raise
        return self

    def _end(self) -> None:
        if self._clock is not None:
            self._clock.end()
        self._app_errors.end()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._running is not None
        try:
            if self._clock is not None:
                self._clock.flow()
            await self._running.stop(drains=exc is None)
        finally:
            self._end()
        if exc is not None:
            if self._raises:
                attach(exc, self.errors)
            return
        if self._raises and (error := self._app_errors.take()) is not None:
            raise error
        if self._forgotten:
            raise AssertionError(f"the test has checked nothing here: {self._forgotten.pop()!r}")

    # -- WebSockets --------------------------------------------------------------------------------------------------

    def connect(self, path: str, **handshake: Unpack[HandshakeArguments]) -> Connecting:
        """Open a WebSocket: `async with client.connect("/chat") as ws:` gives a `TestWebSocket`.

        Leaving the block closes the connection with code 1000, and returns when the App has handled that. If an
        exception leaves it, the connection is dropped.

        Args:
            path: the path, with a query if there is one.
            handshake: the arguments of `HandshakeArguments`, by name.

        Raises:
            TypeError: there is no such argument.
            HandshakeError: on entering, the App refused the handshake; its `status` is the HTTP status.
            Exception: on entering, a handler has raised it, so that the App refused the handshake with 500.
        """

        unknown = sorted(set(handshake) - set(HandshakeArguments.__annotations__))
        if unknown:
            raise TypeError(f"connect() has no argument {unknown[0]!r}")

        async def open_one() -> TestWebSocket:
            ws = await self._open(path, **handshake)
            if isinstance(ws, TestWebSocket):
                return ws
            error = self._take_error() if ws.status == 500 else None
            raise error or HandshakeError(f"{path} was refused with {ws.status}: {ws.text.strip()}", ws.status)

        return Connecting(open_one, path)

    async def _open(
        self,
        path: str,
        *,
        headers: HeaderItems = (),
        user: Any = NOT_GIVEN,
        subprotocols: Sequence[str] = (),
        origin: str | None = None,
        cookies: Mapping[str, str] | None = None,
        address: str = CLIENT_ADDRESS,
        compression: bool | Deflate = False,
        timeout: float | None = None,
    ) -> TestWebSocket | TestResponse:
        """Do a handshake; return the connection, or the response of the App that refuses it."""
        fields = self._fields(path, headers, cookies)
        if origin is not None:
            fields.append(("Origin", origin))
        deflate = compression if isinstance(compression, Deflate) else Deflate() if compression else None
        handshake = ClientHandshake(
            host=self._host,
            path=path,
            subprotocols=subprotocols,
            headers=fields,
            key=_KEY,
            deflate=deflate,
            max_header_size=_OPTIONS.max_header_size,
            max_headers=_OPTIONS.max_headers,
        )
        transcript = Transcript(path)
        peer = Peer(handshake, replace(_OPTIONS, deflate=deflate), transcript)
        seconds = self._timeout if timeout is None else timeout
        self._app_runs.connect(peer, address, user)
        with self._time_limit(seconds):
            while peer.accepted is None and not peer.is_lost:
                await peer.wait_for_change()
        if peer.accepted is not None:
            self.cookies.read(peer.accepted.headers.getlist("set-cookie"), path)
            return TestWebSocket(self, path, peer, transcript, seconds)
        if not peer.is_lost:
            peer.transport.abort()
            raise self._failure(f"the App did not answer the handshake of {path} within {seconds:g} seconds")
        if not peer.answer:
            raise peer.error or self._failure(f"the App closed the connection to {path} without an answer")
        return self._read_response(bytes(peer.answer), path)

    @awaited
    async def assert_refused(
        self, path: str, status: int | None = None, **handshake: Unpack[HandshakeArguments]
    ) -> TestResponse:
        """Check that the App refuses a handshake.

        Args:
            path: the path.
            status: the expected HTTP status; None for any.
            handshake: as for `connect`.

        Returns:
            the response.

        Raises:
            AssertionError: the App accepts the handshake, or refuses it with another status.
        """
        found = await self._open(path, **handshake)
        if isinstance(found, TestWebSocket):
            found._peer.transport.abort()
            wanted = "refused" if status is None else f"refused with {status}"
            raise self._failure(f"the handshake of {path} was accepted, not {wanted}")
        if status is not None and found.status != status:
            body = found.text.strip()
            raise self._failure(f"the handshake of {path} was refused with {found.status} ({body}), not {status}")
        return found

    # -- event streams -----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def events(
        self,
        path: str,
        *,
        last_event_id: str | None = None,
        headers: HeaderItems = (),
        user: Any = NOT_GIVEN,
        origin: str | None = None,
        cookies: Mapping[str, str] | None = None,
        address: str = CLIENT_ADDRESS,
        timeout: float | None = None,
    ) -> AsyncIterator[TestEventStream]:
        """Open an event stream: `async with client.events("/stream/1") as stream:`.

        Args:
            path: the path, with a query if there is one.
            last_event_id: the id of the last event that the client has, as a browser sends it when it connects again.
            headers: further header fields.
            user: as for `connect`.
            origin: the Origin field, which browsers send for pages of other origins.
            cookies: cookies for this request only.
            address: the IP address that the client comes from.
            timeout: seconds after which waiting fails, instead of those of the client.

        Raises:
            HandshakeError: on entering, the App refused the request; its `status` is the HTTP status.
        """
        fields = self._fields(path, headers, cookies)
        fields += [] if any(name.lower() == "accept" for name, _ in fields) else [("Accept", "text/event-stream")]
        fields += [] if last_event_id is None else [("Last-Event-ID", last_event_id)]
        fields += [] if origin is None else [("Origin", origin)]
        peer = EventPeer(encode_request("GET", path, self._host, fields, b""))
        seconds = self._timeout if timeout is None else timeout
        self._app_runs.connect(peer, address, user)
        stream = TestEventStream(self, path, peer, seconds)
        try:
            if not await stream._wait_until(lambda: peer.status == 200 or peer.ended.is_set(), None):
                raise self._failure(f"no response to GET {path} within {seconds:g} seconds")
            if peer.status != 200:
                response = self._read_response(bytes(peer.received), path)
                error = self._take_error() if response.status == 500 else None
                raise error or HandshakeError(
                    f"{path} was refused with {response.status}: {response.text.strip()}", response.status
                )
            self.cookies.read(peer.headers.getlist("set-cookie"), path)
            yield stream
        except BaseException:
            peer.transport.abort()
            raise
        await stream._end()

    # -- plain HTTP --------------------------------------------------------------------------------------------------

    @awaited
    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: HeaderItems = (),
        body: str | bytes = b"",
        json: Any = None,
        user: Any = NOT_GIVEN,
        cookies: Mapping[str, str] | None = None,
        address: str = CLIENT_ADDRESS,
        timeout: float | None = None,
    ) -> TestResponse:
        """Send a plain HTTP request, and wait for the response. Redirects are not followed.

        Args:
            method: the method.
            path: the path, with a query if there is one.
            headers: further header fields.
            body: the content.
            json: a value that is sent as JSON instead.
            user: as for `connect`.
            cookies: cookies for this request only.
            address: the IP address that the client comes from.
            timeout: seconds after which waiting fails, instead of those of the client.

        Raises:
            AssertionError: no response came in time.
            Exception: a handler has raised it, so that the App answered with 500.
        """
        fields = self._fields(path, headers, cookies)
        content = body.encode() if isinstance(body, str) else body
        if json is not None:
            content = _as_json(json)
            fields.append(("Content-Type", "application/json"))
        peer = HttpPeer(encode_request(method, path, self._host, fields, content))
        self._app_runs.connect(peer, address, user)
        seconds = self._timeout if timeout is None else timeout
        with self._time_limit(seconds):
            await peer.ended.wait()
        if not peer.ended.is_set():
            peer.transport.abort()
            raise self._failure(f"no response to {method} {path} within {seconds:g} seconds")
        if not peer.received:
            raise self._failure(f"the App closed the connection of {method} {path} without a response")
        response = self._read_response(bytes(peer.received), path)
        error = self._take_error() if response.status == 500 else None
        if error is not None:
            raise error
        return response

    @awaited
    async def get(self, path: str, /, **arguments: Any) -> TestResponse:
        """Send a GET request; the arguments are those of `request`."""
        return await self.request("GET", path, **arguments)

    @awaited
    async def post(self, path: str, /, **arguments: Any) -> TestResponse:
        """Send a POST request; the arguments are those of `request`."""
        return await self.request("POST", path, **arguments)

    # -- for the WebSockets of this client ---------------------------------------------------------------------------

    @property
    def _app_runs(self) -> MemoryServer:
        if self._running is None:
            raise ConfigurationError("the App does not run: write `async with TestClient(app) as client:`")
        return self._running

    def _fields(self, path: str, headers: HeaderItems, cookies: Mapping[str, str] | None) -> list[tuple[str, str]]:
        fields = [*_items(self._headers), *_items(headers)]
        cookie = self.cookies.field(path, cookies)
        return [*fields, ("Cookie", cookie)] if cookie else fields

    def _read_response(self, data: bytes, path: str) -> TestResponse:
        response = parse(data)
        self.cookies.read(response.headers.getlist("set-cookie"), path)
        return response

    def _take_error(self) -> BaseException | None:
        return self._app_errors.take() if self._raises else None

    def _failure(self, problem: str) -> AssertionError:
        return AssertionError(failure_text(problem, "", self.errors))

    def _time_limit(self, seconds: float) -> AbstractContextManager[object]:
        """Return a context that ends waiting after so many seconds, without an exception."""
        return anyio.move_on_after(seconds) if self._clock is None else self._clock.real_time_limit(seconds)

    async def _settle(self) -> None:
        """Wait until the App is idle, or for some seconds."""
        with self._time_limit(_SETTLE_SECONDS):
            await until_idle()

    async def _pass_time(self, seconds: float) -> None:
        await (anyio.sleep(seconds) if self._clock is None else self._clock.advance(seconds))


def _host_of(app: App) -> str:
    """Return the first name that an App answers to."""
    names = app._runner.http_host
    for name in (names,) if isinstance(names, str) else names:
        if "*" not in name:
            return name
    return "localhost"


def _items(headers: HeaderItems) -> list[tuple[str, str]]:
    return list(headers.items() if isinstance(headers, Mapping) else headers)


def _as_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
