"""The user of a request of a test, in place of what `authenticate` would return."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, cast

from pywsapp._access import Authenticate
from pywsapp._request_state import Access, make_access
from pywsapp.component import Accept
from pywsapp.http import Request, Response
from pywsapp.middleware.base import HandshakeMiddleware

if TYPE_CHECKING:
    from pywsapp._server.server import Server
    from pywsapp.component import MessageComponent


class NotGiven:
    """The type of `NOT_GIVEN`."""

    def __repr__(self) -> str:
        return "NOT_GIVEN"


#: No user is given, so the guards of the App find it. None as a user is what a guard returns to refuse.
NOT_GIVEN = NotGiven()


class _GivenAccess(Access):
    """The state of a client whose user the test gives: a guard of the test replaces each guard of the App."""

    __slots__ = ("_given", "_guard")

    def __init__(self, given: Authenticate) -> None:
        self._given = given
        super().__init__()
        self._guard: Authenticate | None = given

    @property
    def guard(self) -> Authenticate | None:
        return self._guard

    @guard.setter
    def guard(self, guard: Authenticate | None) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._guard = None if guard is None else self._given


class _GiveUser(HandshakeMiddleware):
    """Middleware around the router of the App that gives a request its user.

    Args:
        component: the router.
        user: what `authenticate` would return.
    """

    def __init__(self, component: MessageComponent, user: Any) -> None:
        super().__init__(component)
        self._user = user

    def on_handshake(self, request: Request) -> Accept | Awaitable[Accept]:
        self._give(request)
        return super().on_handshake(request)

    def on_request(self, request: Request) -> Response | Awaitable[Response]:
        self._give(request)
        return super().on_request(request)

    def _give(self, request: Request) -> None:
        make_access(request)
        state = (request._origin or request)._state
        assert state is not None
        state._pywsapp_access = _GivenAccess(lambda _: self._user)


class _ServerOfOne:
    """The server as one connection sees it whose user is given."""

    def __init__(self, server: Server, user: Any) -> None:
        self._server = server
        self.component = _GiveUser(server.component, user)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)


def server_for(server: Server, user: Any) -> Server:
    """Return what the connection of a user gets as its server."""
    return server if user is NOT_GIVEN else cast("Any", _ServerOfOne(server, user))
