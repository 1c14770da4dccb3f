"""Middleware: components around components (Ratchet calls them decorators)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from pywsapp._access import ask_handshake, ask_request, set_guard
from pywsapp._authorize import note_authorize
from pywsapp._hooks import as_accept, check_component, make_component, then
from pywsapp.component import Accept, ComponentFactory, MessageComponent
from pywsapp.connection import Connection
from pywsapp.http import Request, Response
from pywsapp.topics.topic import Topic

if TYPE_CHECKING:
    from pywsapp._messages.conversation import OwnConversation
    from pywsapp._messages.typed import TypedMessages


class Application(Protocol):
    """An App, as middleware sees it."""

    @property
    def router(self) -> MessageComponent:
        """The component with the routes of the App."""


class HandshakeMiddleware(MessageComponent):
    """Middleware that acts only before a connection is accepted: override `check`.

    It guards everything below it: the handshakes and the plain HTTP requests of a component, a folder, a router or an
    App. An accepted connection belongs to the component inside, so this middleware costs nothing for a message.

    Args:
        component: the component inside: an instance, or a class or function that makes one for each connection; or an
            App, and then this middleware can only be mounted on another App.

    Attributes:
        component: the component inside; the router of an App.
        application: the App inside, also below further middleware; None if there is none.

    Raises:
        ConfigurationError: `component` cannot be routed; see `App.route`.
    """

    _passes_on = True
    #: Whether a connection does not know this middleware, so that its `authorize` is noted at the handshake.
    _ends_with_handshake = True

    def __init__(self, component: MessageComponent | ComponentFactory | Application) -> None:
        self.application: Any = getattr(component, "application", None)
        router = getattr(component, "router", None)
        if isinstance(router, MessageComponent) and not isinstance(component, MessageComponent):
            self.application, component = component, router
        self.component = check_component(component)

    def check(self, request: Request) -> Awaitable[None] | None:
        """Check a handshake or a plain HTTP request before the component inside sees it.

        It can be a `def`, an `async def`, or a `def` marked with `in_thread`. `OriginCheck` checks handshakes only.

        Returns:
            None. Any other result is a mistake, and the request is answered with status 500.

        Raises:
            Refuse: the server answers with that status.
        """
        return None

    def run_check(self, request: Request) -> Awaitable[None] | None:
        """Call `check`; raises what it raises, at once or when the result is awaited.

        Raises:
            TypeError: `check` returned something else than None.
        """
        result = self.check(request)
        return None if result is None else then(result, self._refuse_results)

    def _refuse_results(self, result: object) -> None:
        if result is not None:
            raise TypeError(
                f"{type(self).__name__}.check returned {result!r}, which has no meaning: "
                "raise Refuse(403) to refuse a request, and return nothing to accept it"
            )

    def on_handshake(self, request: Request) -> Accept | Awaitable[Accept]:
        """Check a handshake, and return what the component inside decides."""
        if (checked := self.run_check(request)) is None:
            return self._ask_inside(request)
        return then(checked, partial(self._ask_inside, request))

    def _ask_inside(self, request: Request, checked: None = None) -> Accept | Awaitable[Accept]:
        if self.authenticate is not None:
            set_guard(request, self.authenticate)
        if self.authorize is not None and self._ends_with_handshake:
            note_authorize(request, self.authorize)
        inside = make_component(self.component)
        return then(ask_handshake(inside, request), lambda answer: as_accept(answer, inside))

    def on_request(self, request: Request) -> Response | Awaitable[Response]:
        """Check a plain HTTP request, and return the answer of the component inside."""
        if (checked := self.run_check(request)) is None:
            return self._request_inside(request)
        return then(checked, partial(self._request_inside, request))

    def _request_inside(self, request: Request, checked: None = None) -> Response | Awaitable[Response]:
        set_guard(request, self.authenticate)
        if self.authorize is not None:  # of the event streams inside, whose connections no middleware takes part in
            note_authorize(request, self.authorize)
        return ask_request(make_component(self.component), request)


class ComponentMiddleware(HandshakeMiddleware):
    """Middleware for a whole connection: override the hooks that you want to change, the others call `self.inner`.

    The middleware and the component inside see the same Connection. Each connection has a shallow copy of the
    middleware, whose `inner` is the component for this connection. Make objects that the copies share, such
    as a set or a lock, in `__init__`.

    Attributes:
        inner: the component inside; set from `on_open` on.
    """

    inner: MessageComponent
    _ends_with_handshake = False

    @property
    def _typed(self) -> TypedMessages | OwnConversation | None:  # type: ignore[override] # pyright: ignore[reportIncompatibleVariableOverride] # that of the component inside
        return self.inner._typed if hasattr(self, "inner") else None

    def on_handshake(self, request: Request) -> Accept | Awaitable[Accept]:
        """Check a handshake, and return what the component inside decides, with this middleware around it."""
        return then(super().on_handshake(request), self._around)

    def _around(self, accept: Accept) -> Accept:
        assert accept.component is not None
        around = copy.copy(self)
        around.inner = accept.component
        subprotocols = accept.component.subprotocols if accept.subprotocols is None else accept.subprotocols
        return dataclasses.replace(accept, component=around, subprotocols=subprotocols)

    def on_open(self, conn: Connection) -> Any:
        """Call the hook of the component inside."""
        return self.inner.on_open(conn)

    def on_message(self, conn: Connection, message: Any) -> Any:
        """Call the hook of the component inside."""
        return self.inner.on_message(conn, message)

    def on_close(self, conn: Connection) -> Any:
        """Call the hook of the component inside."""
        return self.inner.on_close(conn)

    def on_subscribe(self, conn: Connection, topic: Topic) -> Any:
        """Call the hook of the component inside."""
        return self.inner.on_subscribe(conn, topic)

    def on_unsubscribe(self, conn: Connection, topic: Topic) -> Any:
        """Call the hook of the component inside."""
        return self.inner.on_unsubscribe(conn, topic)

    def on_error(self, conn: Connection, exc: Exception) -> Any:
        """Call the hook of the component inside."""
        return self.inner.on_error(conn, exc)
