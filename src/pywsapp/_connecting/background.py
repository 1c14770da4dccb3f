"""A connection that runs in a task of its own, so that one call can open it and another one can close it.

asyncio has tasks without a task group. trio has system tasks, which it cancels when the main task of the program has
ended; `_transports.adopt` has more about them.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Generic, TypeVar

import anyio

from pywsapp._connecting.arguments import ConnectArguments
from pywsapp._connecting.inbox import ClientConnection
from pywsapp._connecting.typed_inbox import dial_to_receive
from pywsapp._event_loop import CallSoon, on_asyncio, thread_safe_call_soon
from pywsapp._log_fields import log_fields

logger = logging.getLogger("pywsapp")

ConnectionT = TypeVar("ConnectionT", bound=ClientConnection[Any])

#: asyncio keeps only weak references to its tasks.
_tasks: set[asyncio.Task[None]] = set()


class BackgroundConnection(Generic[ConnectionT]):
    """One connection that runs in a task of its own. Create it in a task.

    Args:
        arguments: where to connect to, and how.
        kind: the class of the connection.

    Attributes:
        ended: set when the connection has ended, or could not be opened.
    """

    def __init__(self, arguments: ConnectArguments, kind: type[ConnectionT]) -> None:
        self._inbox, self._http = dial_to_receive(arguments, kind)
        self._kind = kind
        self._scope = anyio.CancelScope()
        self._failure: Exception | None = None
        self._call_soon: CallSoon | None = None
        self.ended = anyio.Event()

    async def open(self) -> ConnectionT:
        """Connect, and return the connection; cancelling this call ends the attempt.

        Raises:
            HandshakeError: the server refused the handshake, answered it wrongly, or not in time.
            OSError: the server cannot be reached.
        """
        self._call_soon = start_in_background(self._run)
        try:
            await self._http.decided.wait()
            conn = self._http.conn
            if conn is None:
                await self.ended.wait()
        except BaseException:
            self._scope.cancel()
            with anyio.CancelScope(shield=True):
                await self.ended.wait()
            raise
        if isinstance(conn, self._kind):
            return conn
        failure, self._failure = self._failure, None
        assert failure is not None
        raise failure

    async def _run(self) -> None:
        try:
            with self._scope:
                await self._http.run()
        except Exception as exc:
            if self._http.conn is not None:
                logger.exception(
                    "a client connection failed", extra=log_fields("client.failed")
                )  # a defect of the library
            self._failure = exc
        finally:
            if self._failure is None:
                self._failure = ConnectionAbortedError("the event loop ended before the connection was open")
            self._http.decided.set()
            self.ended.set()

    async def close(self, code: int, reason: str = "") -> None:
        """Close the connection, drop the messages that wait for `receive`, and wait until it has ended."""
        if self._http.conn is not None:
            self._inbox.discard()  # or a handler would wait for space in it
            await self._http.conn.close(code, reason)
            await self.ended.wait()

    async def abort(self) -> None:
        """Abort the connection, drop the messages that wait for `receive`, and wait until it has ended."""
        if self._http.conn is not None:
            self._inbox.discard()
            self._http.conn.abort()
            await self.ended.wait()

    def leave(self, code: int) -> None:
        """Close the connection from any place: of a destructor, and of another thread. Never blocks."""
        if self._call_soon is not None and not self.ended.is_set():
            with suppress(RuntimeError):  # the event loop has ended, and the connection with it
                self._call_soon(lambda: self._leave(code))

    def _leave(self, code: int) -> None:
        self._inbox.discard()
        if self._http.conn is not None:
            self._http.conn.close(code)
        else:
            self._scope.cancel()


def start_in_background(work: Callable[[], Coroutine[Any, Any, None]]) -> CallSoon:
    """Start a task that belongs to no task group; return a function that calls another one in this event loop.

    Args:
        work: what the task does; it must raise nothing.
    """
    if on_asyncio():
        task = asyncio.get_running_loop().create_task(work())
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
    else:
        lowlevel: Any = sys.modules["trio"].lowlevel
        lowlevel.spawn_system_task(work, context=contextvars.copy_context())
    return thread_safe_call_soon()
