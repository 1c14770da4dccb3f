"""State beside `Request.state`: the user and the session of a request, so that one without has no attributes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pywsapp.codecs.base import Codec
    from pywsapp.http import Request
    from pywsapp.sessions.session import Session


class Access:
    """The client of one request, and of the connection that it opens; `pywsapp._access` fills it.

    Attributes:
        guard: must be called before the request is answered; None if there is none left.
        passed: the last guard that was called with success.
        user: the user that it has found; None without one.
        expires_at: when the user must have been refreshed, in seconds since 1970; None for never.
        subject: names the user; None if the guard does not say.
        subprotocol: the subprotocol to accept with if the component has chosen none.
        certificate: the certificate of the client.
        session: the session of the client; `pywsapp.middleware.session` sets it. None without one.
        asked_at: when the check of the credentials began, in seconds of the monotonic clock; 0 without a check.
        user_key: the key under which `app.users` knows the connection; None if it does not know it.
        codecs: the codecs of the route, of which the subprotocol chooses one; `pywsapp._messages.choosing` notes them.
        alarm: a time in seconds since 1970, and a function that is called then, once; see `pywsapp.auth.expiry`.
        authorizers: each `authorize` outside of the component, the outermost first; `pywsapp._authorize` notes them.
        fallback_route: names the route of the request, if it has a fallback for networks that block WebSockets.
        page_fields: with these fields a page of another origin can read the answer; none if no origin check allows it.
        answer: answers a plain request in place of the component that it reaches, after the guard; None without one.
        trace: the span of the handshake, later what identifies it; None without `pywsapp.telemetry`.
    """

    __slots__ = (
        "alarm",
        "answer",
        "asked_at",
        "authorizers",
        "certificate",
        "codecs",
        "expires_at",
        "fallback_route",
        "guard",
        "page_fields",
        "passed",
        "session",
        "subject",
        "subprotocol",
        "trace",
        "user",
        "user_key",
    )

    def __init__(self) -> None:
        self.guard: Callable[[Request], Any] | None = None
        self.passed: Callable[[Request], Any] | None = None
        self.user: Any = None
        self.expires_at: float | None = None
        self.subject: str | None = None
        self.subprotocol: str | None = None
        self.certificate: dict[str, Any] | None = None
        self.session: Session | None = None
        self.asked_at = 0.0
        self.alarm: tuple[float, Callable[[], None]] | None = None
        self.user_key: str | None = None
        self.codecs: tuple[Codec, ...] = ()
        self.authorizers: tuple[Callable[..., Any], ...] = ()
        self.fallback_route: str | None = None
        self.page_fields: tuple[tuple[str, str], ...] = ()
        self.answer: Callable[[Request], Any] | None = None
        self.trace: Any = None


class State(SimpleNamespace):
    """`Request.state`, with the user of the request out of sight."""

    __slots__ = ("_pywsapp_access",)

    _pywsapp_access: Access | None


def make_state(request: Request) -> State:
    """Create the `state` of a request that is no copy."""
    request._state = state = State()
    state._pywsapp_access = None
    return state


def access_of(request: Request) -> Access | None:
    """Return what is known of the user of a request; None if nothing is."""
    state = (request._origin or request)._state
    return None if state is None else state._pywsapp_access


def make_access(request: Request) -> Access:
    """Return what is known of the user of a request, to add to it."""
    root = request._origin or request
    state = root._state or make_state(root)
    if state._pywsapp_access is None:
        state._pywsapp_access = Access()
    return state._pywsapp_access
