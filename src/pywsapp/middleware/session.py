"""Middleware that gives requests and connections a session (Ratchet's SessionProvider)."""

from __future__ import annotations

import copy
import dataclasses
import functools
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from pywsapp._access import Authenticate, ask_handler
from pywsapp._hooks import must_await, then
from pywsapp.component import Accept, ComponentFactory, MessageComponent
from pywsapp.exceptions import ConfigurationError, Refuse, SessionEnded, SessionUnavailable
from pywsapp.http import Request, Response, _has_session, _set_session
from pywsapp.middleware.base import Application, HandshakeMiddleware
from pywsapp.routing.responses import HttpHandler, as_response
from pywsapp.sessions.base import SessionStore
from pywsapp.sessions.service import SessionService
from pywsapp.sessions.urls import as_session_store

AnswerT = TypeVar("AnswerT", Accept, Response)
#: The sessions of a route: a store, its URL, False for no sessions, or None and True for the store of the App.
Sessions = SessionStore | str | bool | None
logger = logging.getLogger("pywsapp")

_RETRY_SECONDS = "1"


class SessionMiddleware(HandshakeMiddleware):
    """Loads `request.session` before the component inside is asked, and saves it with the answer.

    It acts on handshakes and on plain HTTP requests. The session of an accepted connection is `conn.session`; the
    middleware costs nothing for a message. While the store is unavailable, requests are answered with status 503.
    `App.route`, `App.http` and `App(session_store=...)` add it.

    Args:
        component: the component or App inside, as for `HandshakeMiddleware`.
        store: the store, or its URL: "memory", "redis://localhost" or "memcached://localhost".

    Attributes:
        store: the store.

    Raises:
        ConfigurationError: `component` cannot be routed, or the store is not valid.
    """

    def __init__(self, component: MessageComponent | ComponentFactory | Application, store: SessionStore | str) -> None:
        super().__init__(component)
        self.store = as_session_store(store)
        self._service = SessionService(self.store)

    def use_store(self, store: SessionStore) -> None:
        """Use another store."""
        self.store = store
        self._service.use_store(store)

    async def on_handshake(self, request: Request) -> Accept:
        """Load the session, and return what the component inside decides, with a cookie if there must be one."""
        return await _with_session(self._service, request, lambda: self._ask_inside(request), _add_to_accept)

    async def on_request(self, request: Request) -> Response:
        """Load the session, and return the answer of the component inside, with a cookie if there must be one."""
        return await _with_session(self._service, request, lambda: self._request_inside(request), _add_to_response)


def handler_with_sessions(handler: HttpHandler, service: SessionService) -> HttpHandler:
    """Return a handler of plain HTTP that gives its requests a session."""

    @functools.wraps(handler)
    async def with_session(request: Request) -> Response:
        return await _with_session(service, request, lambda: _ask(handler, request), _add_to_response)

    with_session._passes_on = True  # type: ignore[attr-defined]  # the session is loaded before the guard is called
    return with_session


def _ask(handler: HttpHandler, request: Request) -> Response | Awaitable[Response]:
    return then(ask_handler(handler, request), partial(as_response, handler))


async def _with_session(
    service: SessionService,
    request: Request,
    ask: Callable[[], AnswerT | Awaitable[AnswerT]],
    add_cookie: Callable[[AnswerT, str | None], AnswerT],
) -> AnswerT:
    with _refusing():
        session = await service.open(request)
        _set_session(request, session)
        try:
            found: Any = ask()
            answer: AnswerT = await found if must_await(found) else found
        except Refuse as refuse:
            cookie = await service.finish(session)
            if cookie is None:
                raise
            raise Refuse(refuse.status, _fields(refuse.headers, cookie), refuse.body) from refuse
        except BaseException:
            service.abandon(session)
            raise
        return add_cookie(answer, await service.finish(session))


@contextmanager
def _refusing() -> Iterator[None]:
    """Refuse the request when the session cannot be loaded or saved."""
    try:
        yield
    except SessionUnavailable:  # the log has it
        headers = [("Retry-After", _RETRY_SECONDS)]
        raise Refuse(503, headers, "sessions are not available at the moment") from None
    except SessionEnded:
        raise Refuse(403, body="the session has ended") from None


def _add_to_accept(accept: Accept, cookie: str | None) -> Accept:
    if cookie is None:
        return accept
    return dataclasses.replace(accept, headers=(*accept.headers, ("Set-Cookie", cookie)))


def _add_to_response(response: Response, cookie: str | None) -> Response:
    response = copy.copy(response)  # a program can return the same one again and again
    response.headers = _fields(response.headers, cookie)
    return response


def _fields(fields: tuple[tuple[str, str], ...], cookie: str | None) -> tuple[tuple[str, str], ...]:
    """Return the fields of an answer with a cookie; caches must not give the answer to another client."""
    added = [("Vary", "Cookie")]
    if cookie is not None:
        added.append(("Set-Cookie", cookie))
        if not any(name.lower() == "cache-control" for name, _ in fields):
            added.append(("Cache-Control", "no-store"))
    return (*fields, *added)


