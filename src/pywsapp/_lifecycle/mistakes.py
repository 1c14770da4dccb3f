"""Mistakes in handlers that are easy to make and hard to see; each gets a message that says what to write instead."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pywsapp.exceptions import Refuse

if TYPE_CHECKING:
    from pywsapp.component import MessageComponent

logger = logging.getLogger("pywsapp")

_FREE_ATTRIBUTE = re.compile(r"'(?:[\w.]+\.)?(?:Client)?Connection' object has no attribute '(\w+)'")
_MAX_SHOWN = 60
_warned: WeakKeyDictionary[type, set[str]] = WeakKeyDictionary()


def explain(component: MessageComponent, exc: Exception) -> None:
    """Add to an exception of a handler what to write instead, where the mistake is known."""
    if isinstance(exc, AttributeError) and exc.args and isinstance(exc.args[0], str):
        found = _FREE_ATTRIBUTE.fullmatch(exc.args[0])
        if found is not None:
            name = found[1]
            exc.args = (f"{exc.args[0]}; keep your own data in conn.state: conn.state.{name}", *exc.args[1:])
    elif isinstance(exc, Refuse) and _first_time(component, "Refuse"):
        logger.warning(
            "%s raised Refuse outside on_handshake and on_request, where there is no request left to refuse; "
            "write conn.close(1008, reason) instead",
            type(component).__name__,
        )


def warn_of_returned(component: MessageComponent, value: Any) -> None:
    """Warn, once for each class, that what a handler returned goes nowhere; an awaitable need not be awaited."""
    if not isinstance(value, Awaitable) and _first_time(component, "return"):
        logger.warning(
            "a handler of %s returned %.*r, which goes nowhere; write conn.send(...) to send it",
            type(component).__name__,
            _MAX_SHOWN,
            value,
        )


def _first_time(component: MessageComponent, mistake: str) -> bool:
    warned = _warned.setdefault(type(component), set())
    is_first = mistake not in warned
    warned.add(mistake)
    return is_first
