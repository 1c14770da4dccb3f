"""The token in the first message: for clients that can neither set header fields nor offer subprotocols.

    app.route("/chat", FirstMessage(Chat(), authenticator))

The connection is accepted before the client is known, so this is the last choice. Until the token has come, such a
connection costs little: it has a deadline, a small limit for its messages and for those that wait, and the component
inside knows nothing of it. If too many connections wait, the oldest one is dropped, so that clients without a token
cannot keep out those with one. `on_open` is called when the token was accepted. The client waits for the first message
of the server before it sends larger messages than a token.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable
from typing import Any

from pywsapp._access import check_has_no_guard
from pywsapp._http_text import one_line
from pywsapp._log_fields import log_fields
from pywsapp._request_state import make_access
from pywsapp._signatures import check_takes
from pywsapp.auth.identity import ANONYMOUS, Authenticated, refresh
from pywsapp.auth.tokens import MAX_TOKEN, BaseTokenAuthenticator, Verify, verified
from pywsapp.close_codes import CloseCode, cut_reason
from pywsapp.component import ComponentFactory, MessageComponent
from pywsapp.connection import Connection
from pywsapp.exceptions import ConfigurationError, InvalidCredentials, Refuse
from pywsapp.http import Request, Response
from pywsapp.middleware.base import ComponentMiddleware

logger = logging.getLogger("pywsapp")

#: Connections whose clients are not known yet, in one process.
MAX_WAITING = 10_000


class _Later:
    """The guard of the handshake: the user comes later."""

    def __call__(self, request: Request) -> Authenticated:
        return ANONYMOUS

    def __repr__(self) -> str:
        return "FirstMessage"


class WaitingClients:
    """Connections in this process whose clients are not known yet. If there are too many, the oldest one is dropped.

    Args:
        limit: how many there can be.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: dict[Connection, None] = {}  # the oldest connection is first

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, conn: Connection) -> None:
        """Add a connection."""
        self._waiting[conn] = None
        if len(self._waiting) > self._limit:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            if oldest._driver is not None:
                oldest._driver.exceeded("max_waiting")
            oldest.abort()

    def discard(self, conn: Connection) -> None:
        """Remove a connection, whose client is known or which has ended."""
        self._waiting.pop(conn, None)


class FirstMessage(ComponentMiddleware):
    """Middleware that takes the first message of a connection for a token.

    A token that is not valid, or none in time, closes the connection with code 4401. Plain HTTP requests of the route
    are answered with status 426, because they cannot have a first message.

    Args:
        component: the component inside, as for `ComponentMiddleware`; without an `authenticate` of its own.
        verify: an authenticator for tokens, such as a `TokenAuthenticator` or a `JwtAuthenticator`; or a def or async
            def that takes the text of the message and returns the user.
        seconds: in which the token must come.
        max_size: bytes of a message until then, and of the messages that wait meanwhile.
        max_waiting: connections without a token in this process. A further one takes the place of the oldest.

    Raises:
        ConfigurationError: an argument is not valid.
    """

    authenticate = _Later()

    def __init__(
        self,
        component: MessageComponent | ComponentFactory,
        verify: Verify,
        *,
        seconds: float = 10,
        max_size: int = MAX_TOKEN,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        super().__init__(component)
        check_has_no_guard(component, "FirstMessage")
        if isinstance(verify, type):
            raise ConfigurationError(f"verify must be a function or an object: write {verify.__name__}(...)")
        if not isinstance(verify, BaseTokenAuthenticator):
            check_takes(verify, ("token",), "verify")
        self._verify = verify
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
            raise ConfigurationError(f"seconds must be a number greater than 0, not {seconds!r}")
        if type(max_size) is not int or max_size < 1:
            raise ConfigurationError(f"max_size must be a whole number from 1 on, not {max_size!r}")
        if type(max_waiting) is not int or max_waiting < 1:
            raise ConfigurationError(f"max_waiting must be a whole number from 1 on, not {max_waiting!r}")
        self._seconds = seconds
        self._waiting = WaitingClients(max_waiting)  # of all copies
        self._max_size = max_size
        self._is_open = False  # of the copy for a connection: whether on_open of the component inside was called

    def on_request(self, request: Request) -> Response | Awaitable[Response]:
        """Refuse a plain HTTP request, of which no message follows."""
        return MessageComponent.on_request(self, request)

    def on_open(self, conn: Connection) -> None:
        """Begin to wait for the token."""
        make_access(conn.request).expires_at = time.time() + self._seconds
        if conn._driver is not None:
            conn._driver.limit_messages(self._max_size)
            conn._driver.user_changed()
        self._waiting.add(conn)

    def on_message(self, conn: Connection, message: Any) -> Any:
        """Call the hook of the component inside, or take the first message for a token."""
        return self.inner.on_message(conn, message) if self._is_open else self._receive_token(conn, message)

    async def _receive_token(self, conn: Connection, message: str | bytes) -> None:
        try:
            if not isinstance(message, str):
                raise InvalidCredentials("the first message must be a token, as text")
            asked_at = time.monotonic()
            identity = await verified(self._verify, message, conn.request)
            if not conn.is_open:
                return
            refresh(conn.request, identity, asked_at)
            if conn._driver is not None:
                conn._driver.user_changed()
            if not conn.is_open:  # its user has too many connections, or was disconnected meanwhile
                return
        except Refuse as exc:
            is_invalid = isinstance(exc, InvalidCredentials)
            logger.info(
                "%r sent no valid credentials: %s",
                conn,
                one_line(str(exc.body)),
                extra=log_fields("auth.refused", conn, reason=str(exc.body)),
            )
            code = CloseCode.UNAUTHENTICATED if is_invalid else CloseCode.TRY_AGAIN_LATER
            conn.close(code, cut_reason(str(exc.body or "")))
            return
        self._waiting.discard(conn)
        if conn._driver is not None:
            conn._driver.limit_messages(None)
        self._is_open = True
        result = self.inner.on_open(conn)
        if isinstance(result, Awaitable):
            await result

    def on_close(self, conn: Connection) -> Any:
        """Call the hook of the component inside, if its `on_open` was called."""
        self._waiting.discard(conn)
        return self.inner.on_close(conn) if self._is_open else None

    def on_error(self, conn: Connection, exc: Exception) -> Any:
        """Call the hook of the component inside, if its `on_open` was called."""
        return self.inner.on_error(conn, exc) if self._is_open else MessageComponent.on_error(self, conn, exc)
