"""The results of `authenticate`: a user, a user with more facts, or `public`."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import Any

from pywsapp._request_state import Access, make_access
from pywsapp.exceptions import ConfigurationError, InvalidCredentials
from pywsapp.http import Request


@dataclass(frozen=True, slots=True)
class Authenticated:
    """A user with an expiry; `authenticate` can return one in place of a user.

    Args:
        user: what `request.user` and `conn.user` are; not None.
        expires_at: seconds since 1970 at which the connection is closed with code 4401, unless `conn.refresh_user` has
            replaced the user before. None never expires.
        subject: names the user for `conn.refresh_user`, which refuses another subject; None is not compared.

    Raises:
        ConfigurationError: the expiry is no number.
    """

    user: Any
    expires_at: float | None = None
    subject: str | None = None

    def __post_init__(self) -> None:
        expires_at = self.expires_at
        is_number = isinstance(expires_at, (int, float)) and not isinstance(expires_at, bool)
        if expires_at is not None and not (is_number and expires_at == expires_at):  # a nan is not equal to itself
            raise ConfigurationError(f"expires_at must be seconds since 1970 or None, not {expires_at!r}")


#: The result of `public`: no user is needed.
ANONYMOUS = Authenticated(None)


class Public:
    """The type of `public`."""

    def __call__(self, request: object) -> Authenticated:
        return ANONYMOUS

    def __repr__(self) -> str:
        return "public"


#: `authenticate=public` says that a route needs no user, although its App or mount has a guard. `request.user` is then
#: None. An `authenticate` of your own can also return `public(request)` for a request that needs no user.
public = Public()


def as_identity(found: Any, challenge: str | None = None) -> Authenticated:
    """Return the user that `authenticate` has returned, with its expiry.

    Raises:
        InvalidCredentials: it returned no user.
        TypeError: it returned what cannot be a user.
    """
    if isinstance(found, (bool, BaseException)):
        raise TypeError(
            f"{found!r} is no user: return the user, None to refuse the request, or public(request) for a request "
            "that needs no user"
        )
    identity = found if isinstance(found, Authenticated) else Authenticated(found)
    if identity is not ANONYMOUS and (identity.user is None or identity.user == ""):
        raise InvalidCredentials(challenge=challenge)
    return identity


def set_user(access: Access, identity: Authenticated) -> None:
    """Store a user."""
    access.user, access.expires_at, access.subject = identity.user, identity.expires_at, identity.subject


def refresh(request: Request, found: Any, asked_at: float | None = None) -> None:
    """Replace the user of a request; see `Connection.refresh_user`.

    Args:
        request: the request.
        found: the user.
        asked_at: when the check of its credentials began, in seconds of the monotonic clock; None for now.
    """
    identity = as_identity(found)
    access = make_access(request)
    if access.subject is not None and identity.subject != access.subject:
        raise InvalidCredentials("the credentials are those of another user")
    access.asked_at = monotonic() if asked_at is None else asked_at
    set_user(access, identity)
