"""Text for all parts of the library that speak HTTP: status phrases, and text of a peer made safe for a log."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus

#: Statuses whose responses have no content (RFC 9110 sections 15.3.5 and 15.4.5).
BODYLESS_STATUSES = frozenset({204, 304})

_MAX_SHOWN = 200
_MAX_RETRY_AFTER = 40  # characters; a date has 29
_SECONDS = re.compile(r"[0-9]{1,9}")


def one_line(text: str) -> str:
    """Return text of a peer in a form fit for a log line: short, and without line breaks or control characters."""
    return repr(text[:_MAX_SHOWN])[1:-1]


def phrase(status: int) -> str:
    """Return the standard phrase of a status, or an empty string if the status has none."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def retry_after_seconds(value: str, wall_clock: float) -> float:
    """Return the seconds that a Retry-After field asks to wait (RFC 9110 section 10.2.3); 0 if it is not valid.

    Args:
        value: the value of the field.
        wall_clock: seconds since 1970.
    """
    if len(value) > _MAX_RETRY_AFTER:
        return 0
    if _SECONDS.fullmatch(value) is not None:
        return float(value)
    try:
        date = parsedate_to_datetime(value)
        if date.tzinfo is None:  # of a date that ends in -0000
            date = date.replace(tzinfo=timezone.utc)
        return max(0.0, (date - datetime.fromtimestamp(wall_clock, timezone.utc)).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return 0


#: Header fields and parameters whose values `repr` hides, in lower case.
_SECRETS = {
    *("authorization", "proxy-authorization", "cookie", "set-cookie", "sec-websocket-protocol", "x-api-key"),
    *("token", "access_token", "ticket", "api_key", "apikey", "key", "signature", "password", "secret", "jwt"),
}
_HIDDEN = "..."


def shown(items: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    """Return header fields or parameters for `repr`, without the values that are secrets."""
    return [(name, _HIDDEN if name.lower() in _SECRETS else value) for name, value in items]


def hide(name: str) -> None:
    """Hide the values of a header field or parameter from `repr`."""
    _SECRETS.add(name.lower())
