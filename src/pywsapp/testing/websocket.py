"""The WebSocket of a test: `TestWebSocket`, which `TestClient.connect` returns."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any

import anyio.lowlevel

from pywsapp._outbox.awaitables import LazyAwaitable, LazyCoroutine
from pywsapp.close_codes import CloseCode, check_close
from pywsapp.exceptions import ConfigurationError, ConnectionClosed
from pywsapp.http import Headers
from pywsapp.testing.awaiting import HasAwaitables, awaited
from pywsapp.testing.peer import Peer
from pywsapp.testing.transcript import Transcript, failure_text, shown

if TYPE_CHECKING:
    from pywsapp.testing.client import TestClient

#: pytest leaves the frames of this module out of tracebacks, so a failure ends in the line of the test.
__tracebackhide__ = True

_NORMAL_ENDS = (CloseCode.NORMAL, CloseCode.GOING_AWAY)


class TestWebSocket(HasAwaitables):
    """One open WebSocket of a test.

    Methods that send do it at once, and need not be awaited. Methods that wait must be awaited. They fail after the
    `timeout` of the client, and the failure shows what was sent and received.

    Attributes:
        path: the path with its query.
        transcript: what was sent and received; `str(ws.transcript)` is text.
    """

    __test__ = False  # pytest collects classes with this beginning of a name

    def __init__(self, client: TestClient, path: str, peer: Peer, transcript: Transcript, timeout: float) -> None:
        super().__init__("ws", client._forgotten)
        self.path = path
        self.transcript = transcript
        self._client = client
        self._peer = peer
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"<TestWebSocket {self.path} {'open' if self.is_open else f'closed {self.close_code}'}>"

    # -- state -------------------------------------------------------------------------------------------------------

    @property
    def headers(self) -> Headers:
        """The header fields of the response to the handshake."""
        assert self._peer.accepted is not None
        return self._peer.accepted.headers

    @property
    def subprotocol(self) -> str | None:
        """The agreed subprotocol."""
        assert self._peer.accepted is not None
        return self._peer.accepted.subprotocol

    @property
    def has_compression(self) -> bool:
        """Whether permessage-deflate was agreed."""
        assert self._peer.accepted is not None
        return self._peer.accepted.deflate is not None

    @property
    def is_open(self) -> bool:
        """Whether the App has neither closed nor lost the connection, as far as the client has seen."""
        return self._peer.end is None

    @property
    def close_code(self) -> int | None:
        """The close code of the App, 1006 if the connection ended without a close frame; None while it is open."""
        return None if self._peer.end is None else self._peer.end.code

    @property
    def close_reason(self) -> str:
        """The reason that came with the code."""
        return "" if self._peer.end is None else self._peer.end.reason

    # -- sending -----------------------------------------------------------------------------------------------------

    def send(self, message: str | bytes) -> LazyCoroutine[None]:
        """Send a str as text, or bytes as binary.

        Returns:
            an awaitable that lets other tasks run; it need not be awaited.

        Raises:
            ConnectionClosed: the connection has ended.
            TypeError: the message is neither text nor bytes.
        """
        if not isinstance(message, (str, bytes, bytearray, memoryview)):
            raise TypeError(f"a message is a str or bytes, not {type(message).__name__}: use ws.send_json(...)")
        self._check_open()
        self._peer.send(message if isinstance(message, str) else bytes(message))
        return LazyAwaitable(anyio.lowlevel.checkpoint)

    def send_json(self, value: Any) -> LazyCoroutine[None]:
        """Send a value as JSON text; otherwise as `send`."""
        return self.send(json.dumps(value, ensure_ascii=False, separators=(",", ":")))

    def send_raw(self, data: bytes) -> LazyCoroutine[None]:
        """Send bytes as they are, for frames that no client sends; otherwise as `send`."""
        self._check_open()
        self._peer.write_raw(data)
        return LazyAwaitable(anyio.lowlevel.checkpoint)

    # -- receiving ---------------------------------------------------------------------------------------------------

    @awaited
    async def receive(self, *, timeout: float | None = None) -> str | bytes:
        """Wait for the next message: a str for text, bytes for binary.

        Args:
            timeout: seconds, instead of those of the client.

        Raises:
            AssertionError: no message came in time.
            ConnectionClosed: the connection has ended, and no message is left.
            Exception: a handler has raised it, and the connection has ended for that reason.
        """
        return await self._receive(timeout)

    @awaited
    async def receive_text(self, *, timeout: float | None = None) -> str:
        """Wait for the next message, which must be text; otherwise as `receive`."""
        message = await self._receive(timeout)
        if not isinstance(message, str):
            raise self._failure(f"the message is binary, not text: {shown(message)}")
        return message

    @awaited
    async def receive_bytes(self, *, timeout: float | None = None) -> bytes:
        """Wait for the next message, which must be binary; otherwise as `receive`."""
        message = await self._receive(timeout)
        if isinstance(message, str):
            raise self._failure(f"the message is text, not binary: {shown(message)}")
        return message

    @awaited
    async def receive_json(self, *, timeout: float | None = None) -> Any:
        """Wait for the next message, and return the value of its JSON; otherwise as `receive`."""
        message = await self._receive(timeout)
        try:
            return json.loads(message)
        except ValueError as exc:
            raise self._failure(f"the message is no JSON ({exc}): {shown(message)}") from None

    async def _receive(self, timeout: float | None) -> str | bytes:
        inbox = self._peer.inbox
        if not await self._wait_until(lambda: inbox or self._peer.end is not None, timeout):
            raise self._failure(f"no message came within {self._seconds(timeout):g} seconds")
        if inbox:
            return inbox.popleft()
        raise self._ended()

    def __aiter__(self) -> AsyncIterator[str | bytes]:
        """Iterate over the messages until the App closes the connection with code 1000 or 1001."""
        return self

    async def __anext__(self) -> str | bytes:
        try:
            return await self._receive(None)
        except ConnectionClosed as exc:
            if exc.code in _NORMAL_ENDS:
                raise StopAsyncIteration from None
            raise

    # -- expectations ------------------------------------------------------------------------------------------------

    @awaited
    async def assert_closed(
        self, code: int | None = None, reason: str | None = None, *, timeout: float | None = None
    ) -> None:
        """Wait until the App has closed the connection. Messages that were not received are dropped.

        Args:
            code: the expected close code; None for any.
            reason: the expected reason; None for any.
            timeout: seconds, instead of those of the client.

        Raises:
            AssertionError: the connection is still open, or was closed with another code or reason.
        """
        if not await self._wait_until(lambda: self._peer.end is not None, timeout):
            raise self._failure(f"the connection is still open after {self._seconds(timeout):g} seconds")
        assert self._peer.end is not None
        found = self._peer.end
        if code is not None and found.code != code:
            raise self._failure(f"the connection was closed with code {found.code}, not {int(code)}")
        if reason is not None and found.reason != reason:
            raise self._failure(f"the reason of the close is {found.reason!r}, not {reason!r}")

    @awaited
    async def assert_silent(self, seconds: float = 0) -> None:
        """Check that no message arrives and that the connection stays open.

        Without seconds, this waits until the App is idle: each of its tasks waits for a time, for bytes or for another
        task, and no thread of `in_thread` runs. It takes no time of the clock, and finds every message that the App
        sends because of what has happened so far, except after a sleep or an answer from another program.

        Args:
            seconds: for so long also after the App is idle. With a virtual clock, the clock is advanced instead.

        Raises:
            AssertionError: a message arrived, or the connection ended.
        """
        await self._client._settle()
        if seconds:
            await self._client._pass_time(seconds)
        if self._peer.inbox:
            raise self._failure(f"a message arrived: {shown(self._peer.inbox[0])}")
        if self._peer.end is not None:
            raise self._failure(f"the connection was closed with code {self._peer.end.code}")

    @awaited
    async def ping(self, *, timeout: float | None = None) -> None:
        """Send a ping, and wait for its pong.

        The App has then received all that was sent before; async handlers can still run.

        Raises:
            AssertionError: no pong came in time.
            ConnectionClosed: the connection has ended.
        """
        self._check_open()
        self._peer.ping(payload := b"ping")
        if not await self._wait_until(lambda: payload in self._peer.pongs or self._peer.end is not None, timeout):
            raise self._failure(f"no pong came within {self._seconds(timeout):g} seconds")
        if payload not in self._peer.pongs:
            raise self._ended()
        self._peer.pongs.clear()

    # -- ending ------------------------------------------------------------------------------------------------------

    @awaited
    async def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the connection, and wait until the App has handled that; messages that still come are dropped.

        Raises:
            AssertionError: the App did not close its side in time.
            ConfigurationError: the code must not be sent, or the reason is too long.
        """
        check_close(code, reason)
        await self._close(code, reason)

    async def _close(self, code: int, reason: str) -> None:
        if self._peer.end is None:
            self._peer.close(code, reason)
        if not await self._wait_until(lambda: self._peer.is_lost, None):
            self._peer.transport.abort()
            raise self._failure(f"the App did not close its side within {self._timeout:g} seconds")
        await self._client._settle()

    # -- faults ------------------------------------------------------------------------------------------------------

    def pause_reading(self) -> None:
        """Read nothing more from the connection, like a client that is too slow; `resume_reading` ends that."""
        self.transcript.note("(the test stops reading)")
        self._peer.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on after `pause_reading`."""
        self.transcript.note("(the test reads again)")
        self._peer.transport.resume_reading()

    def vanish(self) -> None:
        """Answer nothing any more, not even pings, without an end of the connection: a host that lost its network."""
        self.transcript.note("(the client vanishes)")
        self._peer.is_silent = True

    def reset(self) -> None:
        """Drop the connection at once, without a close frame."""
        self.transcript.note("(the test resets the connection)")
        self._peer.transport.abort()

    # -- waiting -----------------------------------------------------------------------------------------------------

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else timeout

    async def _wait_until(self, condition: Callable[[], object], timeout: float | None) -> bool:
        """Wait until a condition holds, which is checked after each event; return whether it holds."""
        if not condition():
            with self._client._time_limit(self._seconds(timeout)):
                while not condition():
                    await self._peer.wait_for_change()
        else:
            await anyio.lowlevel.checkpoint()  # a loop around this call must not block other tasks
        return bool(condition())

    def _check_open(self) -> None:
        if self._peer.end is not None:
            raise self._ended()

    def _ended(self) -> BaseException:
        """Return what a call raises because the connection has ended: the exception of a handler, if there is one."""
        assert self._peer.end is not None
        code, reason, _ = self._peer.end
        if code == CloseCode.INTERNAL_ERROR and (exc := self._client._take_error()) is not None:
            return exc
        ended = f"the connection has ended with code {code}" + (f" ({reason})" if reason else "")
        return ConnectionClosed(failure_text(ended, self.transcript, self._client.errors), code=code, reason=reason)

    def _failure(self, problem: str) -> AssertionError:
        return AssertionError(failure_text(problem, self.transcript, self._client.errors))


class Connecting:
    """The result of `TestClient.connect`: `async with client.connect("/chat") as ws:`.

    Args:
        connect: opens the connection.
        path: the path, for messages.
    """

    def __init__(self, connect: Callable[[], Coroutine[Any, Any, TestWebSocket]], path: str) -> None:
        self._connect = connect
        self._path = path
        self._ws: TestWebSocket | None = None

    async def __aenter__(self) -> TestWebSocket:
        if self._ws is not None:
            raise ConfigurationError("this connect() was used before; call client.connect() again")
        self._ws = await self._connect()
        return self._ws

    async def __aexit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        assert self._ws is not None
        if exc is None:
            await self._ws._close(CloseCode.NORMAL, "")
        else:
            self._ws._peer.transport.abort()

    if not TYPE_CHECKING:  # type checkers report these mistakes by themselves

        def __await__(self) -> Any:
            raise ConfigurationError(self._hint())

        def __enter__(self) -> Any:
            raise ConfigurationError(f"{self._hint()}; a test without async uses SyncTestClient")

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(f"{self._hint()}, and then ws.{name}", name=name, obj=self)

    def _hint(self) -> str:
        return f"write `async with client.connect({self._path!r}) as ws:`"
