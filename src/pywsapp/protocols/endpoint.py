"""The component of one connection of a `TopicComponent`, between the connection, the protocol and the hooks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp._messages.conversation import Conversation, OwnConversation
from pywsapp._request_state import make_access
from pywsapp.close_codes import CloseCode
from pywsapp.component import MessageComponent
from pywsapp.protocols.client import TopicClient
from pywsapp.protocols.conversation import ProtocolConversation, Session
from pywsapp.protocols.dialects import dialect_of

if TYPE_CHECKING:
    from pywsapp.connection import Connection
    from pywsapp.options import Options
    from pywsapp.protocols.topic_component import TopicComponent
    from pywsapp.topics.topic import Topic

#: Seconds in which a client must have connected by its first message.
CONNECT_SECONDS = 10
#: Bytes of the messages of a client that has not sent its token yet.
MAX_FIRST_BYTES = 16 * 1024


class _ProtocolConversations(OwnConversation):
    def conversation(self, subprotocol: str | None, options: Options) -> Conversation:
        return dialect_of(subprotocol).conversation(options)


class _Passing:
    """Messages that pass the queue of a busy handler, in the form of calls that wait for replies.

    Args:
        session: handles such messages.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def take(self, message: str | bytes) -> bool:
        """Return whether a message does not wait; it is then handled."""
        return self._session.receive_early(message)

    def wake_one(self) -> None:
        """Do nothing: no task waits for what passes."""

    def end(self) -> None:
        """Do nothing: no task waits for what passes."""


class TopicEndpoint(MessageComponent):
    """The hooks of one connection of a `TopicComponent`, which creates it.

    Args:
        component: the component.
    """

    _passes_on = True
    _typed = _ProtocolConversations()
    session: Session
    client: TopicClient

    def __init__(self, component: TopicComponent) -> None:
        self.inner = component
        self.subprotocols = component.subprotocols

    def on_open(self, conn: Connection) -> None:
        """Begin to wait for the first message."""
        conversation, driver = conn._messages, conn._driver
        assert isinstance(conversation, ProtocolConversation)
        self.client = TopicClient(self.inner, conn)
        self.session = dialect_of(conn.subprotocol).session(self.client, conversation)
        make_access(conn.request).alarm = (time.time() + CONNECT_SECONDS, lambda: self._too_late(conn))
        if not isinstance(driver, Lifecycle):
            return
        driver.wait_for_replies(_Passing(self.session), more=False)
        driver.machine.before_close = self.session.closing
        driver.user_changed()
        if self.inner.authenticate_token is not None and conn.user is None:
            driver.limit_messages(MAX_FIRST_BYTES)
            self.inner._waiting.add(conn)

    def _too_late(self, conn: Connection) -> None:
        if not self.client.is_connected:
            conn.close(CloseCode.POLICY_VIOLATION, "the client has not connected in time")

    def on_message(self, conn: Connection, message: Any) -> Any:
        """Pass a message to the protocol."""
        return self.session.receive(message)

    def on_close(self, conn: Connection) -> Any:
        """Call the hook of the component, if its `on_open` was called."""
        self.session.end()
        make_access(conn.request).alarm = None  # it refers to the connection
        self.inner._waiting.discard(conn)
        return self.inner.on_close(conn) if self.client.is_connected else None

    def on_subscribe(self, conn: Connection, topic: Topic) -> Any:
        """Call the hook of the component."""
        return self.inner.on_subscribe(conn, topic)

    def on_unsubscribe(self, conn: Connection, topic: Topic) -> Any:
        """Call the hook of the component, and tell the client if the server has ended the subscription."""
        if self.client.left(topic):
            self.session.unsubscribed(topic)
        return self.inner.on_unsubscribe(conn, topic)

    def on_error(self, conn: Connection, exc: Exception) -> Any:
        """Call the hook of the component."""
        return self.inner.on_error(conn, exc)
