"""Connections of a client with a codec: they send objects, read what they receive, and call procedures of the server.

The inbox reads a message when `receive` takes it, and passes replies to the calls that wait for them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pywsapp._connecting.client_messages import ClientMessages
from pywsapp._connecting.dialing import Dialing
from pywsapp._connecting.inbox import ClientConnection, Inbox, LoopConnection, read_by
from pywsapp._messages.conversation import Conversation
from pywsapp._outbox.awaitables import LazyCoroutine
from pywsapp.close_codes import CloseCode
from pywsapp.connection import Connection
from pywsapp.http import Request
from pywsapp.options import Options

if TYPE_CHECKING:
    from pywsapp._connecting.arguments import ConnectArguments
    from pywsapp._protocol.prepared import PreparedMessage, Sendable
    from pywsapp.codecs.base import Decoder
    from pywsapp.codecs.kinds import Encodable


class TypedClientConnection(ClientConnection[Any]):
    """A connection with a codec; users see the methods of a `ClientConnection` only."""

    __slots__ = ()
    _inbox: TypedInbox

    @property
    def _messages(self) -> Conversation:
        return self._inbox.conversation

    def send(
        self,
        message: Sendable | PreparedMessage | Encodable,
        *,
        compress: bool | None = None,
        timeout: float | None = None,
    ) -> LazyCoroutine[None]:
        """Send a message; see `ClientConnection.send`."""
        return super().send(self._messages.encoded(message), compress=compress, timeout=timeout)

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> LazyCoroutine[None]:
        """Close the connection, and fail its calls; see `Connection.close`."""
        closed = super().close(code, reason)
        self._messages.end_calls()
        return closed


class TypedLoopConnection(LoopConnection[Any], TypedClientConnection):  # pyright: ignore[reportUnsafeMultipleInheritance] # each calls the next
    """A connection of a `reconnecting` loop with a codec."""

    __slots__ = ()


class TypedInbox(Inbox):
    """The inbox of a connection with a codec.

    Args:
        limit: the number of messages after which `on_message` waits.
        messages: how messages are read.
        options: the limits.

    Attributes:
        conversation: the codec of the connection and its calls, from its acceptance on.
    """

    def __init__(self, limit: int, messages: ClientMessages, options: Options) -> None:
        super().__init__(limit)
        self.conversation: Conversation
        self._typed_messages = messages
        self._options = options
        self._decode: Decoder | None = None

    def connection_maker(self, kind: type[ClientConnection[Any]]) -> Callable[..., ClientConnection[Any]]:
        """Return what makes the connection; see `Inbox.connection_maker`."""
        typed_kind = TypedLoopConnection if issubclass(kind, LoopConnection) else TypedClientConnection

        def make(request: Request, subprotocol: str | None, *arguments: Any) -> ClientConnection[Any]:
            codec, self._decode = self._typed_messages.choose(subprotocol)
            self.conversation = Conversation(codec, None, self._options, reads_replies=True)
            return typed_kind(self, request, subprotocol, *arguments)

        return make

    def on_message(self, conn: Connection, message: str | bytes) -> Any:
        return None if self.conversation.takes_reply(message) else super().on_message(conn, message)

    async def take(self, conn: Connection) -> Any:
        """Wait for the oldest message, remove it from the queue, and read it; see `Inbox.take`.

        Raises:
            InvalidMessage: it is of another type than `message_type` of the client.
        """
        message = await super().take(conn)
        return message if self._decode is None else read_by(self._decode, message)

    def decoder(self, kind: Any) -> Decoder | None:
        """Return what reads messages of a type; see `Inbox.decoder`."""
        return self._typed_messages.decoder(self.conversation.codec, kind)


def dial_to_receive(arguments: ConnectArguments, kind: type[ClientConnection[Any]]) -> tuple[Inbox, Dialing]:
    """Return the inbox of a new connection, and what opens it.

    Args:
        arguments: where to connect to, and how.
        kind: the class of the connection.
    """
    options, messages = arguments.options, arguments.messages
    inbox = Inbox(options.max_queue) if messages is None else TypedInbox(options.max_queue, messages, options)
    arguments = arguments._replace(options=dataclasses.replace(options, max_queue=1))
    return inbox, Dialing(inbox, arguments, inbox.connection_maker(kind))
