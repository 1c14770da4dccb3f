"""The port to stores, which keep the data of sessions.

A `SessionStore` turns the value of a cookie, its *token*, into the data of a session and back. Most stores keep the
data on a server, and the token is a random id. Others keep the data in the token itself, signed (`is_in_cookie`). The
store of a website reads the data that the website has written there.

A store raises `SessionError` for a fault of one session, and any other exception when it is unavailable.
`SessionService` does the rest for all stores: cookies, time limits and log lines.
"""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

from pywsapp._log_fields import log_fields
from pywsapp.exceptions import ConfigurationError
from pywsapp.sessions.cookies import SessionCookie
from pywsapp.sessions.outage import OutageLog

logger = logging.getLogger("pywsapp")

#: Seconds that a session lives unless the program says otherwise: two weeks, as in Django and Starlette.
DEFAULT_MAX_AGE = 14 * 24 * 3600
#: Bytes of the data of one session, encoded.
DEFAULT_MAX_SIZE = 64 * 1024


class Stored(NamedTuple):
    """A session as a store has it.

    Args:
        data: the data. The receiver owns it.
        expires: the end of a session with a fixed life, in seconds since 1970; None if the store does not know it.
    """

    data: dict[str, Any]
    expires: float | None = None


class SessionStore(ABC):
    """Keeps sessions; the base class of all stores.

    Args:
        cookie: the name and the attributes of the cookie; a str is its name.
        max_age: seconds after which a session expires.
        sliding: whether each request begins this time anew. Otherwise it is fixed when the session is created.
        max_size: bytes of the encoded data of a session.

    Attributes:
        name: what logs call the store, without a password.
        is_shared: whether other processes see the same sessions.
        is_in_cookie: whether the token contains the data, so that each save changes the token.
        is_read_only: whether `save` and `delete` always raise `SessionError`.
        is_sliding: the argument `sliding`.

    Raises:
        ConfigurationError: an argument is not valid.
    """

    name: str = "the session store"
    is_shared: bool = True
    is_in_cookie: bool = False
    is_read_only: bool = False

    def __init__(
        self,
        *,
        cookie: SessionCookie | str | None = None,
        max_age: float = DEFAULT_MAX_AGE,
        sliding: bool = True,
        max_size: int = DEFAULT_MAX_SIZE,
    ) -> None:
        if not 1 <= max_age < math.inf:
            raise ConfigurationError(f"max_age must be 1 second or more, not {max_age!r}")
        if max_size < 1:
            raise ConfigurationError(f"max_size must be 1 byte or more, not {max_size!r}")
        self.cookie = SessionCookie(name=cookie) if isinstance(cookie, str) else cookie or SessionCookie()
        self.max_age = max_age
        self.is_sliding = sliding
        self.max_size = max_size
        self.outage = OutageLog()
        if self.cookie.secure is False:
            logger.warning(
                "the cookie %r of sessions has secure=False: a network without TLS can see it",
                self.cookie.name,
                extra=log_fields("session.cookie_insecure", cookie=self.cookie.name),
            )
        if not self.cookie.http_only:
            logger.warning(
                "the cookie %r of sessions has http_only=False: a script in a page can read it",
                self.cookie.name,
                extra=log_fields("session.cookie_insecure", cookie=self.cookie.name),
            )

    def now(self) -> float:
        """Return the time in seconds since 1970."""
        return time.time()

    def new_end(self) -> float | None:
        """Return the end of a session that begins now, in seconds since 1970; None for one without a fixed end."""
        return None if self.is_sliding else self.now() + self.max_age

    def cookie_seconds(self, data: Mapping[str, Any]) -> int | None:
        """Return the seconds that the browser keeps the cookie of a session; None for until the browser ends."""
        return math.ceil(self.max_age)

    @abstractmethod
    async def load(self, token: str) -> Stored | None:
        """Return the session of a token; a sliding store extends its life.

        Args:
            token: the value of a cookie, which can be any text of at most 4,096 characters.

        Returns:
            None for a token that is unknown, forged, or of an expired session. It is never an error.

        Raises:
            SessionError: the store has something for the token that it cannot read.
            Exception: the store is unavailable.
        """

    @abstractmethod
    async def save(self, token: str | None, stored: Stored) -> str:
        """Save a session, and return its token.

        Args:
            token: the token that it has; None for a new session, whose token must be at least 128 random bits, or
                contain a signature.
            stored: the session, whose `expires` is that of `new_end` or `load`.

        Raises:
            SessionEnded: the session was deleted or has expired meanwhile; so a logged-out user stays logged out.
            SessionError: it is too large, or has values that cannot be stored.
            Exception: the store is unavailable.
        """

    @abstractmethod
    async def delete(self, token: str) -> None:
        """Delete a session, if there is one.

        Raises:
            Exception: the store is unavailable.
        """

    async def aclose(self) -> None:  # noqa: B027 - many stores have nothing to do here
        """Close connections. The store can be used again afterwards. Must not raise or take long."""
