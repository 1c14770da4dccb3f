"""Signed JSON Web Tokens (RFC 7519): their issuer, audience, expiry and signature, and the user that they name.

    from pywsapp.auth.jwt import JwtAuthenticator, Jwks

    app = App(authenticate=JwtAuthenticator(
        {"https://issuer.example": Jwks.from_url("https://issuer.example/keys.json")}, audience="chat"))

The order of the checks: the size and the form of the token; an allowed algorithm; a known issuer, which decides whose
keys are used; the signature; then the claims. An unverified token causes no request to another place than the
one that the program has named, and `jku`, `x5u`, `jwk` and `x5c` of its header are never read. There is no
algorithm `none`. An HMAC works with a `SharedSecret` only, and a `SharedSecret` with an HMAC only.

Signatures are verified by joserfc: `pip install 'pywsapp[jwt]'`.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from pywsapp._clocks import wall_clock
from pywsapp._extras import missing_extra
from pywsapp._signatures import check_takes
from pywsapp.auth.identity import Authenticated, as_identity
from pywsapp.auth.jwks import HMAC_ALGORITHMS, PUBLIC_ALGORITHMS, Jwks, KeySource, SharedSecret
from pywsapp.auth.tokens import BaseTokenAuthenticator, BearerHeader, BearerSubprotocol, TokenSource, check_token
from pywsapp.exceptions import ConfigurationError, InvalidCredentials

try:
    from joserfc.errors import JoseError
    from joserfc.jws import JWSRegistry
except ModuleNotFoundError as exc:
    raise missing_extra(exc, "jwt") from exc

__all__ = ("ANY_AUDIENCE", "Jwks", "JwtAuthenticator", "KeySource", "SharedSecret")

#: Characters of the name of a key.
_MAX_KID = 256
#: Keys that are tried for a token that names none.
_MAX_TRIED = 4
_MAX_DATE = 2**53
_SEGMENT = re.compile(r"[A-Za-z0-9_-]+")


class _AnyAudience:
    def __repr__(self) -> str:
        return "ANY_AUDIENCE"


#: Accepts tokens for every audience, also those that a user has got for another service of the same issuer.
ANY_AUDIENCE: Final = _AnyAudience()


class _Parsed(NamedTuple):
    header: dict[str, Any]
    claims: dict[str, Any]
    signed: bytes
    signature: bytes


class JwtAuthenticator(BaseTokenAuthenticator):
    """An authenticator for signed JSON Web Tokens.

    Args:
        keys: the keys of each issuer, by the value of the claim `iss`: `Jwks.from_url(...)`, `Jwks.from_file(...)` or
            `SharedSecret(...)`.
        sources: where the token can be; by default a `BearerHeader` and a `BearerSubprotocol`.
        audience: the name of this service, one of which must be in the claim `aud`, or `ANY_AUDIENCE`.
        algorithms: the algorithms that are accepted; by default all that the keys can have, except for weak ones.
        leeway: seconds by which clocks can differ.
        token_type: the value of `typ` in the header, such as "at+jwt" (RFC 9068); None does not check it.
        user: a def or async def that makes the user from the claims, for instance from a database; None from it refuses
            the token. By default the claims are the user.
        clock: returns seconds since 1970.

    Raises:
        ConfigurationError: an argument is not valid.
    """

    def __init__(
        self,
        keys: Mapping[str, KeySource],
        *sources: TokenSource,
        audience: str | Sequence[str] | _AnyAudience | None = None,
        algorithms: Sequence[str] | None = None,
        leeway: float = 30,
        token_type: str | None = None,
        user: Callable[[dict[str, Any]], Any] | None = None,
        clock: Callable[[], float] = wall_clock,
    ) -> None:
        super().__init__(sources or (BearerHeader(), BearerSubprotocol()))
        self._keys = _checked_keys(keys)
        self._audiences = _checked_audiences(audience)
        self._algorithms = _checked_algorithms(algorithms, self._keys)
        if isinstance(leeway, bool) or not isinstance(leeway, (int, float)) or not 0 <= leeway <= 3600:
            raise ConfigurationError(f"leeway must be seconds from 0 to 3600, not {leeway!r}")
        if user is not None:
            check_takes(user, ("claims",), "user")
        self._leeway = leeway
        self._type = token_type
        self._make_user = user
        self._clock = clock

    async def verify(self, token: str) -> Authenticated:
        """Return the user of a token, for instance of a new one that came over the connection.

        Returns:
            the user with the expiry of the token, for `conn.refresh_user`.

        Raises:
            InvalidCredentials: the token is not valid.
            Refuse: 503, the keys cannot be loaded.
        """
        parsed = self._parse(check_token(token, self._invalid()))
        algorithm, kid, issuer = parsed.header.get("alg"), parsed.header.get("kid"), parsed.claims.get("iss")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            self._refuse("the algorithm of the token is not accepted")
        if kid is not None and (not isinstance(kid, str) or len(kid) > _MAX_KID):
            self._refuse("the name of the key of the token is malformed")
        if "crit" in parsed.header:  # RFC 7515, section 4.1.11: none of these is understood
            self._refuse("the token needs an extension")
        if self._type is not None and not _is_type(parsed.header.get("typ"), self._type):
            self._refuse("the token is of another type")
        source = self._keys.get(issuer) if isinstance(issuer, str) else None
        if source is None:
            self._refuse("the token has another issuer")
        found = await source.find(kid, algorithm)
        if not any(_is_signed(parsed, key.key, algorithm) for key in found[:_MAX_TRIED] if algorithm in key.algorithms):
            self._refuse("the signature of the token is wrong, or its key is not known")
        expires_at = self._check_claims(parsed.claims)
        user: Any = parsed.claims if self._make_user is None else self._make_user(parsed.claims)
        if isinstance(user, Awaitable):
            user = await user
        identity = as_identity(user, self._invalid())
        name = parsed.claims.get("sub")
        return Authenticated(identity.user, expires_at, f"{issuer} {name}" if isinstance(name, str) else None)

    def _parse(self, token: str) -> _Parsed:
        parts = token.split(".")
        if len(parts) != 3:
            self._refuse("the token is no signed JWT")
        header, claims, signature = (_decoded(part) for part in parts)
        if header is None or claims is None or signature is None:
            self._refuse("the token is malformed")
        try:
            return _Parsed(_object(header), _object(claims), f"{parts[0]}.{parts[1]}".encode(), signature)
        except (ValueError, RecursionError):
            self._refuse("the token is malformed")

    def _check_claims(self, claims: dict[str, Any]) -> float:
        """Check the times and the audience of a token; return when it expires, with the leeway."""
        now, leeway = self._clock(), self._leeway
        expires: Any = claims.get("exp")
        not_before: Any = claims.get("nbf", 0)
        issued: Any = claims.get("iat", 0)
        if not _is_date(expires) or not _is_date(not_before) or not _is_date(issued):
            self._refuse("a time in the token is missing or malformed")
        if now >= expires + leeway:
            self._refuse("the token has expired")
        if max(not_before, issued) > now + leeway:
            self._refuse("the token is not valid yet")
        named = claims.get("aud", [])
        audiences = [named] if isinstance(named, str) else named
        if not isinstance(audiences, list) or not all(isinstance(name, str) for name in audiences):
            self._refuse("the audience of the token is malformed")
        if self._audiences is not None and self._audiences.isdisjoint(audiences):
            self._refuse("the token is for another audience")
        return float(expires + leeway)

    def _refuse(self, reason: str) -> NoReturn:
        raise InvalidCredentials(reason, self._invalid())


# -- checking the arguments --------------------------------------------------------------------------------------------


def _checked_keys(keys: object) -> dict[str, KeySource]:
    if not isinstance(keys, Mapping) or not keys:
        raise ConfigurationError('keys has the keys of each issuer: {"https://issuer.example": Jwks.from_url(...)}')
    for issuer, source in keys.items():
        if not isinstance(issuer, str) or not issuer:
            raise ConfigurationError(f"an issuer is the text of the claim iss, not {issuer!r}")
        if isinstance(source, (str, bytes)):
            raise ConfigurationError(
                f"the keys of {issuer} are text: write SharedSecret(...) for a secret, Jwks.from_url(...) for a URL, "
                "or Jwks.from_file(...) for a file"
            )
        if isinstance(source, type) or not hasattr(source, "find") or not hasattr(source, "algorithms"):
            raise ConfigurationError(f"the keys of {issuer} must be a Jwks or a SharedSecret, not {source!r}")
    return dict(keys)


def _checked_audiences(audience: object) -> set[str] | None:
    if isinstance(audience, _AnyAudience):
        return None
    names = [audience] if isinstance(audience, str) else audience
    if not isinstance(names, (list, tuple, set, frozenset)) or not names or not all(_is_name(name) for name in names):
        raise ConfigurationError(
            "audience is the name of this service in the claim aud: without it, a token for any other service of the "
            "issuer is accepted here; write audience=ANY_AUDIENCE if that is meant"
        )
    return set(names)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _checked_algorithms(algorithms: Sequence[str] | None, keys: Mapping[str, KeySource]) -> frozenset[str]:
    possible = {name for source in keys.values() for name in source.algorithms}
    known = {*HMAC_ALGORITHMS, *PUBLIC_ALGORITHMS}
    if isinstance(algorithms, str):
        raise ConfigurationError(f"algorithms is a list: write [{algorithms!r}]")
    wanted = possible if algorithms is None else set(algorithms)
    if unknown := sorted(str(name) for name in wanted - known):
        raise ConfigurationError(f"{unknown[0]} is no algorithm that can be accepted; known are {', '.join(known)}")
    if unusable := sorted(wanted - possible):
        raise ConfigurationError(
            f"no issuer has keys for {unusable[0]}: HS256, HS384 and HS512 need a SharedSecret, the others a Jwks"
        )
    return frozenset(wanted)


# -- parsing and verifying ---------------------------------------------------------------------------------------------


def _decoded(part: str) -> bytes | None:
    """Decode base64url; None if it is not written in the one right way (RFC 7515, section 2)."""
    if not _SEGMENT.fullmatch(part) or len(part) % 4 == 1:
        return None
    data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    return data if base64.urlsafe_b64encode(data).rstrip(b"=").decode() == part else None


def _object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ValueError: it is no object, a name is there twice, or a number is not finite.
    """
    value = json.loads(data.decode(), object_pairs_hook=_without_repetition, parse_constant=_no_constant)
    if not isinstance(value, dict):
        raise ValueError("no object")
    return value


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _is_date(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _MAX_DATE


def _is_type(value: object, wanted: str) -> bool:
    return isinstance(value, str) and value.lower().removeprefix("application/") == wanted.lower()


def _is_signed(parsed: _Parsed, key: Any, algorithm: str) -> bool:
    try:
        return bool(JWSRegistry.algorithms[algorithm].verify(parsed.signed, parsed.signature, key))
    except (JoseError, ValueError, TypeError):
        return False
