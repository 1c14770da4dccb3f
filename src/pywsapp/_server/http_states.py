"""The states of a connection before its upgrade; `http_connection` documents them."""

from __future__ import annotations

from enum import Enum


class HttpState(Enum):
    """The states of the table in `http_connection`."""

    READING = "the request head is not complete"
    DECIDING = "an async decision of the component is pending"
    STREAMING = "the body of a response is sent piece by piece"
    LINGERING = "the response is written, the rest of the request is discarded"
    CLOSING = "the response is written, the transport sends the rest and closes"
    UPGRADED = "the transport belongs to a Lifecycle"
    TAKEN = "the transport belongs to another protocol"

    __hash__ = object.__hash__  # Enum's own is a Python function, and each request reads the table below


_ANSWERED = {HttpState.STREAMING, HttpState.LINGERING, HttpState.CLOSING}
#: The states that can follow a state; the last column of that table.
NEXT: dict[HttpState, set[HttpState]] = {
    HttpState.READING: {HttpState.DECIDING, HttpState.UPGRADED, HttpState.TAKEN, *_ANSWERED},
    HttpState.DECIDING: {HttpState.UPGRADED, *_ANSWERED},
    HttpState.STREAMING: {HttpState.LINGERING, HttpState.CLOSING},
    HttpState.LINGERING: {HttpState.CLOSING},
    HttpState.CLOSING: set(),
    HttpState.UPGRADED: set(),
    HttpState.TAKEN: set(),
}
