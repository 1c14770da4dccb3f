"""Where a token is found in a request, and authenticators that check it with a function.

    TokenAuthenticator(verify)                      Authorization: Bearer <token>, or the subprotocols below
    TokenAuthenticator(verify, QueryToken())        /chat?token=<token>

A browser can set no header fields of a WebSocket. It can send a cookie, a query, or subprotocols:

    new WebSocket(url, ["chat.v1", "bearer", "bearer." + token])

The server accepts with `chat.v1` if the component speaks it, and with `bearer` otherwise. It never sends the token
back, and a browser fails a connection that names none of its subprotocols, so `bearer` must be in the list.

A token in a subprotocol or a query is removed from the request when it is read: `request.subprotocols`,
`request.query_string` and `request.query_params` do not show it afterwards.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import unquote_plus

from pywsapp._http_text import hide
from pywsapp._request_state import make_access
from pywsapp._signatures import check_takes
from pywsapp.auth.identity import Authenticated, as_identity
from pywsapp.exceptions import ConfigurationError, InvalidCredentials, Refuse
from pywsapp.http import Request

#: Characters of a token; a longer one is refused before it is looked at.
MAX_TOKEN = 8192
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # b64token (RFC 6750, section 2.1)
_FIELD_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class TokenSource(Protocol):
    """A place of a request where a token can be."""

    @property
    def challenge(self) -> str | None:
        """The value of WWW-Authenticate in a response with status 401; None sends no such field."""

    def take(self, request: Request) -> str | None:
        """Return the token of a request, and hide it from what comes later; None if the request has none.

        Raises:
            Refuse: there are several tokens.
            InvalidCredentials: the token is malformed or too long.
        """


class BearerHeader:
    """A token in the field `Authorization: Bearer <token>` (RFC 6750); for clients that are not browsers."""

    challenge = "Bearer"

    def __repr__(self) -> str:
        return "BearerHeader()"

    def take(self, request: Request) -> str | None:
        """Return the token of a request; None if it has no such field, or one of another scheme."""
        sent = request.headers.getlist("authorization")
        if len(sent) > 1:
            raise Refuse(400, body="there is more than one Authorization field")
        scheme, _, token = (sent[0] if sent else "").partition(" ")
        return check_token(token.strip(" "), self.challenge) if scheme.lower() == "bearer" else None


class HeaderToken:
    """A token in a header field of another name.

    Args:
        name: the name of the field.

    Raises:
        ConfigurationError: the name is not valid.
    """

    challenge = None

    def __init__(self, name: str = "X-API-Key") -> None:
        if not isinstance(name, str) or not _FIELD_NAME.fullmatch(name):
            raise ConfigurationError(f"{name!r} is not a valid name of a header field")
        self._name = name.lower()
        hide(self._name)

    def __repr__(self) -> str:
        return f"HeaderToken({self._name!r})"

    def take(self, request: Request) -> str | None:
        """Return the value of the field; None if the request has no such field."""
        sent = request.headers.getlist(self._name)
        if len(sent) > 1:
            raise Refuse(400, body=f"there is more than one {self._name} field")
        return check_token(sent[0]) if sent else None


class BearerSubprotocol:
    """A token in the list of subprotocols: `bearer.<token>`, with `bearer` beside it; for browsers.

    Args:
        name: the name before the dot.

    Raises:
        ConfigurationError: the name is not valid.
    """

    challenge = None

    def __init__(self, name: str = "bearer") -> None:
        if not isinstance(name, str) or not _FIELD_NAME.fullmatch(name):
            raise ConfigurationError(f"{name!r} cannot be a subprotocol")
        self._name = name

    def __repr__(self) -> str:
        return f"BearerSubprotocol({self._name!r})"

    def take(self, request: Request) -> str | None:
        """Return the token in the list of subprotocols, and remove it from the list."""
        prefix = f"{self._name}."
        found = [name for name in request.subprotocols if name.startswith(prefix)]
        if not found:
            return None
        others = tuple([name for name in request.subprotocols if not name.startswith(prefix)])
        for one in {request, request._origin or request}:
            one.subprotocols = others
        if self._name in others:
            make_access(request).subprotocol = self._name
        if len(found) > 1:
            raise Refuse(400, body="there is more than one token")
        return check_token(found[0][len(prefix) :])


class QueryToken:
    """A token in the query of the URL. Proxies can log URLs, so prefer a ticket, which can be used once.

    Args:
        name: the name of the parameter.

    Raises:
        ConfigurationError: the name is not text.
    """

    challenge = None

    def __init__(self, name: str = "token") -> None:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"the name of a parameter must be text, not {name!r}")
        self._name = name
        hide(name)

    def __repr__(self) -> str:
        return f"QueryToken({self._name!r})"

    def take(self, request: Request) -> str | None:
        """Return the value of the parameter, and remove it from the query."""
        values = take_parameter(request, self._name)
        if len(values) > 1:
            raise Refuse(400, body=f"there is more than one {self._name}")
        return check_token(values[0]) if values else None


def take_parameter(request: Request, name: str) -> list[str]:
    """Remove a parameter from the query of a request, and return its values."""
    if name not in request.query_params:
        return []
    values: list[str] = []
    others: list[str] = []
    for part in request.query_string.split("&"):
        key, _, value = part.partition("=")
        if unquote_plus(key, errors="replace") == name:
            values.append(unquote_plus(value, errors="replace"))
        else:
            others.append(part)
    query = "&".join(others)
    for one in {request, request._origin or request}:
        one.query_string, one._query_params = query, None
    return values


def check_token(token: str, challenge: str | None = None) -> str:
    """Check the size and the characters of a token, and return it.

    Raises:
        InvalidCredentials: it is too long, or has other characters.
    """
    if len(token) > MAX_TOKEN or not _TOKEN.fullmatch(token):
        raise InvalidCredentials("the token is malformed", challenge)
    return token


class BaseTokenAuthenticator(ABC):
    """The base of the authenticators that take a token from a request; subclasses override `verify`.

    A request without a token has no user, so it is refused with status 401, or another authenticator of `first_of`
    decides.

    Args:
        sources: where the token can be.

    Raises:
        ConfigurationError: one is no source of tokens.
    """

    def __init__(self, sources: tuple[TokenSource, ...]) -> None:
        for source in sources:
            if isinstance(source, type) or not hasattr(source, "take"):
                raise ConfigurationError(f"{source!r} is no source of tokens such as BearerHeader()")
        self.sources = sources
        self.challenge = next((source.challenge for source in sources if source.challenge), None)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.sources))})"

    def __call__(self, request: Request) -> Authenticated | Awaitable[Authenticated] | None:
        """Return the user of the token in a request; None if it has no token.

        Raises:
            InvalidCredentials: the token is not valid.
            Refuse: there are several tokens.
        """
        tokens = [token for source in self.sources if (token := source.take(request)) is not None]
        if len(tokens) > 1:
            raise Refuse(400, body="there is more than one token")
        return self.check(tokens[0], request) if tokens else None

    def check(self, token: str, request: Request) -> Authenticated | Awaitable[Authenticated]:
        """Return the user of a token that came with a request; subclasses can look at the request too."""
        return self.verify(token)

    @abstractmethod
    def verify(self, token: str) -> Authenticated | Awaitable[Authenticated]:
        """Return the user of a token, for instance of a new one that came over the connection.

        Returns:
            the user with its expiry, for `conn.refresh_user`; or an awaitable of it.

        Raises:
            InvalidCredentials: the token is not valid.
        """

    def _invalid(self) -> str | None:
        """Return the challenge for a token that is not valid (RFC 6750, section 3)."""
        return f'{self.challenge} error="invalid_token"' if self.challenge == "Bearer" else self.challenge


class TokenAuthenticator(BaseTokenAuthenticator):
    """An authenticator that takes a token from a request and checks it with a function.

    Args:
        verify: a def or async def that takes the token and returns the user, an `Authenticated`, or None if the token
            is not valid. It must compare secrets with `hmac.compare_digest`, or look up a hash of the token.
        sources: where the token can be; by default a `BearerHeader` and a `BearerSubprotocol`.

    Raises:
        ConfigurationError: an argument is not valid.
    """

    def __init__(self, verify: Callable[[str], Any], *sources: TokenSource) -> None:
        super().__init__(sources or (BearerHeader(), BearerSubprotocol()))
        check_takes(verify, ("token",), "verify")
        self._verify = verify

    def verify(self, token: str) -> Authenticated | Awaitable[Authenticated]:
        """Return the user of a token; an awaitable of it if the function is an async def.

        Raises:
            InvalidCredentials: the token is not valid.
        """
        found = self._verify(check_token(token, self._invalid()))
        return self._later(found) if isinstance(found, Awaitable) else as_identity(found, self._invalid())

    async def _later(self, found: Awaitable[Any]) -> Authenticated:
        return as_identity(await found, self._invalid())


#: Checks a token that came over a connection: an authenticator, or a def or async def that takes it.
Verify = BaseTokenAuthenticator | Callable[[str], Any]


async def verified(verify: Verify, token: str, request: Request) -> Authenticated:
    """Return the user of a token that came over the connection of a request.

    Raises:
        InvalidCredentials: the token is not valid.
        Refuse: the token cannot be checked now.
    """
    found = verify.check(token, request) if isinstance(verify, BaseTokenAuthenticator) else verify(token)
    return as_identity(await found if isinstance(found, Awaitable) else found)


class FirstOf:
    """The type of the results of `first_of`."""

    def __init__(self, authenticators: tuple[Callable[[Request], Any], ...]) -> None:
        if not authenticators:
            raise ConfigurationError("first_of needs authenticators")
        for authenticator in authenticators:
            if isinstance(authenticator, type):
                raise ConfigurationError(f"write {authenticator.__name__}(...), not the class")
            check_takes(authenticator, ("request",), "an authenticator of first_of")
        self._authenticators = authenticators
        self.challenge = next((found for one in authenticators if (found := getattr(one, "challenge", None))), None)

    def __repr__(self) -> str:
        return f"first_of({', '.join(map(repr, self._authenticators))})"

    async def __call__(self, request: Request) -> Any:
        for authenticator in self._authenticators:
            found = authenticator(request)
            if isinstance(found, Awaitable):
                found = await found
            if found is not None:
                return found
        return None


def first_of(*authenticators: Callable[[Request], Any]) -> FirstOf:
    """Return an authenticator that asks others in order; the first one that finds credentials decides.

    An authenticator that returns None has found none. One that raises `InvalidCredentials` has found some that are not
    valid, and then no other one is asked.

    Raises:
        ConfigurationError: there is none, or one cannot be called with a request.
    """
    return FirstOf(authenticators)
