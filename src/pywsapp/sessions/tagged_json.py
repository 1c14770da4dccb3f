"""Flask's tagged JSON: JSON in which an object with one key, such as `{" t": [1, 2]}`, is a value of another type.

" t"  tuple              " u"  UUID
" b"  bytes, in base64   " d"  datetime, as a date of HTTP
" m"  Markup             " di" a dict whose only key looks like a tag
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from datetime import datetime, timezone
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any
from uuid import UUID

_TAGS = (" t", " b", " m", " u", " d", " di")


class Markup(str):
    """Text that is HTML already; Flask's `markupsafe.Markup` in a session."""

    __slots__ = ()

    def __html__(self) -> str:
        """Return the text."""
        return str(self)


def dump_tagged(value: Any) -> str:
    """Encode a value.

    Raises:
        TypeError: the value, or one in it, has another type.
        ValueError: a number is not finite, or a date is out of range in UTC.
        RecursionError: the value is nested too deeply.
    """
    return json.dumps(_tag(value), separators=(",", ":"), allow_nan=False)


def load_tagged(text: str | bytes) -> Any:
    """Decode a value.

    Raises:
        ValueError: the text is no tagged JSON.
        RecursionError: the value is nested too deeply.
    """
    try:
        return _untag(json.loads(text))
    except (TypeError, AttributeError, IndexError) as exc:
        raise ValueError(f"a tag has a wrong value: {exc}") from None


def _tag(value: Any) -> Any:
    if isinstance(value, dict):
        if len(value) == 1 and (key := next(iter(value))) in _TAGS:
            return {" di": {f"{key}__": _tag(value[key])}}
        return {key: _tag(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return {" t": [_tag(item) for item in value]}
    if isinstance(value, list):
        return [_tag(item) for item in value]
    if isinstance(value, bytes):
        return {" b": b64encode(value).decode("ascii")}
    if callable(getattr(value, "__html__", None)):
        return {" m": str(value.__html__())}
    if isinstance(value, UUID):
        return {" u": value.hex}
    if isinstance(value, datetime):
        return {" d": format_datetime(_in_utc(value), usegmt=True)}
    return value


def _in_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        return moment.replace(tzinfo=timezone.utc)
    try:
        return moment.astimezone(timezone.utc)
    except OverflowError:
        raise ValueError(f"{moment} is out of range in UTC") from None


def _untag(value: Any) -> Any:
    if isinstance(value, list):
        return [_untag(item) for item in value]
    if not isinstance(value, dict):
        return value
    value = {key: _untag(item) for key, item in value.items()}
    if len(value) != 1:
        return value
    ((key, item),) = value.items()
    if key == " t":
        return tuple(item)
    if key == " b":
        return b64decode(item)
    if key == " m":
        return Markup(item)
    if key == " u":
        return UUID(item)
    if key == " d":
        return _date(item)
    if key == " di":
        ((inner, item),) = item.items()
        return {inner[:-2]: item}
    return value


def _date(text: Any) -> datetime | None:
    """Parse a date of HTTP; None for another text, as in Flask."""
    try:
        found = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None
    return found.replace(tzinfo=timezone.utc) if found.tzinfo is None else found
