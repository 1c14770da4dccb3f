"""The messages of one connection: its codec, what reads its messages, and what was invalid."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from pywsapp._http_text import one_line
from pywsapp._log_fields import log_fields
from pywsapp._messages.calls import Calls
from pywsapp._messages.objects import PreparedObject, no_message
from pywsapp._protocol.prepared import PreparedMessage
from pywsapp.close_codes import CloseCode
from pywsapp.exceptions import ConfigurationError, InvalidMessage

if TYPE_CHECKING:
    from pywsapp._messages.typed import TypedMessages
    from pywsapp.codecs.base import Codec
    from pywsapp.connection import Connection
    from pywsapp.options import Options
    from pywsapp.topics.delivery import DeliveryForm

logger = logging.getLogger("pywsapp")

#: The name of invalid messages in `App.stats().limits`.
INVALID_MESSAGES = "invalid_messages"
_RAW = (str, bytes, PreparedMessage, bytearray, memoryview)
#: Characters of the text and the path of an error that the peer gets, and the log; libraries repeat tags of the peer.
MAX_TEXT = 500


class OwnConversation(ABC):
    """Makes the conversations of a component that speaks a protocol with codecs of its own."""

    @abstractmethod
    def conversation(self, subprotocol: str | None, options: Options) -> Conversation:
        """Return the conversation of a connection."""


class Conversation:
    """The messages of one connection with a codec.

    Args:
        codec: the codec of the connection.
        typed: what its component accepts; None if it takes text and bytes.
        options: the limits.
        reads_replies: whether replies to calls are read; by default only those to a component with typed messages.

    Raises:
        ConfigurationError: the codec cannot read what the component accepts.
    """

    __slots__ = ("_calls", "_count", "_options", "_read", "_reads_replies", "codec")

    #: The delivery form of topics; None for the usual one.
    form: DeliveryForm | None = None

    def __init__(
        self, codec: Codec, typed: TypedMessages | None, options: Options, *, reads_replies: bool = False
    ) -> None:
        self.codec = codec
        self._read = None if typed is None else typed.reader(codec)
        self._reads_replies = reads_replies or typed is not None
        self._options = options
        self._calls: Calls | None = None
        self._count = 0

    def receive(self, component: Any, conn: Connection, message: str | bytes) -> Any:
        """Read a message and call its handler; return what the handler returned."""
        assert self._read is not None
        if self._calls is not None and self._calls.take(message):
            return None
        try:
            handler, value = self._read(message)
        except InvalidMessage as exc:
            return self.invalid(component, conn, exc)
        return handler(component, conn, value)

    def invalid(self, component: Any, conn: Connection, exc: InvalidMessage) -> Any:
        """Count an invalid message, and call `on_invalid`; return what it returned."""
        note_invalid(conn, exc)
        return component.on_invalid(conn, exc)

    def encoded(self, message: Any) -> Any:
        """Return what the outbox sends for a message: text and bytes as they are, objects by the codec.

        Raises:
            TypeError: the codec has no form for the object, or the message is None.
        """
        if type(message) is PreparedObject:
            return message.form_for(self.codec)
        if isinstance(message, _RAW):
            return message
        if message is None:
            raise no_message()
        return self.codec.encode(message)

    def calls(self) -> Calls:
        """Return the calls to the peer.

        Raises:
            ConfigurationError: no handler of typed messages reads the replies, or the codec cannot read them.
        """
        if not self._reads_replies:
            raise ConfigurationError(
                "conn.call needs a component with typed messages, which reads the replies: annotate `message` of "
                "on_message with a type such as dict, or use @on or @rpc"
            )
        if self._calls is None:
            self._calls = Calls(self.codec, self._options.max_pending_calls)
        return self._calls

    def takes_reply(self, message: str | bytes) -> bool:
        """Return whether a message is the reply to a call; the call then gets it."""
        return self._calls is not None and self._calls.take(message)

    def end_calls(self) -> None:
        """Fail the calls that wait, because no reply will be read."""
        if self._calls is not None:
            self._calls.end()

    def refuse(self, conn: Connection, exc: InvalidMessage) -> None:
        """Send an error message, and close the connection if there were too many."""
        error = {"code": exc.code, "message": exc.reason[:MAX_TEXT], "path": exc.path[:MAX_TEXT]}
        answer = {"type": "error", **error} if exc.call_id is None else {"id": exc.call_id, "error": error}
        conn.send(self.codec.encode_error(answer))
        self._count += 1
        limit = self._options.max_invalid_messages
        if limit is not None and self._count >= limit:
            conn.close(CloseCode.INVALID_PAYLOAD, "too many invalid messages")


def note_invalid(conn: Connection, exc: Exception) -> None:
    """Count and log a message of a client that cannot be read."""
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug(
            "%r sent an invalid message: %s",
            conn,
            one_line(str(exc)[:MAX_TEXT]),
            extra=log_fields("message.invalid", conn, error=str(exc)),
        )
    if conn._driver is not None:
        conn._driver.exceeded(INVALID_MESSAGES)
