"""`DjangoCookieStore`: the sessions of a Django site that keeps them in signed cookies. It needs no library.

The cookie of `django.contrib.sessions.backends.signed_cookies` is what `django.core.signing.dumps` makes: three parts
with colons between them. The first one is the data as JSON in base64, after a dot if it is compressed. The second one
is the time in base 62, and the third one an HMAC-SHA256.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

from pywsapp.exceptions import SessionError
from pywsapp.sessions.base import Stored
from pywsapp.sessions.cookies import SessionCookie
from pywsapp.sessions.json_data import decode_object
from pywsapp.sessions.keys import Keys, checked_keys
from pywsapp.sessions.website import WebsiteStore

_SALT = "django.contrib.sessions.backends.signed_cookies"
_TOKEN = re.compile(r"(\.?[0-9A-Za-z_-]+):([0-9A-Za-z]{1,10}):([0-9A-Za-z_-]+)")
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class DjangoCookieStore(WebsiteStore):
    """Reads and writes the sessions of a Django site with `SESSION_ENGINE` signed_cookies and its JSON serializer.

    Use `DjangoSessionStore` for all other engines.

    Args:
        secret_key: the site's `SECRET_KEY`; or a list of it and its `SECRET_KEY_FALLBACKS`.
        salt: the salt of the signature.
        options: those of `SessionStore`: `cookie`, `max_age` (`SESSION_COOKIE_AGE`), `sliding`
            (`SESSION_SAVE_EVERY_REQUEST`).

    Raises:
        ConfigurationError: the key is empty, or another argument is not valid.
    """

    name = "the session store of Django's cookies"
    is_in_cookie = True

    def __init__(
        self,
        secret_key: Keys,
        *,
        salt: str = _SALT,
        cookie: SessionCookie | str = "sessionid",
        **options: Any,
    ) -> None:
        super().__init__(cookie=cookie, **options)
        prefix = f"{salt}signer".encode()
        self._keys = [hashlib.sha256(prefix + key).digest() for key in checked_keys(secret_key)]

    async def load(self, token: str) -> Stored | None:
        """Return the session in a cookie."""
        found = _TOKEN.fullmatch(token)
        if found is None or not self._is_signed(token.rpartition(":")[0], found[3]):
            return None
        if self.now() - _from_base62(found[2]) > self.max_age:
            return None
        try:
            return Stored(decode_object(self._decompressed(found[1])))
        except (ValueError, zlib.error):
            raise SessionError(
                "it is not JSON: the site must use django.contrib.sessions.serializers.JSONSerializer"
            ) from None

    def _is_signed(self, value: str, signature: str) -> bool:
        sent = signature.encode()
        matches = [hmac.compare_digest(sent, _signature(key, value).encode()) for key in self._keys]
        return True in matches

    def _decompressed(self, payload: str) -> bytes:
        data = urlsafe_b64decode(payload.lstrip(".") + "=" * (-len(payload.lstrip(".")) % 4))
        if not payload.startswith("."):
            return data
        inflater = zlib.decompressobj()
        inflated = inflater.decompress(data, self.max_size + 1)
        if len(inflated) > self.max_size:
            raise SessionError(f"it has more than {self.max_size} bytes")
        return inflated

    async def save(self, token: str | None, stored: Stored) -> str:
        """Return the cookie of a session."""
        try:
            data = json.dumps(stored.data, separators=(",", ":")).encode("latin-1")  # as Django's JSONSerializer
        except (TypeError, ValueError, RecursionError) as exc:
            raise SessionError(f"the session cannot be saved as JSON: {exc}") from exc
        compressed = zlib.compress(data)
        prefix = ""
        if len(compressed) < len(data) - 1:
            data, prefix = compressed, "."
        payload = prefix + _base64(data)
        value = f"{payload}:{_to_base62(int(self.now()))}"
        return f"{value}:{_signature(self._keys[0], value)}"

    async def delete(self, token: str) -> None:
        """Do nothing: only the client can delete its cookie."""


def _signature(key: bytes, value: str) -> str:
    return _base64(hmac.new(key, value.encode(), hashlib.sha256).digest())


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _from_base62(text: str) -> int:
    number = 0
    for digit in text:
        number = number * 62 + _BASE62.index(digit)
    return number


def _to_base62(number: int) -> str:
    digits = ""
    while number > 0:
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits or "0"
