"""The status page: who may see it, its file, and the WebSocket that feeds it."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pywsapp._access import Authenticate
from pywsapp._status.service import StatusService
from pywsapp.auth.identity import public
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection
from pywsapp.exceptions import ConfigurationError
from pywsapp.http import Request, Response
from pywsapp.routing.address_guard import AddressGuard

#: The guard of the page: an authenticator, or IP addresses and networks.
StatusGuard = Authenticate | Iterable[str]
#: Characters of an action.
_MAX_ACTION = 2_000


def checked_guard(guard: StatusGuard | None, *, can_disconnect: bool) -> tuple[Authenticate, AddressGuard | None]:
    """Return the guard of the routes of the page, and that of addresses, if there is one.

    Raises:
        ConfigurationError: there is no guard, or it is not valid.
    """
    if guard is None:
        raise ConfigurationError(
            "the status page shows users, addresses and topics, so write who may see it: "
            "app.status(guard=...), an authenticator, or addresses such as ['127.0.0.1']"
        )
    addresses = None if callable(guard) else AddressGuard(guard, "the status page is")
    if can_disconnect and (guard is public or not callable(guard)):
        raise ConfigurationError(
            "can_disconnect needs to know who disconnects: write an authenticator that returns a user as guard"
        )
    if callable(guard):
        return guard, None
    return public, addresses


class StatusPage(MessageComponent):
    """The page and its WebSocket, at the same path.

    Args:
        find_service: returns what makes the snapshots, and does what users of the page ask for.
        path: the path, without parameters.
        addresses: lets addresses pass; None if all that the guard accepts may see the page.
        can_disconnect: whether the users of the page can disconnect connections and users.

    Raises:
        ConfigurationError: the path has parameters.
    """

    #: Its guard is no reason to warn of other routes without one.
    is_for_operators = True

    def __init__(
        self,
        find_service: Callable[[], StatusService],
        path: str,
        addresses: AddressGuard | None,
        *,
        can_disconnect: bool,
    ) -> None:
        if "{" in path:
            raise ConfigurationError(f"{path!r}: the path of the status page has no parameters")
        self._find_service = find_service
        self._can_disconnect = can_disconnect
        self._addresses = addresses

    def show(self, request: Request) -> Response:
        """Return the page, a file without any data.

        Raises:
            Refuse: the address of the client may not see it.
        """
        self._check_address(request)
        text, headers = _page()
        return Response.html(text, headers=headers)

    def on_handshake(self, request: Request) -> None:
        """Refuse an address that may not see the page.

        Raises:
            Refuse: it may not.
        """
        self._check_address(request)

    def _check_address(self, request: Request) -> None:
        if self._addresses is not None:
            self._addresses.check(request)

    def on_open(self, conn: Connection) -> None:
        """Begin to feed a page."""
        self._find_service().add_page(conn, can_disconnect=self._can_disconnect)

    def on_close(self, conn: Connection) -> None:
        """Handle the end of a page."""
        self._find_service().discard_page(conn)

    async def on_message(self, conn: Connection, message: Any) -> None:
        """Do what a page asks for, and send it the result."""
        try:
            result = {"type": "done", "text": await self._find_service().act(conn, _action_of(message))}
        except ValueError as exc:
            result = {"type": "failed", "text": str(exc)}
        conn.send(json.dumps(result))


def _action_of(message: Any) -> dict[str, Any]:
    """Parse an action.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(message, str) or len(message) > _MAX_ACTION:
        raise ValueError("this is no action")
    try:
        action = json.loads(message)
    except (ValueError, RecursionError):
        raise ValueError("this is no action") from None
    if not isinstance(action, dict):
        raise ValueError("this is no action")
    return action


@functools.cache
def _page() -> tuple[str, dict[str, str]]:
    """Return the text of the page, and header fields that allow nothing but its own style and script."""
    text = Path(__file__).with_name("status.html").read_text(encoding="utf-8")
    return text, {
        "Content-Security-Policy": f"default-src 'none'; script-src {_hash('script', text)}; "
        f"style-src {_hash('style', text)}; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }


def _hash(tag: str, text: str) -> str:
    content = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    assert content is not None
    return f"'sha256-{base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()}'"
