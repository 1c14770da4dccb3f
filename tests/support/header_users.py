"""A guard without credentials, for tests of what a guard decides: the client says who its user is."""

from __future__ import annotations

from pywsapp import Request


def by_header(request: Request) -> str | None:
    """Return the user that a header field names; None without one."""
    return request.headers.get("x-user")


def as_user(name: str) -> dict[str, str]:
    """Return the header field that names a user."""
    return {"X-User": name}
