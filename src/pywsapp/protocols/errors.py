"""Errors that clients of a `TopicComponent` get, whatever protocol they speak."""

from __future__ import annotations

from pywsapp.exceptions import (
    BrokerUnavailable,
    CallError,
    InvalidCredentials,
    InvalidMessage,
    OutcomeUnknown,
    Refuse,
    TopicError,
)

#: Seconds after which a client can repeat a request that the broker did not accept.
RETRY_SECONDS = 1


class RequestError(CallError):
    """A request of a client failed.

    Args:
        code: one of the codes of docs/reference/topics-protocol.md.
        message: a text for developers.
        retry_after: seconds after which the client can repeat the request; None if that does not help.
    """

    def __init__(self, code: str, message: str = "", retry_after: int | None = None) -> None:
        super().__init__(code, message)
        self.retry_after = retry_after


def as_request_error(exc: Exception) -> RequestError | None:
    """Return the error that a client gets for an exception; None if the exception is a fault of the server."""
    if isinstance(exc, RequestError):
        return exc
    if isinstance(exc, CallError):
        return RequestError(exc.code, exc.message)
    if isinstance(exc, InvalidMessage):
        return RequestError(exc.code, str(exc))
    if isinstance(exc, TopicError):
        return RequestError("not_allowed", str(exc))
    if isinstance(exc, OutcomeUnknown):
        return RequestError("outcome_unknown", "publish the message again with the same key", RETRY_SECONDS)
    if isinstance(exc, BrokerUnavailable):
        return RequestError("unavailable", "the broker cannot be reached", RETRY_SECONDS)
    if isinstance(exc, InvalidCredentials):
        return RequestError("unauthenticated", str(exc.body))
    if isinstance(exc, Refuse):
        return RequestError("unavailable", str(exc.body or ""), RETRY_SECONDS)
    return None
