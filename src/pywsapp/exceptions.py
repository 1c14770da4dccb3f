"""Every exception of the library, in one tree.

PywsappError
 +-- ConfigurationError    the program uses the library in a wrong way (also a ValueError)
 +-- Refuse                raised in `on_handshake` or `on_request`: answer the request with an error status
 |    +-- InvalidCredentials   the credentials of a client are not valid: status 401, or close code 4401
 +-- HandshakeError        client role: the server did not accept the handshake
 +-- ProxyError            client role: the proxy cannot be used (also an OSError)
 +-- ConnectionClosed      the connection closed before the awaited event happened
 +-- TopicError            a client asked for a topic that it cannot have (also a ValueError)
 |    +-- NotAuthorized        `authorize` does not allow it
 +-- BrokerUnavailable     the broker did not accept a message
 |    +-- OutcomeUnknown   the broker may have accepted a message all the same
 +-- SessionError          a session cannot be saved here, or not any more
 |    +-- SessionEnded         the session was destroyed or has expired
 |    +-- SessionUnavailable   the store of sessions failed
 +-- InvalidMessage        a message of the peer is not what its handler accepts
 +-- CallError             the peer answered a call with an error, or a procedure answers with one
 +-- CallTimeout           the peer did not answer a call in time (also a TimeoutError)
 +-- MessagesLost          client role: messages of a topic are missing, because its history does not have them any more
 +-- QueueFull             client role: too many messages or requests of topics wait
 +-- ProtocolError         the peer violated the protocol or a limit; carries the close code for it
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pywsapp.http import Headers

HeaderItems = Mapping[str, str] | Iterable[tuple[str, str]]


class PywsappError(Exception):
    """The base class of every exception that the library raises."""


class ConfigurationError(PywsappError, ValueError):
    """A mistake in the program that uses the library; the message says how to fix it."""


class Refuse(PywsappError):
    """Answer a request with an HTTP status instead of accepting it.

    Raise it in `on_handshake` or `on_request`; no other method of the component is called for that request.

    Args:
        status: the HTTP status, 400 to 599 (300 to 399 with a Location header).
        headers: header fields of the response.
        body: one line for the peer that says why; by default the standard phrase of the status.

    Raises:
        ConfigurationError: the status is out of range.
    """

    def __init__(self, status: int, headers: HeaderItems | None = None, body: str | bytes | None = None) -> None:
        if not isinstance(status, int) or not 300 <= status <= 599:
            raise ConfigurationError(f"Refuse takes an HTTP status from 300 to 599, not {status!r}")
        super().__init__(status, body)
        self.status = status
        self.headers: tuple[tuple[str, str], ...] = tuple(
            headers.items() if isinstance(headers, Mapping) else headers or ()
        )
        self.body = body

    def __str__(self) -> str:
        body = self.body.decode("utf-8", "replace") if isinstance(self.body, bytes) else self.body
        return f"{self.status} {body}" if body else str(self.status)


class InvalidCredentials(Refuse):
    """The credentials of a client are missing, malformed, expired or not valid.

    `authenticate` raises it to refuse a request with status 401. The authenticators of `pywsapp.auth` also raise it for
    a token that comes over an open connection; the default `on_error` then closes that connection with code 4401. The
    text never contains the credentials.

    Args:
        body: one line for the peer that says why.
        challenge: the value of the WWW-Authenticate field (RFC 9110, section 11.6.1).
    """

    def __init__(self, body: str = "the credentials are missing or not valid", challenge: str | None = None) -> None:
        super().__init__(401, None if challenge is None else {"WWW-Authenticate": challenge}, body)


class HandshakeError(PywsappError):
    """Client role: the server refused the handshake, or its response is not valid.

    Attributes:
        status: the HTTP status of the response, or None if there was no valid response.
        headers: the header fields of the response; None without a valid response.
        body: the first bytes of the response's content, 1024 at most.
    """

    def __init__(
        self, reason: str, status: int | None = None, *, headers: Headers | None = None, body: bytes = b""
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = headers
        self.body = body


class ProxyError(PywsappError, OSError):
    """Client role: the proxy cannot be used: it cannot be reached, refused, or answered wrongly.

    It is an OSError, like a server that cannot be reached. The text never contains the credentials for the proxy.

    Attributes:
        status: the HTTP status of the proxy's answer, or None if there was none.
    """

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


class ConnectionClosed(PywsappError):
    """The connection ended before the message or the pong that was awaited arrived.

    Attributes:
        code: the close code of the connection; None if it is not known.
        reason: the text that came with the code.
    """

    def __init__(self, message: str, code: int | None = None, reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class TopicError(PywsappError, ValueError):
    """A client asked for a topic that it cannot have.

    The name or the position is not valid, the connection has too many topics, or the component refuses the
    subscription. By default the client gets close code 1008 with the text of this exception.
    """


class NotAuthorized(TopicError):
    """`authorize` does not allow an action of a connection on a topic.

    Attributes:
        action: the refused action: "subscribe", "publish", "presence" or "history".
        topic: the name of the topic.
    """

    def __init__(self, action: str, topic: str) -> None:
        super().__init__(f"{_TRIED.get(action, action)} {topic!r} is not allowed")
        self.action = action
        self.topic = topic


#: The actions of `authorize`, as a message names them.
_TRIED = {
    "subscribe": "subscribing to",
    "publish": "publishing on",
    "presence": "being present in",
    "history": "reading the history of",
}


class BrokerUnavailable(PywsappError):
    """The broker did not accept a message for other processes, and will not publish it later.

    After the subclass `OutcomeUnknown`, the broker may have accepted the message.
    """


class OutcomeUnknown(BrokerUnavailable):
    """The broker became unavailable, or did not answer in time, while a message was on its way.

    The message may have been published, and may still be. Publishing it again under the same id does not double it.

    Attributes:
        message_id: the id of the message; None if it has none, or only its publisher knows it.
    """

    def __init__(self, reason: str, message_id: str | None = None) -> None:
        super().__init__(reason)
        self.message_id = message_id


class SessionError(PywsappError):
    """A session cannot be saved, or a store has something that it cannot read; the message says why."""


class SessionEnded(SessionError):
    """A session cannot be saved any more, because it was destroyed or has expired: the user has logged out."""


class SessionUnavailable(SessionError):
    """The store of sessions failed, or did not answer in time.

    A handshake or plain request in which it is raised is answered with status 503.
    """


class InvalidMessage(PywsappError):
    """A message of the peer cannot be read, or is not what its handler accepts.

    A codec raises it, and a handler of typed messages can. `MessageComponent.on_invalid` gets it. Its text and its path
    are for the peer, which by default gets both.

    Attributes:
        reason: what is wrong.
        path: where it is wrong: "$" is the message, "$.text" a field.
        code: the kind of the error: "invalid_message", or "invalid_params" and "unknown_method" for a call.
        call_id: the id of the call that the message is; None if it is no call, or one without an id.
        raw: the message as it came, if a client has received it; else None.
    """

    def __init__(
        self, reason: str, path: str = "$", code: str = "invalid_message", call_id: str | int | None = None
    ) -> None:
        super().__init__(reason if path == "$" else f"{reason} (at {path})")
        self.reason = reason
        self.path = path
        self.code = code
        self.call_id = call_id
        self.raw: str | bytes | None = None


class CallError(PywsappError):
    """A call failed: `conn.call` raises it for an answer with an error, and a procedure raises it to answer with one.

    A client of topics raises it for every request that the server answers with an error.

    Args:
        code: names the error for programs, such as "not_found".
        message: a text for developers.

    Attributes:
        retry_after: seconds after which the server wants the request to be repeated; None if it does not say it.
    """

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code
        self.message = message
        self.retry_after: float | None = None


class CallTimeout(PywsappError, TimeoutError):
    """The peer did not answer a call in time."""


class MessagesLost(PywsappError):
    """Client role: messages of a topic are missing here, because its history does not have them any more.

    The subscription goes on: load the state from elsewhere, and receive again.

    Attributes:
        topic: the name of the topic.
        position: the position up to which messages are missing; None if the server no longer knows the client's one.
    """

    def __init__(self, topic: str, position: str | None) -> None:
        until = "" if position is None else f" up to the position {position}"
        super().__init__(f"messages of {topic!r}{until} are missing: load the state from elsewhere, then receive again")
        self.topic = topic
        self.position = position


class QueueFull(PywsappError):
    """Client role: too many messages of a topic wait for the program, or too many requests for the server."""


class ProtocolError(PywsappError):
    """The peer violated RFC 6455, RFC 7692 or a limit.

    Attributes:
        code: the close code for the peer.
        reason: the close reason for the peer.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
