"""A batch: the messages that the client of a fallback connection sends in one POST request."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from typing import Any, NamedTuple

from pywsapp.brokers.envelope import has_utf8
from pywsapp.close_codes import CloseCode
from pywsapp.exceptions import PywsappError

#: Messages of one batch.
MAX_MESSAGES = 1000
#: The largest number of a batch: that of the integers which JavaScript can count.
MAX_NUMBER = 2**53 - 1
_MESSAGES = f"`messages` must be an array of at most {MAX_MESSAGES} texts, or objects with `base64`"


class InvalidBatch(PywsappError):
    """A value is no batch; the text says what is wrong, and is fit to be sent to the client."""


class Batch(NamedTuple):
    """The messages of one POST request.

    Args:
        number: the number of the batch; those of one connection count from 1.
        messages: the messages in order.
        close: the close code, if the client closes the connection behind them; None if it stays open.
    """

    number: int
    messages: tuple[str | bytes, ...]
    close: int | None = None

    def fields(self) -> dict[str, Any]:
        """Return the batch as JSON has it."""
        messages = [one if isinstance(one, str) else {"base64": b64encode(one).decode()} for one in self.messages]
        return {"number": self.number, "messages": messages} | ({} if self.close is None else {"close": self.close})


def read_batch(body: bytes) -> Batch:
    """Return the batch in the body of a request.

    Raises:
        InvalidBatch: it has none; the text says what is wrong.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidBatch("the body must be JSON") from None
    return batch_of(value)


def batch_of(value: Any) -> Batch:
    """Return the batch in a value of JSON.

    Raises:
        InvalidBatch: it is none; the text says what is wrong.
    """
    if not isinstance(value, dict):
        raise InvalidBatch("the body must be an object")
    number, messages, close = value.get("number"), value.get("messages"), value.get("close")
    if type(number) is not int or not 0 < number <= MAX_NUMBER:
        raise InvalidBatch(f"`number` must be an integer from 1 to {MAX_NUMBER}")
    if not isinstance(messages, list) or len(messages) > MAX_MESSAGES:
        raise InvalidBatch(_MESSAGES)
    if close is not None and (type(close) is not int or not (close == CloseCode.NORMAL or 3000 <= close <= 4999)):
        raise InvalidBatch("`close` must be 1000, or a code from 3000 to 4999")
    return Batch(number, tuple([_message(one) for one in messages]), close)


def _message(value: Any) -> str | bytes:
    if isinstance(value, str) and has_utf8(value):
        return value
    try:
        return b64decode(value["base64"], validate=True)
    except (TypeError, ValueError, KeyError):
        raise InvalidBatch(_MESSAGES) from None
