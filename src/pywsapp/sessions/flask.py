"""`FlaskSessionStore`: the sessions in the cookies of a Flask site. Needs `pip install 'pywsapp[sessions]'`.

Flask keeps a session in the cookie: tagged JSON in base64, perhaps compressed, the time, and an HMAC-SHA1 of
itsdangerous. Flask itself is not needed. `flask_session` is for sites that keep sessions in Redis.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from pywsapp._extras import missing_extra
from pywsapp.exceptions import SessionError
from pywsapp.sessions.base import Stored
from pywsapp.sessions.cookies import SessionCookie
from pywsapp.sessions.keys import Keys, checked_keys
from pywsapp.sessions.tagged_json import dump_tagged, load_tagged
from pywsapp.sessions.website import WebsiteStore

try:
    from itsdangerous import BadPayload, BadSignature, TimestampSigner, URLSafeTimedSerializer
except ModuleNotFoundError as exc:
    raise missing_extra(exc, "sessions") from exc

_SALT = "cookie-session"
#: Flask's `PERMANENT_SESSION_LIFETIME`, in seconds.
_LIFETIME = 31 * 24 * 3600


class _TaggedJson:
    """Tagged JSON, as itsdangerous calls it."""

    @staticmethod
    def dumps(value: Any, **options: Any) -> str:
        return dump_tagged(value)

    @staticmethod
    def loads(text: str | bytes) -> Any:
        return load_tagged(text)


class FlaskSessionStore(WebsiteStore):
    """Reads and writes the sessions of a Flask site.

    Args:
        secret_key: the site's `SECRET_KEY`; or a list of it and its `SECRET_KEY_FALLBACKS`.
        salt: the salt of the signature.
        options: those of `SessionStore`: `cookie` (`SESSION_COOKIE_NAME`), `max_age` (`PERMANENT_SESSION_LIFETIME`),
            `sliding`.

    Raises:
        ConfigurationError: the key is empty, or another argument is not valid.
    """

    name = "the session store of Flask's cookies"
    is_in_cookie = True

    def __init__(
        self,
        secret_key: Keys,
        *,
        salt: str = _SALT,
        cookie: SessionCookie | str = "session",
        max_age: float = _LIFETIME,
        **options: Any,
    ) -> None:
        super().__init__(cookie=cookie, max_age=max_age, **options)
        store = self

        class Signer(TimestampSigner):
            def get_timestamp(self) -> int:
                return int(store.now())

        keys = checked_keys(secret_key)
        keys.reverse()  # itsdangerous signs with the last one
        self._serializer = URLSafeTimedSerializer(
            keys,
            salt=salt,
            serializer=_TaggedJson,
            signer=Signer,
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha1},
        )

    def cookie_seconds(self, data: Mapping[str, Any]) -> int | None:
        """Return the seconds that the browser keeps the cookie: of a permanent session only, as in Flask."""
        return super().cookie_seconds(data) if data.get("_permanent") else None

    async def load(self, token: str) -> Stored | None:
        """Return the session in a cookie."""
        try:
            data = self._serializer.loads(token, max_age=int(self.max_age))
        except (BadSignature, UnicodeEncodeError):
            return None
        except (BadPayload, ValueError, RecursionError):
            raise SessionError("it is no tagged JSON, which Flask writes") from None
        return Stored(data) if isinstance(data, dict) else None

    async def save(self, token: str | None, stored: Stored) -> str:
        """Return the cookie of a session."""
        try:
            value = self._serializer.dumps(stored.data)
        except (TypeError, ValueError, RecursionError) as exc:
            raise SessionError(f"the session cannot be saved as tagged JSON: {exc}") from exc
        return value.decode() if isinstance(value, bytes) else value

    async def delete(self, token: str) -> None:
        """Do nothing: only the client can delete its cookie."""
