"""`django_user`: the user of a Django site, from the session that the site has begun.

It needs the sessions of the site, `App(session_store=DjangoSessionStore())`, and is imported by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.contrib.auth import get_user

from pywsapp.http import Request
from pywsapp.sessions.django import in_django_thread


class _SessionCopy(dict[str, Any]):
    """The session that Django's `get_user` reads, and changes after a new password or with an old secret key."""

    def flush(self) -> None:
        """Forget the user. The site ends the session itself, at its next request with this cookie."""
        self.clear()

    def cycle_key(self) -> None:
        """Do nothing: the site gives the session a new key itself."""


class _SiteRequest:
    """The request that Django's `get_user` takes."""

    def __init__(self, session: Mapping[str, Any]) -> None:
        self.session = _SessionCopy(session)


async def django_user(request: Request) -> Any:
    """Return the user who has logged in to the Django site, as the site's own `request.user`.

    Django decides, in a thread, with the backends of the site: a user who is not active or has changed the password is
    not logged in. It takes one query for the user, beside the one for the session.

    Args:
        request: a request of a route with the sessions of `DjangoSessionStore`.

    Returns:
        the user, an object of the site's user model; None if no user has logged in.

    Raises:
        ConfigurationError: the route has no sessions.
    """
    site_request = _SiteRequest(request.session)
    user = await in_django_thread(lambda: get_user(site_request))
    return user if user.is_authenticated else None
