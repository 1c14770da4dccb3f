"""Middleware: components around components (Ratchet's decorators)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Awaitable
from typing import Any

from pywsapp.component import (
    Accept,
    ComponentFactory,
    MessageComponent,
    check_component,
    make_component,
    normalized,
    then,
)
from pywsapp.connection import Connection
from pywsapp.http import Request, Response
from pywsapp.topics.topic import Topic


class HandshakeMiddleware(MessageComponent):
    """A component around a component that acts only before a connection is open, and then hands it over.

    Override `check`. It costs nothing per message, for it is gone by then.

    Args:
        component: what is behind it: a component, or a class or function that makes one for each connection.

    Raises:
        ConfigurationError: no component.
    """

    def __init__(self, component: MessageComponent | ComponentFactory) -> None:
        self.component = check_component(component)

    def check(self, request: Request) -> None:
        """Look at a handshake before the component does.

        Raises:
            Refuse: to answer it with that status instead.
        """

    def on_handshake(self, request: Request) -> Accept | Awaitable[Accept]:
        """Check a handshake and hand it over."""
        self.check(request)
        inner = make_component(self.component)
        return then(inner.on_handshake(request), lambda answer: normalized(answer, inner))

    def on_request(self, request: Request) -> Response | Awaitable[Response]:
        """Hand a plain HTTP request over, unchecked."""
        return make_component(self.component).on_request(request)


class ComponentMiddleware(HandshakeMiddleware):
    """A component around a component (Ratchet's decorators): override what you want to change, the rest goes through.

    Both see the same Connection. Each connection gets a shallow copy of the decorator, whose `inner` is the component
    that this connection is for; what the copies share, a set or a lock for instance, is made in `__init__`.
    """

    inner: MessageComponent

    def on_handshake(self, request: Request) -> Accept | Awaitable[Accept]:
        """Check a handshake, hand it over, and stay in between."""
        return then(super().on_handshake(request), self._around)

    def _around(self, accept: Accept) -> Accept:
        assert accept.component is not None
        around = copy.copy(self)
        around.inner = accept.component
        subprotocols = accept.component.subprotocols if accept.subprotocols is None else accept.subprotocols
        return dataclasses.replace(accept, component=around, subprotocols=subprotocols)

    def on_open(self, conn: Connection) -> Any:
        """Pass it on."""
        return self.inner.on_open(conn)

    def on_message(self, conn: Connection, message: Any) -> Any:
        """Pass it on."""
        return self.inner.on_message(conn, message)

    def on_close(self, conn: Connection) -> Any:
        """Pass it on."""
        return self.inner.on_close(conn)

    def on_subscribe(self, conn: Connection, topic: Topic) -> Any:
        """Pass it on."""
        return self.inner.on_subscribe(conn, topic)

    def on_unsubscribe(self, conn: Connection, topic: Topic) -> Any:
        """Pass it on."""
        return self.inner.on_unsubscribe(conn, topic)

    def on_error(self, conn: Connection, exc: Exception) -> Any:
        """Pass it on."""
        return self.inner.on_error(conn, exc)
