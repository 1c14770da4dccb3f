"""The cookies of a test client, which it keeps between requests as a browser does."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, MutableMapping
from email.utils import parsedate_to_datetime
from typing import NamedTuple


class _Cookie(NamedTuple):
    value: str
    path: str
    expires_at: float | None  # seconds since 1970; None for the end of the client


class Cookies(MutableMapping[str, str]):
    """The cookies of one client by their names.

    Set-Cookie fields of responses change them, with `Path`, `Max-Age` and `Expires`. Other attributes have no effect:
    the client visits one host, and browsers send `Secure` cookies to localhost. A cookie that a test sets itself is
    sent to all paths.

    Args:
        given: the cookies at the start.
    """

    def __init__(self, given: Mapping[str, str] | None = None) -> None:
        self._cookies: dict[str, _Cookie] = {}
        self.update(given or {})

    def __getitem__(self, name: str) -> str:
        self._expire()
        return self._cookies[name].value

    def __setitem__(self, name: str, value: str) -> None:
        self._cookies[name] = _Cookie(value, "/", None)

    def __delitem__(self, name: str) -> None:
        del self._cookies[name]

    def __iter__(self) -> Iterator[str]:
        self._expire()
        return iter(dict(self._cookies))

    def __len__(self) -> int:
        self._expire()
        return len(self._cookies)

    def __repr__(self) -> str:
        return f"Cookies({sorted(self)!r})"  # the values can be secrets

    def _expire(self) -> None:
        now = time.time()
        for name, cookie in list(self._cookies.items()):
            if cookie.expires_at is not None and cookie.expires_at <= now:
                del self._cookies[name]

    def read(self, fields: list[str], path: str) -> None:
        """Change the cookies as the Set-Cookie fields of a response say (RFC 6265, section 5.3).

        Args:
            fields: the values of the fields.
            path: the path of the request.
        """
        for field in fields:
            pair, *attributes = field.split(";")
            name, separator, value = (part.strip() for part in pair.partition("="))
            if not separator or not name:
                continue
            found = {key.strip().lower(): rest.strip() for key, _, rest in (one.partition("=") for one in attributes)}
            where = found.get("path", "")
            if not where.startswith("/"):
                where = path.partition("?")[0].rpartition("/")[0] or "/"
            self._cookies[name] = _Cookie(value, where, _expiry(found))

    def field(self, path: str, more: Mapping[str, str] | None = None) -> str:
        """Return the Cookie field of a request; empty if it has none.

        Args:
            path: the path of the request.
            more: cookies for this request only.
        """
        self._expire()
        path = path.partition("?")[0]
        sent = {name: cookie.value for name, cookie in self._cookies.items() if _matches(path, cookie.path)}
        return "; ".join(f"{name}={value}" for name, value in {**sent, **(more or {})}.items())


def _expiry(attributes: Mapping[str, str]) -> float | None:
    now = time.time()
    try:
        if "max-age" in attributes:
            return now + int(attributes["max-age"])
        if "expires" in attributes:
            return parsedate_to_datetime(attributes["expires"]).timestamp()
    except ValueError:
        pass
    return None


def _matches(path: str, wanted: str) -> bool:
    """Return whether a path has a cookie of another path (RFC 6265, section 5.1.4)."""
    return path == wanted or path.startswith(wanted if wanted.endswith("/") else wanted + "/")
