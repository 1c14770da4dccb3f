"""`Session`: the session data of one request or connection, as a component sees it."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any, Protocol


class Answer:
    """The response to a request that has a session, while it can still set a cookie.

    Args:
        is_secure: whether the request came over TLS.

    Attributes:
        set_cookie: the value of the Set-Cookie field so far; None for no such field.
    """

    __slots__ = ("is_secure", "set_cookie")

    def __init__(self, *, is_secure: bool) -> None:
        self.is_secure = is_secure
        self.set_cookie: str | None = None


class SessionDriver(Protocol):
    """The driver of sessions: a `SessionService`."""

    async def save(self, session: Session) -> None:
        """See `Session.save`."""

    async def rotate(self, session: Session) -> None:
        """See `Session.rotate`."""

    async def destroy(self, session: Session) -> None:
        """See `Session.destroy`."""

    async def reload(self, session: Session) -> None:
        """See `Session.reload`."""


class Session(MutableMapping[str, Any]):
    """The data of one session: a mapping from str to values that JSON can express (Ratchet's SessionProvider).

    The server makes it for each request on a route with sessions, before `on_handshake`: `request.session`, which is
    also `conn.session`. Changes in `on_handshake` and in handlers of `app.http` are saved with the answer. On an open
    connection, `await conn.session.save()` saves them.

    It is the data at the time of the handshake. `reload` reads what others have saved since then. If two save the
    same session, the last one wins, with all its data. It belongs to the thread of the event loop.
    """

    __slots__ = ("_answer", "_data", "_driver", "_expires", "_fingerprint", "_is_changed", "_token")

    def __init__(self, driver: SessionDriver, answer: Answer | None = None) -> None:
        self._driver = driver
        self._answer = answer  # None when no response will come that could set a cookie
        self._data: dict[str, Any]
        self._token: str | None
        self._expires: float | None
        self._replace({}, None, None)

    def _replace(self, data: dict[str, Any], token: str | None, expires: float | None) -> None:
        """Replace everything: the data, and what identifies it.

        Args:
            data: the data; the session owns it from here on.
            token: the value of the cookie; None for a session that is not saved.
            expires: the fixed end in seconds since 1970, or None.
        """
        self._data, self._token, self._expires = data, token, expires
        self._mark_saved()

    def _mark_saved(self) -> None:
        self._is_changed = False
        self._fingerprint = hash(repr(self._data))

    def __getitem__(self, key: str) -> Any:
        return self._data[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise TypeError(f"the keys of a session are str, not {type(key).__name__}")
        self._data[key] = value
        self._is_changed = True

    def __delitem__(self, key: str) -> None:
        del self._data[key]
        self._is_changed = True

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __repr__(self) -> str:
        """Return a text without the data and the id, which are secrets."""
        status = "new" if self.is_new else "saved"
        return f"<Session {status}, {len(self._data)} keys{', modified' if self.is_modified else ''}>"

    @property
    def is_new(self) -> bool:
        """Whether the client has no session yet: it sent no cookie, or one that is unknown, forged or expired."""
        return self._token is None

    @property
    def is_modified(self) -> bool:
        """Whether the data has changed since it was loaded or saved, in nested values too."""
        return self._is_changed or hash(repr(self._data)) != self._fingerprint

    async def save(self) -> None:
        """Save the data, and extend the life of a sliding session; waits for the store.

        Raises:
            SessionEnded: the session was destroyed or has expired meanwhile.
            SessionError: the session is new, or its store keeps the data in the cookie, and no response will come that
                could set a cookie; or the session is too large, has values that cannot be stored, or its store cannot
                write.
            SessionUnavailable: the store failed or did not answer in time.
        """
        await self._driver.save(self)

    async def rotate(self) -> None:
        """Save the data under a new id, and make the old id invalid; waits for the store.

        Call it when the user logs in or gets more rights. It needs a response: call it in `on_handshake` or in a
        handler of `app.http`.

        Raises:
            SessionError: no response will come that could set a cookie; or as for `save`.
            SessionUnavailable: the store failed or did not answer in time.
        """
        await self._driver.rotate(self)

    async def destroy(self) -> None:
        """Delete the session from its store, and its data here; waits for the store.

        On an open connection the cookie stays with the client, but its id is not valid any more.

        Raises:
            SessionError: the store keeps the data in the cookie, and no response will come that could delete it; or the
                store cannot write.
            SessionUnavailable: the store failed or did not answer in time.
        """
        await self._driver.destroy(self)

    async def reload(self) -> None:
        """Read the data again, and drop changes that are not saved; waits for the store.

        A session that was destroyed or has expired meanwhile becomes empty.

        Raises:
            SessionUnavailable: the store failed or did not answer in time.
        """
        await self._driver.reload(self)
