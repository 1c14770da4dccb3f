"""Signed URLs: a URL that opens one path for a short time, made by a program that has the key.

    urls = SignedUrls(key)
    urls.sign("/rooms/42?color=red", user="ana", seconds=60)
    "/rooms/42?color=red&user=ana&expires=1767225660&signature=..."
    App(authenticate=urls)

The signature is an HMAC-SHA256 of the path and of all parameters. It is for any method and any host: use different keys
for different sites. Proxies can change the spelling of a URL, so the signed text is the path after percent-decoding,
and the parameters after decoding, sorted by their names. Parameters of the same name keep their order. Everyone who
sees the URL can use it until it expires; a ticket can be used once.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from urllib.parse import parse_qsl, quote_plus, unquote_to_bytes

from pywsapp._clocks import wall_clock
from pywsapp.auth.identity import Authenticated
from pywsapp.auth.tokens import take_parameter
from pywsapp.exceptions import ConfigurationError, InvalidCredentials
from pywsapp.http import Request

#: A URL with a longer query, or more parameters, is refused before it is looked at.
MAX_QUERY = 8192
MAX_PARAMETERS = 100
_MIN_KEY = 16
_RESERVED = ("user", "expires", "signature")
_CONTEXT = b"pywsapp signed URL 1\n"


class SignedUrls:
    """Makes signed URLs, and is the authenticator for them.

    Args:
        keys: a secret of at least 16 bytes, or several: the first one signs, and all are accepted, so that a key can be
            replaced.
        clock: returns seconds since 1970.

    Raises:
        ConfigurationError: a key is too short.
    """

    challenge = None

    def __init__(
        self,
        keys: str | bytes | list[str | bytes] | tuple[str | bytes, ...],
        *,
        clock: Callable[[], float] = wall_clock,
    ) -> None:
        given = [keys] if isinstance(keys, (str, bytes)) else list(keys)
        self._keys = [key.encode() if isinstance(key, str) else key for key in given]
        self._clock = clock
        if not self._keys or any(not isinstance(key, bytes) or len(key) < _MIN_KEY for key in self._keys):
            raise ConfigurationError("the key needs at least 16 bytes; secrets.token_hex() makes a good one")

    def __repr__(self) -> str:
        return f"SignedUrls({len(self._keys)} keys)"

    def sign(self, url: str, *, user: str, seconds: float) -> str:
        """Return a URL with a signature.

        Args:
            url: the path with its query, percent-encoded: "/rooms/42?color=red"; without a host.
            user: becomes `request.user`.
            seconds: how long the URL can be used.

        Raises:
            ConfigurationError: the URL has a host, a fragment, or a parameter that the signature needs itself.
        """
        path, _, query = url.partition("?")
        if not path.startswith("/") or path.startswith("//") or "#" in url or not url.isascii():
            raise ConfigurationError("sign takes a path with its query, percent-encoded: '/rooms/42?color=red'")
        if not isinstance(user, str) or not user or not seconds > 0:
            raise ConfigurationError("sign needs the name of a user, and seconds greater than 0")
        names = [name for name, _ in parse_qsl(query, keep_blank_values=True)]
        if taken := [name for name in _RESERVED if name in names]:
            raise ConfigurationError(f"the URL has a parameter {taken[0]!r} of its own, which the signature needs")
        added = f"user={quote_plus(user)}&expires={int(self._clock() + seconds)}"
        query = f"{query}&{added}" if query else added
        raw = unquote_to_bytes(path)
        signature = _signature(self._keys[0], canonical(raw, query))
        if len(query) + len(signature) > MAX_QUERY - 20 or len(names) > MAX_PARAMETERS - len(_RESERVED):
            raise ConfigurationError("the query is too long")
        return f"{path}?{query}&signature={signature}"

    def __call__(self, request: Request) -> Authenticated | None:
        """Return the user of a signed URL; None if the URL has no signature.

        Raises:
            InvalidCredentials: the signature is wrong, or the URL has expired.
        """
        root = request._origin or request  # before a mount has cut the path
        if "signature" not in root.query_params:
            return None
        if len(root.query_string) > MAX_QUERY or root.query_string.count("&") >= MAX_PARAMETERS:
            raise InvalidCredentials("the query is too long")
        sent = take_parameter(request, "signature")
        users, expiries = (root.query_params.getlist(name) for name in ("user", "expires"))
        if not len(sent) == len(users) == len(expiries) == 1:
            raise InvalidCredentials("the URL is not signed correctly")
        signed = canonical(root.path.encode("utf-8", "surrogateescape"), root.query_string)
        signature = sent[0].encode("utf-8", "replace")
        # All keys are tried, so that the time does not tell which one it was.
        matches = [hmac.compare_digest(signature, _signature(key, signed).encode()) for key in self._keys]
        if not any(matches):
            raise InvalidCredentials("the URL is not signed correctly")
        if int(expiries[0]) <= self._clock():  # `sign` has written it
            raise InvalidCredentials("the URL has expired")
        return Authenticated(users[0], subject=users[0])


def canonical(path: bytes, query: str) -> bytes:
    """Return the signed text of a URL: equal for two URLs with the same meaning, and different for all others.

    Args:
        path: the path after percent-decoding.
        query: the query as it was sent, without the signature.
    """
    # latin-1 keeps every byte apart; UTF-8 with replacement characters would not.
    pairs = parse_qsl(query, keep_blank_values=True, encoding="latin-1")
    pairs.sort(key=lambda pair: pair[0])  # stable: values of one name keep their order
    parts = [path, *(text.encode("utf-8", "surrogatepass") for pair in pairs for text in pair)]
    return _CONTEXT + b"".join(b"%d:%b" % (len(part), part) for part in parts)


def _signature(key: bytes, signed: bytes) -> str:
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
