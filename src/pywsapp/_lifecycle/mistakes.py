"""Mistakes in handlers that are easy to make and hard to see; each gets a message that says what to write instead."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pywsapp._log_fields import log_fields
from pywsapp.exceptions import InvalidCredentials, Refuse
from pywsapp.http import Request

if TYPE_CHECKING:
    from pywsapp.component import MessageComponent

logger = logging.getLogger("pywsapp")

# From Python 3.13 on the message goes on if the attribute was set: "... and no __dict__ for setting new attributes".
_FREE_ATTRIBUTE = re.compile(
    r"('(?:[\w.]+\.)?(?:Client|Typed)?Connection' object has no attribute '(\w+)')(?: and no __dict__ .*)?"
)
_SET_USER = re.compile(r"[^']*'user'.*no setter|attribute 'user'.*not writable|can't set attribute( 'user')?")
_SENDING = "write conn.send(message) with a str or bytes"
_RECEIVING = "messages come to on_message"
#: Hints for names that other libraries give to attributes and methods of a connection.
_OTHER_NAMES = {
    **dict.fromkeys(("send_text", "send_bytes", "send_str", "send_message", "write", "write_message"), _SENDING),
    **dict.fromkeys(("send_json", "emit"), "write conn.send(json.dumps(value))"),
    **dict.fromkeys(("recv", "receive", "receive_text", "receive_bytes", "receive_json", "iter_text"), _RECEIVING),
    **dict.fromkeys(("accept", "prepare"), "on_open is called when the connection is open already"),
    **dict.fromkeys(("closed", "open", "readyState"), "write conn.is_open"),
    **dict.fromkeys(("client", "ip", "remoteAddress"), "write conn.remote_address"),
    "httpRequest": "write conn.request",
    "resourceId": "write conn.id",
    "join": "write conn.subscribe(topic)",
    "leave": "write conn.unsubscribe(topic)",
    "broadcast": "write pywsapp.broadcast(connections, message), or topic.broadcast(message)",
}
_MAX_SHOWN = 60
_warned: WeakKeyDictionary[type, set[str]] = WeakKeyDictionary()


def explain(component: MessageComponent, exc: Exception) -> None:
    """Add to an exception of a handler what to write instead, where the mistake is known."""
    if isinstance(exc, AttributeError) and exc.args and isinstance(exc.args[0], str):
        found = _FREE_ATTRIBUTE.fullmatch(exc.args[0])
        if found is not None:
            exc.args = (f"{found[1]}; {_instead_of(found[2])}", *exc.args[1:])
        elif _SET_USER.match(exc.args[0]) is not None:
            exc.args = (f"{exc.args[0]}; return the user from authenticate, or write conn.refresh_user(user)",)
    elif isinstance(exc, Refuse) and not isinstance(exc, InvalidCredentials) and _first_time(component, "Refuse"):
        logger.warning(
            "%s raised Refuse outside on_handshake and on_request, where there is no request left to refuse; "
            "write conn.close(1008, reason) instead",
            type(component).__name__,
            extra=log_fields("component.misplaced_refuse", component=type(component).__name__),
        )


def _instead_of(name: str) -> str:
    if name in _OTHER_NAMES:
        return _OTHER_NAMES[name]
    if not name.startswith("_") and hasattr(Request, name):
        return f"write conn.request.{name}"
    return f"keep your own data in conn.state: conn.state.{name}"


def warn_of_returned(component: MessageComponent, value: Any) -> None:
    """Warn, once for each class, that what a handler returned goes nowhere; an awaitable need not be awaited."""
    if not isinstance(value, Awaitable) and _first_time(component, "return"):
        logger.warning(
            "a handler of %s returned %.*r, which goes nowhere; write conn.send(...) to send it",
            type(component).__name__,
            _MAX_SHOWN,
            value,
            extra=log_fields("component.returned_value", component=type(component).__name__),
        )


def _first_time(component: MessageComponent, mistake: str) -> bool:
    warned = _warned.setdefault(type(component), set())
    is_first = mistake not in warned
    warned.add(mistake)
    return is_first
