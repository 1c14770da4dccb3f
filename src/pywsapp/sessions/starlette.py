"""`StarletteSessionStore`: the sessions of a Starlette or FastAPI site. Needs `pip install 'pywsapp[sessions]'`.

Starlette's SessionMiddleware keeps a session in the cookie: JSON in base64, the time, and an HMAC-SHA1 of itsdangerous.
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode, b64encode
from typing import Any

from pywsapp._extras import missing_extra
from pywsapp.exceptions import SessionError
from pywsapp.sessions.base import Stored
from pywsapp.sessions.cookies import MAX_COOKIE_BYTES, SessionCookie
from pywsapp.sessions.json_data import check_size, decode_object
from pywsapp.sessions.keys import Keys, checked_keys
from pywsapp.sessions.website import WebsiteStore

try:
    from itsdangerous import BadSignature, TimestampSigner
except ModuleNotFoundError as exc:
    raise missing_extra(exc, "sessions") from exc


class _Signer(TimestampSigner):
    """A signer whose time a store sets."""

    store: WebsiteStore

    def get_timestamp(self) -> int:
        return int(self.store.now())


class StarletteSessionStore(WebsiteStore):
    """Reads and writes the sessions of a site with Starlette's SessionMiddleware.

    Args:
        secret_key: the site's `secret_key`; of several in a list, the first one signs, and all are accepted.
        options: those of `SessionStore`, as the site's middleware has them: `cookie` (`session_cookie`), `max_age`,
            `sliding`.

    Raises:
        ConfigurationError: the key is empty, or another argument is not valid.
    """

    name = "the session store of Starlette's cookies"
    is_in_cookie = True

    def __init__(self, secret_key: Keys, *, cookie: SessionCookie | str = "session", **options: Any) -> None:
        super().__init__(cookie=cookie, **options)
        keys = checked_keys(secret_key)
        keys.reverse()  # itsdangerous signs with the last one
        self._signer = _Signer(keys)
        self._signer.store = self

    async def load(self, token: str) -> Stored | None:
        """Return the session in a cookie."""
        try:
            encoded = self._signer.unsign(token.encode(), max_age=int(self.max_age))
        except (BadSignature, UnicodeEncodeError):
            return None
        try:
            return Stored(decode_object(b64decode(encoded)))
        except (ValueError, binascii.Error):
            return None  # "null" is what Starlette writes for an empty session

    async def save(self, token: str | None, stored: Stored) -> str:
        """Return the cookie of a session."""
        try:
            data = json.dumps(stored.data).encode()  # as Starlette does
        except (TypeError, ValueError, RecursionError) as exc:
            raise SessionError(f"the session cannot be saved as JSON: {exc}") from exc
        check_size(data, min(self.max_size, MAX_COOKIE_BYTES))
        return self._signer.sign(b64encode(data)).decode()

    async def delete(self, token: str) -> None:
        """Do nothing: only the client can delete its cookie."""
