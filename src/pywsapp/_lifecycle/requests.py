"""Calling `on_handshake` and `on_request` of a component, which may be def or async def."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

from pywsapp._hooks import as_accept, must_await, then
from pywsapp._lifecycle.cancellation import raise_if_cancelled, raise_if_exiting
from pywsapp.component import Accept, MessageComponent
from pywsapp.exceptions import Refuse
from pywsapp.http import Request, Response

T = TypeVar("T")
logger = logging.getLogger("pywsapp")


def ask_handshake(component: MessageComponent, request: Request) -> Accept | Awaitable[Accept]:
    """Call `on_handshake` of a component.

    Raises:
        Refuse: the component refuses the handshake.
    """
    return then(_asked(component.on_handshake, request), lambda answer: as_accept(answer, component))


def ask_request(component: MessageComponent, request: Request) -> Response | Awaitable[Response]:
    """Call `on_request` of a component.

    Raises:
        Refuse: the component refuses the request.
    """
    return _asked(component.on_request, request)


def _asked(method: Callable[[Request], T | Awaitable[T]], request: Request) -> T | Awaitable[T]:
    try:
        answer = method(request)
    except Exception:
        raise
    except BaseException as exc:
        raise_if_exiting(exc)
        raise RuntimeError(f"{method.__qualname__} raised {exc!r}") from exc
    return _awaited(cast("Awaitable[T]", answer)) if must_await(answer) else answer


async def _awaited(answer: Awaitable[T]) -> T:
    try:
        return await answer
    except Exception:
        raise
    except BaseException as exc:
        raise_if_cancelled(exc)
        raise RuntimeError(f"{answer!r} raised {exc!r}") from exc


def refusal_for(exc: Exception, what: str) -> Refuse:
    """Return the refusal for an exception of a component; log the exception if it is a fault of this side.

    Args:
        exc: what `on_handshake` or `on_request` raised.
        what: the request, for the log.
    """
    if isinstance(exc, Refuse):
        return exc
    logger.error("answering %s failed", what, exc_info=exc)
    return Refuse(500, body="internal error")
