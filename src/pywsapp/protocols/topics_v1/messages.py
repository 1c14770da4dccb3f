"""Reading the messages of a client of `pywsapp.topics.v1`: each field is checked, and nothing is done yet."""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable
from typing import Any, NamedTuple

from pywsapp.auth.tokens import MAX_TOKEN
from pywsapp.protocols.client import ABSENT
from pywsapp.protocols.errors import RequestError
from pywsapp.protocols.views import MAX_FIELDS, MAX_NAME, MAX_TEXT, MAX_VALUES

#: The largest id: that of the integers which JavaScript can count.
MAX_ID = 2**53 - 1
MAX_METHOD = 100
#: Characters of a position; an epoch has no more than some dozens.
MAX_POSITION = 100
#: Characters of a text of the client that an error message repeats.
_MAX_SHOWN = 60
_KEY = re.compile(r"[0-9A-Za-z._:-]{1,32}")
_SESSION = re.compile(r"[0-9A-Za-z._~-]{16,64}")

#: Values of a filter, beside text.
_SCALARS = (int, float, bool, type(None))

#: Returns the value of a field for the request; raises ValueError with what is wrong.
_Check = Callable[[Any], Any]


class Request(NamedTuple):
    """A message of a client.

    Args:
        type: what it asks for.
        id: the id of the reply; None without one.
        fields: the other fields; those that the client has left out are missing.
    """

    type: str
    id: int | None
    fields: dict[str, Any]


class InvalidRequest(RequestError):
    """A message of a client is not one of the protocol; such messages are counted.

    Args:
        code: the code of the error.
        message: what is wrong.
        request_id: the id of the message; None if it has no valid one.
    """

    def __init__(self, code: str, message: str, request_id: int | None = None) -> None:
        super().__init__(code, message)
        self.request_id = request_id


def _text(most: int) -> _Check:
    def check(value: Any) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= most:
            raise ValueError(f"a text of 1 to {most} characters")
        return value

    return check


def _pattern(pattern: re.Pattern[str], text: str) -> _Check:
    def check(value: Any) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError(text)
        return value

    return check


def _topic(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a text")
    return value


def _position(value: Any) -> str | None:
    return None if value is None else _text(MAX_POSITION)(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _anything(value: Any) -> Any:
    return value


def _not_null(value: Any) -> Any:
    if value is None:
        raise ValueError("a value other than null")
    return value


def _bytes(value: Any) -> bytes:
    try:
        return b64decode(value, validate=True)
    except (TypeError, ValueError, Base64Error):
        raise ValueError("bytes in base64") from None


def _params(value: Any) -> Any:
    if not isinstance(value, (dict, list)):
        raise ValueError("an object or an array")
    return value


def _filter(value: Any) -> dict[str, list[Any]]:
    is_small = isinstance(value, dict) and 0 < len(value) <= MAX_FIELDS
    if not is_small or not all(map(_is_filtered, value.items())):
        raise ValueError(
            f"an object of 1 to {MAX_FIELDS} fields, each with 1 to {MAX_VALUES} texts, numbers, booleans or null"
        )
    return value  # type: ignore[no-any-return]


def _is_filtered(item: tuple[Any, Any]) -> bool:
    name, values = item
    return (
        isinstance(name, str)
        and len(name) <= MAX_NAME
        and isinstance(values, list)
        and 0 < len(values) <= MAX_VALUES
        and all(isinstance(one, _SCALARS) or (isinstance(one, str) and len(one) <= MAX_TEXT) for one in values)
    )


def _newest(value: Any) -> str | bool:
    if value is True or (isinstance(value, str) and 0 < len(value) <= MAX_NAME):
        return value
    raise ValueError(f"true, or the name of a field of at most {MAX_NAME} characters")


#: The fields of each type, each with its check and whether it is required.
_FIELDS: dict[str, dict[str, tuple[_Check, bool]]] = {
    "connect": {
        "token": (_text(MAX_TOKEN), False),
        "session": (_pattern(_SESSION, "16 to 64 letters, digits and the signs . _ ~ -"), False),
    },
    "subscribe": {
        "topic": (_topic, True),
        "since": (_position, False),
        "presence": (_flag, False),
        "track": (_anything, False),
        "filter": (_filter, False),
        "newest": (_newest, False),
    },
    "unsubscribe": {"topic": (_topic, True)},
    "track": {"topic": (_topic, True), "meta": (_anything, True)},
    "untrack": {"topic": (_topic, True)},
    "publish": {
        "topic": (_topic, True),
        "data": (_not_null, False),
        "base64": (_bytes, False),
        "key": (_pattern(_KEY, "1 to 32 letters, digits and the signs . : - _"), False),
    },
    "call": {"method": (_text(MAX_METHOD), True), "params": (_params, False)},
    "refresh": {"token": (_text(MAX_TOKEN), True)},
}
#: Types that need no id, because the client can do without a reply.
_WITHOUT_ID = ("publish", "call")


def read_request(value: Any) -> Request:
    """Return the request of an object that a client has sent.

    Raises:
        InvalidRequest: it is none.
    """
    if type(value) is not dict:
        raise InvalidRequest("invalid_message", "a message is an object")
    number = value.get("id", ABSENT)
    is_id = type(number) is int and 0 < number <= MAX_ID
    request_id: int | None = number if is_id else None
    kind = value.get("type")
    if not isinstance(kind, str):
        raise InvalidRequest("invalid_message", "`type` must be a text", request_id)
    fields = _FIELDS.get(kind)
    if fields is None:
        raise InvalidRequest("unknown_type", f"there is no type {kind[:_MAX_SHOWN]!r}", request_id)
    if not is_id and (number is not ABSENT or kind not in _WITHOUT_ID):
        raise InvalidRequest("invalid_message", f"`id` must be an integer from 1 to {MAX_ID}")
    found: dict[str, Any] = {}
    for name, (check, is_required) in fields.items():
        sent = value.get(name, ABSENT)
        if sent is ABSENT:
            if is_required:
                raise InvalidRequest("invalid_message", f"`{name}` is missing", request_id)
            continue
        try:
            found[name] = check(sent)
        except ValueError as exc:
            raise InvalidRequest("invalid_message", f"`{name}` must be {exc}", request_id) from None
    if kind == "publish" and ("data" in found) == ("base64" in found):
        raise InvalidRequest("invalid_message", "a message has either `data` or `base64`", request_id)
    return Request(kind, request_id, found)
