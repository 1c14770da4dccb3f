"""The port between a `TopicComponent` and the protocols that its clients speak.

A protocol reads the messages of a client, asks its `TopicClient` for what the client wants, and writes the replies.
Messages of topics do not pass the protocol: each is prepared once for all clients, in the protocol's delivery form.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pywsapp._messages.conversation import Conversation
from pywsapp._messages.objects import ObjectText, content_of, default_topic_codec, no_message, object_content
from pywsapp._protocol.prepared import PreparedMessage
from pywsapp.connection import use_forms
from pywsapp.protocols.views import Backlog
from pywsapp.topics.delivery import DeliveryForm, send_direct

if TYPE_CHECKING:
    from pywsapp.codecs.base import Codec
    from pywsapp.connection import Connection
    from pywsapp.options import Options
    from pywsapp.protocols.client import TopicClient
    from pywsapp.topics.codec import Content
    from pywsapp.topics.topic import Topic


class FormedMessage(PreparedMessage):
    """A message in a delivery form, as distinct from one that an application sends."""

    __slots__ = ()


class ProtocolConversation(Conversation):
    """The messages of one connection of a protocol. `conn.send` sends in the form of the protocol.

    Args:
        codec: the codec of the connection.
        options: the limits.
        form: the form in which the client gets messages.
    """

    __slots__ = ("_backlog", "form", "options")

    form: DeliveryForm

    def __init__(self, codec: Codec, options: Options, form: DeliveryForm) -> None:
        super().__init__(codec, None, options)
        use_forms(send_direct)
        self.options = options
        self._backlog: Backlog | None = None
        self.form = form  # pyright: ignore[reportIncompatibleVariableOverride] # it is never replaced

    def backlog_of(self, conn: Connection) -> Backlog:
        """Return the messages that wait for the connection, which reads slowly."""
        if self._backlog is None:
            self._backlog = Backlog(conn, self.options.max_outbox)
        return self._backlog

    def forget(self, name: str) -> None:
        """Drop the messages of a topic that wait for the connection."""
        if self._backlog is not None:
            self._backlog.forget(name)

    def encoded(self, message: Any) -> Any:
        """Return what the outbox sends for a message.

        Raises:
            TypeError: the message has no form in JSON.
        """
        return message if type(message) is FormedMessage else self.form.prepare_direct(content_for(message))


class Session(ABC):
    """The requests and replies of one client of a protocol. The endpoint of the connection creates it."""

    @abstractmethod
    def receive(self, message: str | bytes) -> Awaitable[None] | None:
        """Handle a message of the client; return what must be awaited before the next one."""

    @abstractmethod
    def receive_early(self, message: str | bytes) -> bool:
        """Handle a message that need not wait until earlier ones are handled; return whether it is one."""

    @abstractmethod
    def unsubscribed(self, topic: Topic) -> None:
        """Send that the server has ended a subscription."""

    @abstractmethod
    def expiring(self, seconds: int) -> None:
        """Request new credentials from the client, because those of the connection expire."""

    @abstractmethod
    def closing(self, code: int, reason: str) -> None:
        """Send what the client does after the end of the connection, which this side is about to close."""

    @abstractmethod
    def end(self) -> None:
        """Drop what waits: the connection has ended."""


class Dialect(ABC):
    """A protocol with one codec, which a subprotocol names. All its connections share one object."""

    @abstractmethod
    def conversation(self, options: Options) -> ProtocolConversation:
        """Return the messages of a new connection."""

    @abstractmethod
    def session(self, client: TopicClient, conversation: ProtocolConversation) -> Session:
        """Return the session of a new connection."""


def content_for(message: Any, codec: Codec | None = None) -> Content:
    """Return the content of a message of an application: text, bytes, or an object in a codec.

    Args:
        message: the message.
        codec: the codec of a topic; JSON takes its place for an object without a form in it. None is JSON.

    Raises:
        TypeError: it has no form in JSON, or is None.
    """
    if isinstance(message, PreparedMessage):
        return content_of(message)
    if isinstance(message, str):
        return message
    if isinstance(message, (bytes, bytearray, memoryview)):
        return bytes(message)
    if message is None:
        raise no_message()
    if codec is not None:
        with suppress(TypeError, ValueError, OverflowError, RecursionError):
            return object_content(codec.encode(message), codec)
    return ObjectText(default_topic_codec().encode(message))
