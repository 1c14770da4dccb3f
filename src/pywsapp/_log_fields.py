"""The structured fields of log lines: the stable name of the event, and its values."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from pywsapp._http_text import one_line
from pywsapp._request_state import access_of
from pywsapp.http import Request

_MAX_SHOWN = 200  # characters


def log_fields(event: str, about: Any = None, /, **fields: Any) -> dict[str, Any]:
    """Return the `extra` of a log line: attributes of its record beside the sentence.

    Call it only where the line is logged: at level INFO or above, or after `isEnabledFor`. A line at level DEBUG needs
    no `isEnabledFor` if no peer can cause it often.

    Args:
        event: the stable name, such as "connection.closed"; `docs/reference/log-events.md` lists all.
        about: the connection or request that the line is about. It adds `method`, `path`, `remote_address` and
            `user`, and a connection its number as `connection`.
        fields: further fields. Those that are None are left out; text is made one line of at most 200 characters.
    """
    extra: dict[str, Any] = {"event": event}
    if about is not None:
        fields = {**_fields_of(about), **fields}
    for name, value in fields.items():
        if value is not None:
            extra[name] = _shown(value) if isinstance(value, str) else value
    return extra


def _shown(text: str) -> str:
    """Return text as one short line; what `one_line` has returned already stays as it is."""
    return text if text.isprintable() and len(text) <= _MAX_SHOWN else one_line(text)


def _fields_of(about: Any) -> dict[str, Any]:
    """Return the fields of a connection or request; a test of a component can pass any other object."""
    request = about if isinstance(about, Request) else getattr(about, "request", None)
    if not isinstance(request, Request):
        return {}
    return {
        "connection": None if request is about else getattr(about, "id", None),
        "method": request.method,
        "path": request.path,
        "remote_address": request.remote_address or "local",
        "user": _user_of(request),
    }


def _user_of(request: Request) -> str | None:
    """Return what names the user of a request in the log; None if there is no user, or nothing names it."""
    access = access_of(request)
    if access is None or access.user is None:
        return None
    if access.user_key is not None or access.subject is not None:
        return access.user_key or access.subject
    return str(access.user) if isinstance(access.user, (str, int, UUID)) else None
