"""Reading what a server sends: each field that the client uses is checked, and others are ignored."""

from __future__ import annotations

import math
from base64 import b64decode
from typing import TYPE_CHECKING, Any

from pywsapp._http_text import one_line
from pywsapp.exceptions import CallError, InvalidMessage
from pywsapp.topics.presence.events import bytes_of_user

if TYPE_CHECKING:
    from pywsapp.codecs.base import Codec

Fields = dict[str, Any]

#: Characters of a code and a text of the server that an exception repeats.
_MAX_CODE, _MAX_MESSAGE = 100, 1000


class BrokenProtocol(Exception):
    """The server has sent what the protocol does not allow."""


def check(condition: object, what: str) -> None:
    """Check something that the server has sent.

    Raises:
        BrokenProtocol: the condition is false.
    """
    if not condition:
        raise BrokenProtocol(what)


def read(codec: Codec, message: str | bytes) -> Fields:
    """Return the fields of a message.

    Raises:
        BrokenProtocol: it is no message of the protocol.
    """
    try:
        fields = codec.decode(message)
    except InvalidMessage as exc:
        raise BrokenProtocol(one_line(exc.reason)) from None
    check(type(fields) is dict, "a message is no object")
    check(isinstance(fields.get("type"), str), "a message has no `type`")
    position = fields.get("position")
    check(position is None or isinstance(position, str), "`position` is no text")
    return fields  # type: ignore[no-any-return]


def error_of(fields: Fields) -> CallError | None:
    """Return the error that a message reports; None if it reports none.

    Raises:
        BrokenProtocol: a field has the wrong type.
    """
    if fields["type"] != "error":
        return None
    code, message, retry_after = fields.get("code"), fields.get("message"), fields.get("retry_after")
    check(isinstance(code, str), "an error has no `code`")
    check(retry_after is None or is_seconds(retry_after), "`retry_after` is no number of seconds")
    error = CallError(str(code)[:_MAX_CODE], message[:_MAX_MESSAGE] if isinstance(message, str) else "")
    error.retry_after = retry_after
    return error


def is_seconds(value: object) -> bool:
    """Return whether a value is a number from 0 on."""
    return type(value) in (int, float) and 0 <= value < math.inf  # type: ignore[operator]


def data_of(fields: Fields) -> Any:
    """Return the data of a message.

    Raises:
        BrokenProtocol: it has none.
    """
    if "data" in fields:
        return fields["data"]
    try:
        return b64decode(fields["base64"], validate=True)
    except (KeyError, TypeError, ValueError):
        raise BrokenProtocol("a message has neither `data` nor bytes in `base64`") from None


def users_of(fields: Fields, name: str) -> dict[str, Any]:
    """Return a field with the metas of users, by their keys; an empty dict without it.

    Raises:
        BrokenProtocol: the field is no object.
    """
    users = fields.get(name, {})
    check(type(users) is dict and all(isinstance(key, str) for key in users), f"`{name}` is no object")
    return users  # type: ignore[no-any-return]


def size_of_user(key: str, meta: Any) -> int:
    """Return how many bytes a user takes at most.

    Raises:
        BrokenProtocol: the meta is nested too deeply.
    """
    try:
        return bytes_of_user(key, repr(meta))
    except RecursionError:  # its codec could read it, with fewer calls around
        raise BrokenProtocol("the meta of a user is nested too deeply") from None


def keys_of(fields: Fields, name: str) -> list[str]:
    """Return a field with the keys of users; an empty list without it.

    Raises:
        BrokenProtocol: the field is no array of texts.
    """
    keys = fields.get(name, [])
    check(type(keys) is list and all(isinstance(key, str) for key in keys), f"`{name}` is no array of texts")
    return keys  # type: ignore[no-any-return]
