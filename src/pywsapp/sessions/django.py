"""`DjangoSessionStore`: the sessions of a Django site, through Django itself, whatever its `SESSION_ENGINE` is.

Django reads and writes the sessions with the settings of the site, in threads, because its engines block. So a site
that keeps sessions in a database, in a cache or in both needs nothing more. This module unpickles nothing; a cache of
Django does, and trusts its server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeVar

import django
from django.apps import apps
from django.conf import settings
from django.contrib.sessions.backends.base import UpdateError
from django.core.exceptions import ImproperlyConfigured
from django.db import close_old_connections

from pywsapp.exceptions import ConfigurationError, SessionEnded, SessionError
from pywsapp.sessions.base import Stored
from pywsapp.sessions.cookies import SessionCookie
from pywsapp.sessions.json_data import encode_data
from pywsapp.sessions.threads import in_store_thread
from pywsapp.sessions.website import WebsiteStore

T = TypeVar("T")
#: The form of keys. Django's own have 32 letters and digits; caches accept at most 250 characters with the prefix.
_KEY = re.compile(r"[0-9A-Za-z_.-]{8,128}")


class DjangoSessionStore(WebsiteStore):
    """Reads and writes the sessions of a Django site.

    The cookie, the age and everything else come from the settings of the site, which `DJANGO_SETTINGS_MODULE` names. A
    session that was read does not begin its life anew, unless the site has `SESSION_SAVE_EVERY_REQUEST`.

    Args:
        max_size: bytes of the data of a session, as JSON.

    Raises:
        ConfigurationError: Django has no settings, or its sessions are not installed.
    """

    def __init__(self, *, max_size: int = 64 * 1024) -> None:
        try:
            if not apps.ready:
                django.setup()
            engine = import_module(settings.SESSION_ENGINE)
            self._make: Callable[[str | None], Any] = engine.SessionStore
        except (ImproperlyConfigured, ImportError, RuntimeError) as exc:
            raise ConfigurationError(f"Django cannot open the sessions of the site: {exc}") from exc
        cookie = SessionCookie(
            name=settings.SESSION_COOKIE_NAME,
            path=settings.SESSION_COOKIE_PATH,
            domain=settings.SESSION_COOKIE_DOMAIN,
            same_site=(settings.SESSION_COOKIE_SAMESITE or "lax").lower(),
            secure=settings.SESSION_COOKIE_SECURE or None,
            http_only=settings.SESSION_COOKIE_HTTPONLY,
            host_prefix=False,
        )
        super().__init__(
            cookie=cookie,
            max_age=settings.SESSION_COOKIE_AGE,
            sliding=settings.SESSION_SAVE_EVERY_REQUEST,
            max_size=max_size,
        )
        kind = settings.SESSION_ENGINE.rpartition(".")[2]
        self.name = f"the session store of Django ({kind})"
        self.is_in_cookie = kind == "signed_cookies"

    def cookie_seconds(self, data: Mapping[str, Any]) -> int | None:
        """Return the seconds that the browser keeps the cookie, which a site can set for each session."""
        session = self._filled(None, data)
        return None if session.get_expire_at_browser_close() else max(0, int(session.get_expiry_age()))

    async def load(self, token: str) -> Stored | None:
        """Return the session of a key."""
        if not self.is_in_cookie and not _KEY.fullmatch(token):
            return None
        data = await in_django_thread(lambda: self._load(token))
        return None if data is None else Stored(data)

    def _load(self, token: str) -> dict[str, Any] | None:
        session = self._make(token)
        data: dict[str, Any] = session.load()
        if self.is_in_cookie:
            return data or None  # an invalid cookie is an empty session too
        if session.session_key != token:
            session.exists(token)  # Django hides that a cache is unavailable; this raises
            return None
        if self.is_sliding:
            self._filled(token, data).save()
        return data

    async def save(self, token: str | None, stored: Stored) -> str:
        """Save a session under its key, or under a new one."""
        encode_data(
            stored.data, self.max_size
        )  # what is no JSON fails here, whatever the serializer of a cache accepts
        data = dict(stored.data)
        return await in_django_thread(lambda: self._save(token, data))

    def _save(self, token: str | None, data: dict[str, Any]) -> str:
        session = self._filled(None if self.is_in_cookie else token, data)
        try:
            session.save()
        except UpdateError:
            raise SessionEnded("the session was destroyed or has expired") from None
        key = session.session_key
        assert isinstance(key, str)
        return key

    def _filled(self, token: str | None, data: Mapping[str, Any]) -> Any:
        session = self._make(token)
        session.clear()
        session.update(data)
        return session

    async def delete(self, token: str) -> None:
        """Delete the session of a key."""
        if not self.is_in_cookie:
            await in_django_thread(lambda: self._make(token).delete())


async def in_django_thread(function: Callable[[], T]) -> T:
    """Call a function that uses Django, in a thread with database connections as for a request of the site."""
    return await in_store_thread(lambda: _with_fresh_connections(function))


def _with_fresh_connections(function: Callable[[], T]) -> T:
    """Call a function as Django calls the code for a request: database connections end as the settings say."""
    close_old_connections()
    try:
        return function()
    except StopIteration as exc:  # which cannot leave a thread's future
        raise SessionError("the engine of Django raised StopIteration") from exc
    finally:
        close_old_connections()
