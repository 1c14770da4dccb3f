"""The connection of a route with a codec, or of a component with typed messages."""

from __future__ import annotations

from typing import Any

from pywsapp._messages.conversation import Conversation
from pywsapp._outbox.awaitables import LazyCoroutine
from pywsapp._protocol.prepared import PreparedMessage, Sendable
from pywsapp.close_codes import CloseCode
from pywsapp.codecs.kinds import Encodable
from pywsapp.connection import Connection


class TypedConnection(Connection):
    """A connection that has a codec: `send` takes objects too. It shows users nothing else than a `Connection`."""

    __slots__ = ("_conversation",)

    def __init__(self, conversation: Conversation, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._conversation = conversation

    @property
    def _messages(self) -> Conversation:
        return self._conversation

    def send(
        self, message: Sendable | PreparedMessage | Encodable, *, compress: bool | None = None
    ) -> LazyCoroutine[None]:
        """Send a message; see `Connection.send`."""
        return self._outbox.send(self._conversation.encoded(message), compress)

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> LazyCoroutine[None]:
        """Close the connection, and fail its calls; see `Connection.close`."""
        closed = super().close(code, reason)
        self._conversation.end_calls()
        return closed
