"""A connection that a client receives from, and the queue of its messages."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Generic, overload

import anyio
import anyio.lowlevel
from typing_extensions import Self, TypeVar

from pywsapp._alarm import alarm_type
from pywsapp._connecting.client_messages import make_decoder
from pywsapp._outbox.awaitables import LazyAwaitable, LazyCoroutine
from pywsapp.close_codes import CloseCode
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection
from pywsapp.exceptions import ConfigurationError, ConnectionClosed, InvalidMessage

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from pywsapp._alarm import Alarm
    from pywsapp._protocol.prepared import PreparedMessage, Sendable
    from pywsapp.codecs.base import Decoder
    from pywsapp.codecs.kinds import Encodable

#: Iteration ends without an exception at these close codes.
NORMAL_ENDS = (CloseCode.NORMAL, CloseCode.GOING_AWAY)

T = TypeVar("T")
#: The type of the messages that a client receives, for type checkers.
MessageT = TypeVar("MessageT", covariant=True, default=str | bytes)


class ClientConnection(Connection[Any], Generic[MessageT]):
    """A connection that this side opened, and receives from; `connect` creates it.

    It has everything that a `Connection` has. Messages wait in a queue until `receive` or `async for` takes them. When
    `Options.max_queue` messages wait, reading from the socket stops, and TCP slows the server down. Pings and pongs are
    not read either then, so a program that is busy for longer than the server's ping timeout must go on receiving.

    One task receives at a time; any number of tasks can send.

    For type checkers it is generic: `ClientConnection[Say | Joined]` receives what `connect(url, message_type=Say |
    Joined)` does. Without a `message_type`, messages come as `str` or `bytes`.
    """

    __slots__ = ("_inbox",)

    def __init__(self, inbox: Inbox, *args: Any) -> None:
        super().__init__(*args)
        self._inbox = inbox

    @overload
    async def receive(self, *, timeout: float | None = None) -> MessageT: ...  # noqa: ASYNC109 - of one message

    @overload
    async def receive(self, message_type: TypeForm[T], *, timeout: float | None = None) -> T: ...  # noqa: ASYNC109

    async def receive(self, message_type: Any = None, *, timeout: float | None = None) -> Any:  # noqa: ASYNC109
        """Wait for the next message and return it: a `str` for text, `bytes` for binary, or an object.

        Cancelling a waiting `receive` loses no message. Messages that arrived before the end are returned first.

        Args:
            message_type: the type of this message, a class or a union, in place of the `message_type` of `connect`:
                what the annotation of `on_message` can be. `str | bytes` is the message as it came.
            timeout: seconds to wait at most; None sets no limit.

        Raises:
            ConnectionClosed: the connection has ended, and no message is left.
            TimeoutError: no message came in time. None is lost, and you can call `receive` again.
            InvalidMessage: the message is of another type. It is removed from the queue; the connection stays open.
            ConfigurationError: another task is waiting in `receive` or `async for`, the type cannot be read, or the
                connection has no codec that could.
        """
        inbox = self._inbox
        if timeout is None:
            return await (inbox.take(self) if message_type is None else inbox.take_as(self, message_type))
        try:
            with anyio.fail_after(timeout):
                return await (inbox.take(self) if message_type is None else inbox.take_as(self, message_type))
        except TimeoutError:
            raise TimeoutError(f"no message within {timeout} seconds") from None

    def send(
        self,
        message: Sendable | PreparedMessage | Encodable,
        *,
        compress: bool | None = None,
        timeout: float | None = None,
    ) -> LazyCoroutine[None]:
        """Send a message; see `Connection.send`. Never blocks.

        Args:
            message: what to send: a `str` as text, bytes as binary, and any other object by the codec of `connect`.
            compress: False never compresses it, True always, None decides as `Deflate` says.
            timeout: seconds that awaiting the result may take; None sets no limit.

        Returns:
            an awaitable. Awaiting it waits while more than `Options.high_water` bytes are queued. It need not be
            awaited.

        Raises:
            TypeError: the connection has no codec, or its codec has no form for the object.
            TimeoutError: on awaiting, the server has not read enough in time. The message stays queued, so do not send
                it again on this connection.
            ConfigurationError: the text cannot be encoded as UTF-8, or the caller runs in another thread.
        """
        sent = self._outbox.send(message, compress)  # type: ignore[arg-type] # raises for an object
        return sent if timeout is None else LazyAwaitable(lambda: _in_time(sent, timeout))

    def __aiter__(self) -> AsyncIterator[MessageT]:
        """Iterate over the messages; the iteration ends when the connection ends with code 1000 or 1001.

        Raises:
            ConnectionClosed: the connection has ended with another code.
            InvalidMessage: a message is of another type than the `message_type` of `connect`. You can iterate again.
        """
        return self

    async def __anext__(self) -> MessageT:
        try:
            return await self._inbox.take(self)  # type: ignore[no-any-return]
        except ConnectionClosed as exc:
            if exc.code in NORMAL_ENDS:
                raise StopAsyncIteration from None
            raise


async def _in_time(sent: LazyCoroutine[None], timeout: float) -> None:  # noqa: ASYNC109 - of one message
    try:
        with anyio.fail_after(timeout):
            await sent
    except TimeoutError:
        raise TimeoutError(f"the server has not read enough within {timeout} seconds") from None


class LoopConnection(ClientConnection[MessageT]):
    """A connection of a `reconnecting` loop: a `ClientConnection` whose loss ends the body of the loop.

    `async for message in conn` ends without an exception whatever the close code is, because the loop decides what
    follows. `receive` raises ConnectionClosed, which leaves the loop unless you catch it. `async with conn:` catches it
    for you:

        async for conn in reconnecting(url):
            async with conn:
                await conn.send("hello")
                print(await conn.receive())
    """

    __slots__ = ("_was_left_open",)

    def __init__(self, inbox: Inbox, *args: Any) -> None:
        super().__init__(inbox, *args)
        self._was_left_open = False

    async def __anext__(self) -> MessageT:
        try:
            return await self._inbox.take(self)  # type: ignore[no-any-return]
        except ConnectionClosed:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        """Enter a block that a loss of this connection ends without an exception."""
        return self

    async def __aexit__(self, kind: object, exc: BaseException | None, traceback: object) -> bool:
        """Close the connection: with 1000, or with 1011 after an exception; a cancellation aborts it."""
        if exc is None:
            self._was_left_open = self.is_open
            await self.close()
        elif not self.is_open and _is_loss(exc):
            return True
        elif isinstance(exc, Exception):
            await self.close(CloseCode.INTERNAL_ERROR)
        else:
            self.abort()
        return False


def _is_loss(exc: BaseException) -> bool:
    """Return whether an exception is ConnectionClosed, or a group of nothing else, as task groups raise it."""
    inner: tuple[BaseException, ...] = getattr(exc, "exceptions", ())
    return isinstance(exc, ConnectionClosed) or (bool(inner) and all(map(_is_loss, inner)))


class Inbox(MessageComponent):
    """The component of a `ClientConnection`: it queues the messages that `receive` takes.

    While the queue is full, `on_message` waits. The lifecycle then stops reading, as for any handler that is busy, when
    one more message has arrived: so its own queue has a limit of 1.

    Args:
        limit: the number of messages after which `on_message` waits.
    """

    def __init__(self, limit: int) -> None:
        self._messages: deque[str | bytes] = deque()
        self._limit = limit
        self._make_alarm = alarm_type()
        self._arrival: Alarm | None = None  # a task waits for a message
        self._space: anyio.Event | None = None  # on_message waits for space in the queue
        self._receiving = False
        self._discarding = False
        self._ended = False

    def connection_maker(self, kind: type[ClientConnection[Any]]) -> Callable[..., ClientConnection[Any]]:
        """Return what makes the connection, a `kind`; it is called with the arguments of `Connection`."""
        return functools.partial(kind, self)

    def on_message(self, conn: Connection, message: str | bytes) -> Any:
        if self._discarding:
            return None
        self._messages.append(message)
        if self._arrival is not None:
            self._arrival.set()
        return self._wait_for_space() if len(self._messages) >= self._limit else None

    def on_close(self, conn: Connection) -> None:
        self._ended = True
        if self._arrival is not None:
            self._arrival.set()

    async def _wait_for_space(self) -> None:
        while len(self._messages) >= self._limit:
            self._space = anyio.Event()
            await self._space.wait()

    async def take(self, conn: Connection) -> Any:
        """Wait for the oldest message and remove it from the queue.

        Raises:
            ConnectionClosed: the connection has ended, and no message is left.
            ConfigurationError: another task is waiting.
        """
        if self._receiving:
            raise ConfigurationError(
                "two tasks receive from one connection at the same time; let one task receive and pass messages on"
            )
        self._receiving = True
        try:
            while not self._messages:
                if self._ended:
                    await anyio.lowlevel.checkpoint()  # a loop that ignores the exception must not block other tasks
                    raise closed(conn)
                self._arrival = self._make_alarm()
                await self._arrival.wait()
        finally:
            self._arrival = None
            self._receiving = False
        # Nothing is awaited from here on, or a cancellation would lose the message. Without waiting, a task can take no
        # more than the queue holds: it is filled only when the event loop runs.
        message = self._messages.popleft()
        if len(self._messages) <= self._limit // 2:
            self._resume()
        return message

    async def take_as(self, conn: Connection, kind: Any) -> Any:
        """Wait for the oldest message, remove it from the queue, and return it as an object of a type.

        Raises:
            ConfigurationError: the type cannot be read; no message is lost then.
            InvalidMessage: the message is of another type.
            ConnectionClosed: as `take` does.
        """
        decode = self.decoder(kind)
        message = await Inbox.take(self, conn)
        return message if decode is None else read_by(decode, message)

    def decoder(self, kind: Any) -> Decoder | None:
        """Return what reads messages of a type; None if they stay as they came.

        Raises:
            ConfigurationError: the type cannot be read.
        """
        return make_decoder(None, kind)

    def discard(self) -> None:
        """Drop the messages that wait, and all later ones."""
        self._discarding = True
        self._messages.clear()
        self._resume()

    def _resume(self) -> None:
        if self._space is not None:
            self._space.set()
            self._space = None


def read_by(decode: Decoder, message: str | bytes) -> Any:
    """Return the object that a message is, or raise InvalidMessage with the message."""
    try:
        return decode(message)
    except InvalidMessage as exc:
        exc.raw = message
        raise


def closed(conn: Connection) -> ConnectionClosed:
    """Return the exception for a connection that has ended."""
    code, reason = conn.close_code, conn.close_reason
    return ConnectionClosed(
        f"the connection ended with code {code}" + (f" ({reason})" if reason else ""), code=code, reason=reason
    )
