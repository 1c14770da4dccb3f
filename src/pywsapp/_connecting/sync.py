"""A connection for programs without an event loop: scripts, the REPL, threads.

A thread runs an event loop for the connection. It answers pings while the program does other things, which a blocking
socket could not do: a server would close the connection of a script that computes for a minute. The thread is a daemon,
so a connection that is still open does not keep the interpreter from ending.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import warnings
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, overload
from weakref import WeakSet

import anyio
from typing_extensions import Self, TypeVar

from pywsapp._connecting.arguments import ConnectArguments
from pywsapp._connecting.background import BackgroundConnection
from pywsapp._connecting.inbox import NORMAL_ENDS, ClientConnection, MessageT, closed
from pywsapp._event_loop import loop_options
from pywsapp._protocol.prepared import PreparedMessage, Sendable
from pywsapp.close_codes import CloseCode, check_close
from pywsapp.connection import ResultT
from pywsapp.exceptions import ConfigurationError, ConnectionClosed
from pywsapp.http import Request

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from pywsapp.codecs.kinds import Encodable

T = TypeVar("T")

#: Seconds that the end of the interpreter waits for the server's close frame.
_EXIT_SECONDS = 1.0

_open: WeakSet[SyncConnection[Any]] = WeakSet()


class LoopThread:
    """A thread that runs an event loop until `stop`."""

    def __init__(self) -> None:
        self._started: Future[asyncio.AbstractEventLoop] = Future()
        self._stop: asyncio.Event
        self._thread = threading.Thread(target=self._run, name="pywsapp client", daemon=True)
        self._thread.start()
        self._loop = self._started.result()

    def _run(self) -> None:
        try:
            anyio.run(self._main, backend="asyncio", backend_options=loop_options("asyncio", None))
        except BaseException as exc:
            if self._started.done():
                raise
            self._started.set_exception(exc)

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        self._started.set_result(asyncio.get_running_loop())
        await self._stop.wait()

    def call(self, work: Callable[[], Coroutine[Any, Any, T]], seconds: float | None = None) -> T:
        """Run a coroutine in the thread, and wait for its result.

        An exception in this thread, such as KeyboardInterrupt, cancels the coroutine.

        Args:
            work: makes the coroutine.
            seconds: how long to wait at most.

        Raises:
            RuntimeError: the thread has stopped.
            TimeoutError: it took too long.
        """
        future = asyncio.run_coroutine_threadsafe(_started(work), self._loop)
        try:
            return future.result(seconds)
        except CancelledError:
            raise RuntimeError("the thread of the connection has stopped") from None
        finally:
            future.cancel()  # does nothing if it is done

    def stop(self, *, wait: bool = True) -> None:
        """End the loop, and what runs in it."""
        with suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._stop.set)
        if wait and self._thread is not threading.current_thread():
            self._thread.join()


async def _started(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return await work()  # in the thread of the loop, where the connection must be used


class SyncConnection(Generic[MessageT]):
    """An open connection of a program without an event loop; `connect_sync` creates it.

    Use it as a context manager, or call `close`. Any thread can send and close; one thread receives at a time. Each
    method blocks, and Ctrl-C interrupts it; a connection cannot be used in a process that was forked afterwards.

    For type checkers it is generic in the type of its messages, as `ClientConnection` is.
    """

    def __init__(self, arguments: ConnectArguments) -> None:
        self._process = os.getpid()
        self._is_closed = True  # until it is open
        self._thread = LoopThread()
        try:
            self._background, self._conn = self._thread.call(lambda: _opened(arguments))
        except BaseException:
            self._thread.stop()
            raise
        self._is_closed = False
        _open.add(self)

    def __repr__(self) -> str:
        return f"<Sync{repr(self._conn)[1:]}"

    @property
    def request(self) -> Request:
        """The request that opened the connection."""
        return self._conn.request

    @property
    def subprotocol(self) -> str | None:
        """The agreed subprotocol, or None."""
        return self._conn.subprotocol

    @property
    def is_open(self) -> bool:
        """Whether neither side has begun to close. Messages can be left all the same."""
        return not self._is_closed and self._conn.is_open

    @property
    def close_code(self) -> int | None:
        """Why the connection ended, as in `Connection`; None while it is open."""
        return self._conn.close_code

    @property
    def close_reason(self) -> str:
        """The text that came with the code."""
        return self._conn.close_reason

    @property
    def was_clean(self) -> bool:
        """Whether both sides sent their close frames."""
        return self._conn.was_clean

    def send(
        self,
        message: Sendable | PreparedMessage | Encodable,
        *,
        compress: bool | None = None,
        timeout: float | None = None,
    ) -> None:
        """Send a message: a `str` as text, bytes as binary, and any other object by the codec of `connect_sync`.

        Blocks while `Options.high_water` bytes are queued.

        Args:
            message: what to send.
            compress: False never compresses it, True always, None decides as `Deflate` says.
            timeout: seconds to wait at most; None sets no limit.

        Raises:
            ConnectionClosed: the connection has ended.
            TypeError: the connection has no codec, or its codec has no form for the object.
            TimeoutError: the server has not read enough in time. The message stays queued.
        """

        async def send() -> None:
            if not self._conn.is_open:
                raise closed(self._conn)
            await self._conn.send(message, compress=compress, timeout=timeout)

        self._call(send)

    @overload
    def receive(self, *, timeout: float | None = None) -> MessageT: ...

    @overload
    def receive(self, message_type: TypeForm[T], *, timeout: float | None = None) -> T: ...

    def receive(self, message_type: Any = None, *, timeout: float | None = None) -> Any:
        """Wait for the next message and return it: a `str` for text, `bytes` for binary, or an object.

        Args:
            message_type: the type of this message; see `ClientConnection.receive`.
            timeout: seconds to wait at most; None sets no limit.

        Raises:
            ConnectionClosed: the connection has ended, and no message is left.
            TimeoutError: no message came in time. None is lost, and you can call `receive` again.
            InvalidMessage: the message is of another type. It is removed from the queue; the connection stays open.
            ConfigurationError: another thread is waiting for a message, the type cannot be read, or the connection has
                no codec that could.
        """
        return self._call(lambda: self._conn.receive(message_type, timeout=timeout))

    def call(
        self,
        method: str,
        params: Any = None,
        *,
        timeout: float | None = 10,
        result_type: TypeForm[ResultT] = Any,
    ) -> ResultT:
        """Call a procedure of the server, and return its result; see `Connection.call`.

        Args:
            method: the name of the procedure.
            params: the parameters, a dict or a list; None for none.
            timeout: seconds to wait at most; None sets no limit.
            result_type: the type of the result, which is validated; by default any.

        Raises:
            CallError: the server answered with an error, or `Options.max_pending_calls` calls wait already.
            CallTimeout: the server did not answer in time.
            InvalidMessage: the result has another type.
            ConnectionClosed: the connection has ended, or ended before the reply came.
            ConfigurationError: the connection has no codec.
        """
        return self._call(lambda: self._conn.call(method, params, timeout=timeout, result_type=result_type))

    def ping(self, timeout: float | None = 20) -> float:
        """Send a ping, wait for the pong, and return the seconds in between.

        Args:
            timeout: seconds to wait at most; None sets no limit.

        Raises:
            ConnectionClosed: the connection ends before the pong comes.
            TimeoutError: the pong did not come in time.
        """

        async def ping() -> float:
            with anyio.fail_after(timeout):
                return await self._conn.ping()

        return self._call(ping)

    def __iter__(self) -> Self:
        """Iterate over the messages; the iteration ends when the connection ends with code 1000 or 1001.

        Raises:
            ConnectionClosed: the connection has ended with another code.
            InvalidMessage: a message is of another type than the `message_type` of `connect_sync`. You can iterate
                again.
        """
        return self

    def __next__(self) -> MessageT:
        try:
            return self.receive()
        except ConnectionClosed as exc:
            if exc.code in NORMAL_ENDS:
                raise StopIteration from None
            raise

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the connection, and wait for the server's close frame, `Options.close_timeout` at most.

        Messages that were not received are dropped. A second call does nothing.

        Args:
            code: 1000 to 1003, 1007 to 1014 or 3000 to 4999.
            reason: a text for the server, at most 123 bytes of UTF-8.

        Raises:
            ConfigurationError: the code must not be sent, or the reason is too long.
        """
        check_close(code, reason)
        self._end(lambda: self._background.close(code, reason))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connection: with 1000, or with 1011 after an exception; Ctrl-C and `sys.exit` abort it."""
        if exc is None or isinstance(exc, Exception):
            self.close(CloseCode.NORMAL if exc is None else CloseCode.INTERNAL_ERROR)
        else:
            self._end(self._background.abort)

    def __del__(self) -> None:
        if not self._is_closed and self._process == os.getpid():
            warnings.warn(f"{self!r} was not closed; write `with connect_sync(url) as conn:`", ResourceWarning, 2)
            self._is_closed = True
            self._thread.stop(wait=False)

    def _call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if self._process != os.getpid():
            raise ConfigurationError("this connection belongs to the process that has opened it, not to its fork")
        if self._is_closed:
            raise closed(self._conn)
        try:
            return self._thread.call(work)
        except RuntimeError:
            if not self._is_closed:
                raise
            raise closed(self._conn) from None  # another thread has closed it meanwhile

    def _end(self, work: Callable[[], Coroutine[Any, Any, None]], seconds: float | None = None) -> None:
        if self._is_closed or self._process != os.getpid():
            return
        self._is_closed = True
        _open.discard(self)
        try:
            self._thread.call(work, seconds)
        finally:
            self._thread.stop(wait=seconds is None)

    def _exit(self) -> None:
        """Close the connection at the end of the interpreter, without waiting for long."""
        with suppress(Exception):
            self._end(lambda: self._background.close(CloseCode.GOING_AWAY), _EXIT_SECONDS)


async def _opened(arguments: ConnectArguments) -> tuple[BackgroundConnection[Any], ClientConnection[Any]]:
    background = BackgroundConnection(arguments, ClientConnection)
    return background, await background.open()


@atexit.register
def _close_all() -> None:
    for conn in list(_open):
        conn._exit()
