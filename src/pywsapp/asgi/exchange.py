"""One request of an ASGI server: a handshake or a plain request, from its scope to the decision of the component."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import anyio

from pywsapp._hooks import must_await
from pywsapp._lifecycle.requests import refusal_for
from pywsapp._server.connection_log import request_line
from pywsapp.asgi.scope import Scope, note_site, request_of
from pywsapp.exceptions import Refuse
from pywsapp.http import Request

if TYPE_CHECKING:
    from pywsapp._server.server import Server

AnswerT = TypeVar("AnswerT")


class Exchange:
    """A request that is being answered, for the time of a `with` block.

    Args:
        server: the server of the App.
        scope: the scope of the request.

    Attributes:
        began: when the request came, by `time.monotonic`, for the access log; None without one.
        scope: the scope.
        request: the request; None until `read_scope` has returned.
    """

    def __init__(self, server: Server, scope: Scope) -> None:
        self.server = server
        self.request: Request | None = None
        self.scope = scope
        self.began = time.monotonic() if server.connection_log.has_access_log else None
        self._cancel_scope: anyio.CancelScope | None = None  # while a decision is awaited

    def read_scope(self, parsed: Request | None = None) -> Request:
        """Return the request of the scope.

        Args:
            parsed: the request that the server has parsed, with the header fields of the scope.

        Raises:
            Refuse: the request is malformed.
        """
        options = self.server.options
        request = request_of(
            self.scope, max_header_size=options.max_header_size, max_headers=options.max_headers, parsed=parsed
        )
        request.app = self.server.app
        note_site(request, self.scope)
        self.request = request
        return request

    def admit(self) -> None:
        """Count the request against `max_connections` until the block ends.

        Raises:
            Refuse: there are too many connections, or the App drains.
        """
        self.server.check_capacity()
        self.server.runtime.connections.add(self)

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.runtime.discard(self)

    async def decide(self, ask: Callable[[], AnswerT | Awaitable[AnswerT]]) -> AnswerT:
        """Return the answer of a component, within `Options.handshake_timeout`.

        Raises:
            Refuse: 503, the decision took too long, or the App ends.
        """
        answer = ask()
        if not must_await(answer):
            return cast("AnswerT", answer)
        with anyio.move_on_after(self.server.options.handshake_timeout) as self._cancel_scope:
            return await cast("Awaitable[AnswerT]", answer)
        raise Refuse(503, [("Retry-After", "1")], "deciding took too long")

    def refusal(self, exc: Exception) -> Refuse:
        """Return the refusal for what a component or a check has raised; log it, and count it."""
        line = request_line(self.request)
        refuse = refusal_for(exc, line, self.request)
        self.server.counts.refused[refuse.status] += 1
        self.server.connection_log.refused(self.peer, self.request, refuse)
        return refuse

    @property
    def peer(self) -> str:
        """The address of the client, for a log."""
        return (self.request.remote_address if self.request is not None else "") or "local"

    # -- as a connection of the runtime ------------------------------------------------------------------------------

    def abort(self) -> None:
        """Stop waiting for a decision: the App ends."""
        if self._cancel_scope is not None:
            self._cancel_scope.cancel()

    def tick(self, now: float) -> None:
        """Do nothing: the ASGI server has the time limits of requests."""


def asgi_fields(headers: Any) -> list[tuple[bytes, bytes]]:
    """Return header fields as ASGI has them."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
