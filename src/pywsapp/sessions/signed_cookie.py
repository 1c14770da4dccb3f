"""`SignedCookieStore`: sessions in a signed cookie, without a server. Needs `pip install 'pywsapp[sessions]'`.

The cookie is the data as JSON in base64, a dot, and an HMAC-SHA256 made by itsdangerous. The client can read it, and
cannot change it. It can send an old cookie again until that one expires: nothing on the server makes it invalid.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

from pywsapp._extras import missing_extra
from pywsapp.sessions.base import SessionStore, Stored
from pywsapp.sessions.cookies import MAX_COOKIE_BYTES
from pywsapp.sessions.json_data import decode_object, encode_data
from pywsapp.sessions.keys import MIN_KEY_BYTES, Keys, checked_keys

try:
    from itsdangerous import BadSignature, Signer
except ModuleNotFoundError as exc:
    raise missing_extra(exc, "sessions") from exc

_SALT = b"pywsapp.sessions"


class SignedCookieStore(SessionStore):
    """Keeps each session in the cookie of its client, signed.

    Saving needs a response, which sets the cookie, so an open connection can read the session and not save it. A
    sliding session that is only read is extended when less than half of its life is left.

    Args:
        key: a secret of at least 16 bytes. If a list has several, the first one signs, and all are accepted.
        options: those of `SessionStore`: `cookie`, `max_age`, `sliding`.

    Raises:
        ConfigurationError: the key is too short, or another argument is not valid.
    """

    name = "the session store in cookies"
    is_in_cookie = True

    def __init__(self, key: Keys, **options: Any) -> None:
        super().__init__(**options)
        keys = checked_keys(key, MIN_KEY_BYTES)
        keys.reverse()  # itsdangerous signs with the last one
        self._signer = Signer(keys, salt=_SALT, key_derivation="hmac", digest_method=hashlib.sha256)

    async def load(self, token: str) -> Stored | None:
        """Return the session in a cookie."""
        try:
            encoded = self._signer.unsign(token.encode())
        except (BadSignature, UnicodeEncodeError):
            return None
        found = decode_object(urlsafe_b64decode(encoded))  # which only a program with the key can have written
        if found["expires"] <= self.now():
            return None
        return Stored(found["data"], found["expires"])

    async def save(self, token: str | None, stored: Stored) -> str:
        """Return the cookie of a session."""
        expires = stored.expires
        if expires is None or self.is_sliding:
            expires = self.now() + self.max_age
        value = {"expires": int(expires), "data": stored.data}
        encoded = encode_data(value, min(self.max_size, MAX_COOKIE_BYTES), ascii_only=False)
        return self._signer.sign(urlsafe_b64encode(encoded)).decode()

    async def delete(self, token: str) -> None:
        """Do nothing: only the client can delete its cookie."""
