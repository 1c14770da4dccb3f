"""Access to a route: its guard, and the user that the guard has found.

A *guard* is the `authenticate` of a component, a route, a mount or an App. Guards outside of a component
are noted on the request while it is passed on, each one replacing the last. The innermost one is called, once, right
before the request reaches what answers it: `on_handshake` or `on_request` of a component, a handler of plain HTTP, or
the answer that there is nothing at this path.

Two rules hold whatever a component does. A request is not answered, and a handshake is not accepted, before the noted
guard has been called: `ask_handshake` and `ask_request` of the server check this last. And a component that another
component names in an `Accept` is asked for its own `authenticate` first.

The result is stored beside `request.state`, so a connection without a guard has no attribute for it.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic
from typing import Any, NoReturn, TypeVar, cast

from pywsapp._hooks import check_named, must_await, then
from pywsapp._request_state import Access, access_of, make_access
from pywsapp._signatures import check_takes, name_of
from pywsapp.auth.identity import as_identity, set_user
from pywsapp.component import Accept, HandshakeAnswer, MessageComponent
from pywsapp.exceptions import ConfigurationError, InvalidCredentials, Refuse
from pywsapp.http import Request, Response

T = TypeVar("T")

#: A def or async def that takes a request and returns its user.
Authenticate = Callable[[Request], Any]


# -- guards ------------------------------------------------------------------------------------------------------------


def check_authenticate(authenticate: Any, label: str) -> Authenticate | None:
    """Check what is given as `authenticate`, and return it.

    Args:
        authenticate: the function; None if none is given.
        label: what it is given to, for messages.

    Raises:
        ConfigurationError: it cannot be called with a request.
    """
    if authenticate is None:
        return None
    if isinstance(authenticate, type):  # calling it would make an object, which would be taken for the user
        raise ConfigurationError(
            f"authenticate of {label} must be a function or an object, not the class {name_of(authenticate)}: "
            f"write {authenticate.__name__}(...)"
        )
    if inspect.isgeneratorfunction(authenticate) or inspect.isasyncgenfunction(authenticate):
        raise ConfigurationError(f"authenticate of {label} has a yield, so it would never run: return the user")
    check_takes(authenticate, ("request",), f"authenticate of {label}")
    checked: Authenticate = authenticate
    return checked


def check_has_no_guard(component: object, label: str) -> None:
    """Check that a component for which a route has an `authenticate` has none of its own.

    Raises:
        ConfigurationError: it has one, or a component inside of this middleware has.
    """
    while True:
        if getattr(component, "authenticate", None) is not None:
            kind = component if isinstance(component, type) else type(component)
            raise ConfigurationError(f"{kind.__name__} and {label} both have an authenticate: leave one of the two out")
        if not hasattr(component, "component"):
            return
        component = component.component


def set_guard(request: Request, guard: Authenticate | None) -> None:
    """Note a guard that is inside of the one that was noted before; None changes nothing."""
    if guard is not None:
        make_access(request).guard = guard


def has_guard(request: Request) -> bool:
    """Return whether a guard must be called before the request is answered."""
    state = (request._origin or request)._state  # the same as `access_of`, without a call
    access = None if state is None else state._pywsapp_access
    return access is not None and access.guard is not None


def check_guard(request: Request) -> Awaitable[None] | None:
    """Call the guard of a request, if one is left.

    Raises:
        Refuse: the request has no valid credentials.
        TypeError: the guard returned what cannot be a user.
    """
    access = access_of(request)
    guard = None if access is None else access.guard
    if access is None or guard is None:
        return None
    access.asked_at = monotonic()
    return then(guard(request), partial(_enter, access, guard))


def after_guard(request: Request, answer: Callable[[], T | Awaitable[T]]) -> T | Awaitable[T]:
    """Call the guard of a request, if one is left, and then the function that answers the request."""
    checked = check_guard(request)
    return answer() if checked is None else _answer_later(checked, answer)


def refuse_after_guard(request: Request, refuse: Refuse) -> Awaitable[NoReturn]:
    """Refuse a request for which nothing is routed, after its guard.

    A guard by session finds no session here, because only routes have sessions: it refuses too, without an error.

    Raises:
        Refuse: always.
    """
    try:
        checked = check_guard(request)
    except ConfigurationError:
        raise InvalidCredentials from None
    if checked is None:
        raise refuse
    return _refuse_later(checked, refuse)


async def _refuse_later(checked: Awaitable[None], refuse: Refuse) -> NoReturn:
    try:
        await checked
    except ConfigurationError:
        raise InvalidCredentials from None
    raise refuse


async def _answer_later(checked: Awaitable[None], answer: Callable[[], T | Awaitable[T]]) -> T:
    await checked
    value = answer()
    return await cast("Awaitable[T]", value) if must_await(value) else cast("T", value)


def _enter(access: Access, guard: Authenticate, found: Any) -> None:
    if isinstance(found, (Response, Accept)):
        raise TypeError(f"{name_of(guard)} returned {type(found).__name__}, which is no user; raise Refuse to refuse")
    set_user(access, as_identity(found, getattr(guard, "challenge", None)))
    access.passed, access.guard = guard, None


# -- asking components -------------------------------------------------------------------------------------------------


def ask_handshake(component: MessageComponent, request: Request) -> HandshakeAnswer | Awaitable[HandshakeAnswer]:
    """Return the decision of a component on a handshake, after its guard.

    Raises:
        Refuse: the guard or the component refuses the handshake.
    """
    if component._passes_on:
        return component.on_handshake(request)
    if component.authenticate is not None:
        set_guard(request, component.authenticate)
    elif not has_guard(request):
        return _decide(component, request)
    return after_guard(request, partial(_decide, component, request))


def _decide(component: MessageComponent, request: Request) -> HandshakeAnswer | Awaitable[HandshakeAnswer]:
    answer = component.on_handshake(request)
    if answer is None or isinstance(answer, str):
        return answer
    return then(cast("Awaitable[HandshakeAnswer]", answer), partial(_hand_over, component, request))


def _hand_over(
    component: MessageComponent, request: Request, answer: HandshakeAnswer
) -> HandshakeAnswer | Awaitable[HandshakeAnswer]:
    """Call the guard of the component that an `Accept` names in place of the one that returned it."""
    other = answer.component if isinstance(answer, Accept) else None
    if other is not None and other is not component:
        check_named(other)
        if other.authenticate is not None:
            access = make_access(request)
            if access.passed != other.authenticate:
                access.guard = other.authenticate
    return after_guard(request, lambda: answer)


def ask_request(component: MessageComponent, request: Request) -> Response | Awaitable[Response]:
    """Return the answer of a component to a plain HTTP request, after its guard.

    Raises:
        Refuse: the guard or the component refuses the request.
    """
    if component._passes_on:
        return component.on_request(request)
    set_guard(request, component.authenticate)
    access = access_of(request)
    answer = component.on_request if access is None or access.answer is None else access.answer
    return after_guard(request, lambda: answer(request))


def ask_handler(handler: Callable[[Request], Any], request: Request) -> Any:
    """Return what a handler of plain HTTP returns, after the guard of the request.

    A function around a handler has the attribute `_passes_on` if it calls `ask_handler` for the handler inside, after
    it has prepared the request for the guard.

    Raises:
        Refuse: the guard or the handler refuses the request.
    """
    if getattr(handler, "_passes_on", False):
        return handler(request)
    return after_guard(request, partial(handler, request))
