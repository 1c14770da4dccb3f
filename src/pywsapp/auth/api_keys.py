"""API keys: long random texts that programs send with each request.

Only hashes of the keys are kept in memory, and every key is compared in constant time. `new_api_key` makes a key. A key
has at least 128 bits, so one SHA-256 is enough: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from pywsapp.auth.identity import Authenticated
from pywsapp.auth.tokens import BaseTokenAuthenticator, BearerHeader, HeaderToken, TokenSource, check_token
from pywsapp.exceptions import ConfigurationError, InvalidCredentials

#: Characters of the shortest key: 16 random bytes as hexadecimal digits have twice as many.
MIN_KEY = 20
_HASH = re.compile(r"sha256:([0-9a-f]{64})")


def new_api_key() -> str:
    """Return a new random key of 192 bits that does not begin with `-`."""
    key = "-"
    while key.startswith("-"):  # a command line would take it for an option: --token "$KEY"
        key = secrets.token_urlsafe(24)
    return key


def hash_api_key(key: str) -> str:
    """Return the hash of a key, which `ApiKeyAuthenticator` accepts in place of the key."""
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


class ApiKeyAuthenticator(BaseTokenAuthenticator):
    """An authenticator for API keys.

    Args:
        keys: for each user, a name for instance, its key or several keys, so that a key can be replaced. A key is the
            text itself, or what `hash_api_key` returns for it.
        sources: where the key can be; by default `HeaderToken("X-API-Key")` and `BearerHeader()`.

    Raises:
        ConfigurationError: a key is too short, or two users have the same one.
    """

    def __init__(self, keys: Mapping[Any, str | Iterable[str]], *sources: TokenSource) -> None:
        super().__init__(sources or (HeaderToken("X-API-Key"), BearerHeader()))
        self._users: list[tuple[bytes, Any]] = []
        if not isinstance(keys, Mapping):
            raise ConfigurationError("keys is a dict: {'name of the user': 'key'}")
        for user, given in keys.items():
            for key in [given] if isinstance(given, str) else given:
                digest = _digest_of(key, user)
                if any(digest == other for other, _ in self._users):
                    raise ConfigurationError(f"the key of {user!r} is there twice")
                self._users.append((digest, user))

    def verify(self, token: str) -> Authenticated:
        """Return the user of a key.

        Raises:
            InvalidCredentials: there is no such key.
        """
        digest = hashlib.sha256(check_token(token, self._invalid()).encode()).digest()
        found = None
        for other, user in self._users:  # all of them, so that the time does not tell which one it is
            if hmac.compare_digest(digest, other):
                found = Authenticated(user, subject=str(user))
        if found is None:
            raise InvalidCredentials("the API key is not valid", self._invalid())
        return found


def _digest_of(key: object, user: object) -> bytes:
    if not isinstance(key, str):
        raise ConfigurationError(f"the key of {user!r} must be a str")
    if found := _HASH.fullmatch(key):
        return bytes.fromhex(found[1])
    if len(key) < MIN_KEY:
        raise ConfigurationError(
            f"the key of {user!r} is too short: it needs {MIN_KEY} characters; pywsapp.auth.new_api_key() makes a good "
            "one"
        )
    try:
        check_token(key)
    except InvalidCredentials:
        raise ConfigurationError(
            f"the key of {user!r} has characters that cannot be sent everywhere: use letters, digits and -._~+/ only"
        ) from None
    return hashlib.sha256(key.encode()).digest()
