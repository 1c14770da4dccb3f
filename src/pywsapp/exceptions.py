"""Every exception of the library, in one tree.

PywsappError
 +-- ConfigurationError    the program asked for something that cannot be (also a ValueError)
 +-- Refuse                a request is answered with a status instead of being accepted
 +-- HandshakeError        client role: the server did not accept
 +-- ConnectionClosed      what was waited for cannot come any more
 +-- TopicError            a topic cannot be had or used so (also a ValueError)
 +-- BrokerUnavailable     the broker has not taken what it was to carry
 +-- ProtocolError         the peer broke the protocol; carries the close code it is answered with
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

HeaderItems = Mapping[str, str] | Iterable[tuple[str, str]]


class PywsappError(Exception):
    """The base of every exception that the library raises."""


class ConfigurationError(PywsappError, ValueError):
    """A mistake in the program that uses the library; the text says what to do about it."""


class Refuse(PywsappError):
    """Answer a request with an HTTP status instead of accepting it.

    Raise it in `on_handshake`; the component is then told nothing more of that request.

    Args:
        status: the HTTP status, 400 to 599 (300 to 399 with a Location header).
        headers: header fields of the response.
        body: one line of reason for the peer; the status's own phrase when left out.
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


class HandshakeError(PywsappError):
    """Client role: the server refused the handshake or answered it wrongly.

    Attributes:
        status: the HTTP status of the answer, or None if there was no valid one.
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
    """A topic's name is not one, a connection has too many of them, or a component does not let it subscribe."""


class BrokerUnavailable(PywsappError):
    """The broker has not taken, or not confirmed, what it was to carry to other processes.

    What was on its way when a broker went away may have arrived all the same.
    """


class ProtocolError(PywsappError):
    """The peer broke RFC 6455, RFC 7692 or a limit.

    Attributes:
        code: the close code to answer with.
        reason: the text to answer with.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