class AppSessions:
    """The session stores of an App: that of its routes, and those of single routes. Created by the App.

    Args:
        store: the store of the App, or its URL; None for none.

    Raises:
        ConfigurationError: the store is not valid.
    """

    def __init__(self, store: SessionStore | str | None) -> None:
        self._on_shutdown: Callable[[Callable[[], Any]], Any] | None = None
        self._stores: list[SessionStore] = []
        self._included: list[AppSessions] = []
        self._replace: list[Callable[[SessionStore], None]] = []  # one for each place that uses the store of the App
        self._store = None if store is None else self._used(as_session_store(store))

    def close_by(self, on_shutdown: Callable[[Callable[[], Any]], Any]) -> None:
        """Register a shutdown hook for each store, also for those that are named later."""
        self._on_shutdown = on_shutdown
        for store in self._stores:
            on_shutdown(store.aclose)

    def guard(self, authenticate: Authenticate | None) -> Authenticate | None:
        """Return a guard whose requests have a session, also where no route loads one: files, mounts, unknown paths.

        Such a session cannot be saved if it is new, because the answer has no middleware that sets a cookie.
        """
        if authenticate is None or self._store is None or not callable(authenticate):
            return authenticate
        service, inner = self._make_service(self._store), authenticate

        @functools.wraps(inner)
        async def with_session(request: Request) -> Any:
            with _refusing():
                if not _has_session(request):
                    session = await service.open(request)
                    service.abandon(session)
                    _set_session(request, session)
                found = inner(request)
                return await found if must_await(found) else found

        with_session.challenge = getattr(inner, "challenge", None)  # type: ignore[attr-defined]
        return with_session

    def around(self, component: Any, sessions: Sessions) -> Any:
        """Return a component with the middleware around it, if its route has sessions.

        Raises:
            ConfigurationError: `sessions` is not valid.
        """
        has_own = self.note(component)
        store = self._store_for(sessions)
        if store is None or (has_own and sessions is None):
            return component
        middleware = SessionMiddleware(component, store)
        if store is self._store:
            self._replace.append(middleware.use_store)
        return middleware

    def use_store(self, store: SessionStore | str) -> None:
        """Use another store in place of that of the App.

        Raises:
            ConfigurationError: the store is not valid, or the App has none that it could replace.
        """
        new, old = as_session_store(store), self._store
        if old is None:
            raise ConfigurationError(
                "the App has no sessions, so no store can be replaced: write App(session_store=...) in the program"
            )
        self._stores.remove(old)
        self._store = self._used(new)
        for replace in self._replace:
            replace(new)

    def _make_service(self, store: SessionStore) -> SessionService:
        service = SessionService(store)
        if store is self._store:
            self._replace.append(service.use_store)
        return service

    def note(self, component: object) -> bool:
        """Note the store of a component that has the middleware already, and return whether it has."""
        while isinstance(component, HandshakeMiddleware):
            if isinstance(component, SessionMiddleware):
                self._used(component.store)
                return True
            component = component.component
        return False

    def around_handler(self, handler: HttpHandler, sessions: Sessions) -> HttpHandler:
        """Return a handler of plain HTTP that has sessions, if its route has them.

        Raises:
            ConfigurationError: `sessions` is not valid.
        """
        store = self._store_for(sessions)
        if store is None or not callable(handler):
            return handler
        return handler_with_sessions(handler, self._make_service(store))

    def check_shared(self) -> None:
        """Check that several workers see the same sessions.

        Raises:
            ConfigurationError: a store is not shared between processes.
        """
        for store in self._stores:
            if not store.is_shared:
                raise ConfigurationError(
                    f"{store.name} belongs to one process, and workers would each have another one: "
                    "use redis:// or memcached://"
                )
        for other in self._included:
            other.check_shared()

    def include(self, other: AppSessions) -> None:
        """Check the stores of a mounted App too; its shutdown hooks are hooks of this App anyway."""
        self._included.append(other)

    def stores(self) -> Iterator[SessionStore]:
        """Return the stores, those of mounted Apps too."""
        yield from self._stores
        for other in self._included:
            yield from other.stores()

    def _store_for(self, sessions: Sessions) -> SessionStore | None:
        if sessions is None:
            return self._store
        if sessions is False:
            return None
        if sessions is True:
            if self._store is None:
                raise ConfigurationError("sessions=True needs App(session_store=...); or name a store here")
            return self._store
        return self._used(as_session_store(sessions))

    def _used(self, store: SessionStore) -> SessionStore:
        if store not in self._stores:
            self._stores.append(store)
            if self._on_shutdown is not None:
                self._on_shutdown(store.aclose)
        return store
