"""`WebsiteStore`: the base of the stores that share sessions with a website."""

from __future__ import annotations

from abc import ABC
from typing import Any

from pywsapp.sessions.base import SessionStore
from pywsapp.sessions.cookies import SessionCookie


class WebsiteStore(SessionStore, ABC):
    """A store whose sessions a website writes too.

    Its cookie has exactly the name that the website uses. Sessions do not slide unless the program says so, because
    each handshake would set the cookie again, and could undo what the website has set meanwhile.

    Args:
        cookie: the cookie of the website; a str is its name.
        options: those of `SessionStore`.
    """

    def __init__(self, *, cookie: SessionCookie | str, sliding: bool = False, **options: Any) -> None:
        if isinstance(cookie, str):
            cookie = SessionCookie(name=cookie, host_prefix=False)
        super().__init__(cookie=cookie, sliding=sliding, **options)

    def new_end(self) -> float | None:
        """Return None: the website decides about the end of a session."""
        return None
