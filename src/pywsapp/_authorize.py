"""Which connection may use which topic: the `authorize` of components, routes and Apps.

Each of them can have an `authorize(conn, action, topic)`. The most specific one that has an opinion decides: that of
the component, then of the middleware around it, of its route, and of the Router or App. Those outside of the component
are noted on the request while it is passed on, as guards are (see `_access`). `_lifecycle.authorization` calls them.

The functions are stored beside `request.state`, so a connection without an `authorize` has no attribute for it.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from pywsapp._request_state import access_of, make_access
from pywsapp._signatures import check_takes, name_of
from pywsapp._topic_actions import TopicAction
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection
from pywsapp.exceptions import ConfigurationError

if TYPE_CHECKING:
    from pywsapp.http import Request

#: True allows, False refuses, None is no opinion.
Decision = bool | None
#: A def or async def that takes a connection, an action and the name of a topic, and returns a decision.
Authorize = Callable[[Connection, TopicAction, str], Decision | Awaitable[Decision]]

#: The arguments of `authorize`.
ARGUMENTS = ("conn", "action", "topic")
_MAX_SHOWN = 60


def check_authorize(authorize: Any, label: str) -> Authorize | None:
    """Check what is given as `authorize`, and return it.

    Args:
        authorize: the function; None if none is given.
        label: what it is given to, for messages.

    Raises:
        ConfigurationError: it cannot be called with a connection, an action and a topic.
    """
    if authorize is None:
        return None
    if isinstance(authorize, type):
        raise ConfigurationError(
            f"authorize of {label} must be a function or an object, not the class {name_of(authorize)}: "
            f"write {authorize.__name__}(...)"
        )
    if inspect.isgeneratorfunction(authorize) or inspect.isasyncgenfunction(authorize):
        raise ConfigurationError(f"authorize of {label} has a yield, so it would never run: return True or False")
    check_takes(authorize, ARGUMENTS, f"authorize of {label}")
    checked: Authorize = authorize
    return checked


def note_authorize(request: Request, authorize: Authorize) -> None:
    """Note an `authorize` that is inside of those that were noted before."""
    access = make_access(request)
    access.authorizers = (*access.authorizers, authorize)


def authorizers_of(component: MessageComponent, request: Request) -> tuple[Authorize, ...]:
    """Return every `authorize` of a connection, the most specific one first.

    Args:
        component: the component of the connection, with the middleware that takes part in the connection around it.
        request: its request.
    """
    access = access_of(request)
    noted = () if access is None else access.authorizers
    if component.authorize is None and not component._passes_on:
        return noted[::-1]
    found: list[Authorize] = []
    while True:
        if component.authorize is not None:
            found.append(component.authorize)
        inner = getattr(component, "inner", None) if component._passes_on else None
        if inner is None:
            break
        component = inner
    return (*reversed(found), *reversed(noted))


def as_decision(authorize: Authorize, result: Any) -> Decision:
    """Return what `authorize` has decided.

    Raises:
        TypeError: it returned something else than True, False or None.
    """
    if result is None or result is True or result is False:
        return result
    raise TypeError(
        f"{name_of(authorize)} returned {result!r:.{_MAX_SHOWN}}, which is no decision: "
        "return True to allow, False to refuse, None for no opinion"
    )
