"""The key of a user: the text that is the same for all connections of a user, in all processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pywsapp._request_state import Access, access_of
from pywsapp._signatures import check_takes
from pywsapp.auth.identity import Authenticated
from pywsapp.exceptions import ConfigurationError

if TYPE_CHECKING:
    from pywsapp.http import Request

#: Returns the key of a user: a str, an int or a UUID.
UserKey = Callable[[Any], Any]

_NAMES = ("sub", "id", "pk")


class UserKeys:
    """Makes the keys of users.

    The key of a connection is what `function` returns for its user. Without a function it is the subject that
    `authenticate` returned, else the user itself if it is a str, an int or a UUID, else its `sub`, `id` or `pk`: an
    attribute, or an item of a mapping.

    Args:
        function: the `user_key` of the App, or None.

    Raises:
        ConfigurationError: the function cannot be called with a user.
    """

    def __init__(self, function: UserKey | None = None) -> None:
        if function is not None:
            check_takes(function, ("user",), "user_key of App")
        self.function = function

    @property
    def settings(self) -> list[str]:
        """The names of the arguments of the App that it has."""
        return [] if self.function is None else ["user_key"]

    def of_user(self, user: Any) -> str:
        """Return the key of a user; a str, an int or a UUID is a key itself.

        Raises:
            ConfigurationError: it has none.
        """
        if isinstance(user, Authenticated):
            return self._of(user.user, user.subject)
        key = _as_key(user)
        return self._of(user, None) if key is None else key

    def of_access(self, access: Access) -> str:
        """Return the key of the user of a request, which must have one.

        Raises:
            ConfigurationError: the user has no key.
        """
        return self._of(access.user, access.subject)

    def _of(self, user: Any, subject: str | None) -> str:
        function = self.function
        if function is not None:
            found = function(user)
            key = _as_key(found)
            if key is None:
                raise ConfigurationError(f"user_key of App returned {found!r}, which is not a str, an int or a UUID")
            return key
        if subject:
            return subject
        key = _as_key(user)
        for name in _NAMES:
            if key is None:
                key = _as_key(user.get(name) if isinstance(user, Mapping) else getattr(user, name, None))
        if key is None:
            raise ConfigurationError(
                f"a {type(user).__name__} has no key: it is not a str, an int or a UUID and has no sub, id or pk; "
                "name it by App(user_key=...), a function that returns the key of a user, "
                "or return Authenticated(user, subject=...) in authenticate"
            )
        return key


_WITHOUT_APP = UserKeys()


def key_of_user(request: Request) -> str | None:
    """Return the key of the user of a request, as its App names users; None without a user.

    Raises:
        ConfigurationError: the user has no key.
    """
    access = access_of(request)
    if access is None or access.user is None:
        return None
    keys: UserKeys = getattr(request.app, "_user_keys", _WITHOUT_APP)
    return keys.of_access(access)


def _as_key(value: Any) -> str | None:
    """Return the key for a str, an int or a UUID; None for everything else."""
    if isinstance(value, str):
        return str.__str__(value) or None
    if isinstance(value, int) and not isinstance(value, bool):
        return int.__repr__(value)
    return str(value) if isinstance(value, UUID) else None
