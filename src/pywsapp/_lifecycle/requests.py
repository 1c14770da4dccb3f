"""The decision of a component about a request, by hooks that may be def or async def, and the guard before it."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar, cast

from pywsapp._access import ask_handshake, ask_request, check_guard, has_guard
from pywsapp._hooks import as_accept, must_await, then
from pywsapp._lifecycle.cancellation import raise_if_cancelled, raise_if_exiting
from pywsapp._log_fields import log_fields
from pywsapp._request_state import access_of
from pywsapp.component import Accept, MessageComponent
from pywsapp.exceptions import Refuse
from pywsapp.http import Request, Response

T = TypeVar("T")
_PUBLIC = re.compile(r"\bpublic\b", re.IGNORECASE)
logger = logging.getLogger("pywsapp")


def decide_handshake(component: MessageComponent, request: Request) -> Accept | Awaitable[Accept]:
    """Call `on_handshake` of a component, after the guard of the request.

    Raises:
        Refuse: the guard or the component refuses the handshake.
    """
    answer = _asked(ask_handshake, component, request)
    if isinstance(answer, Accept) and not has_guard(request):
        return as_accept(answer, component)
    return then(answer, lambda answer: _guarded(request, as_accept(answer, component)))


def decide_request(component: MessageComponent, request: Request) -> Response | Awaitable[Response]:
    """Call `on_request` of a component, after the guard of the request.

    Raises:
        Refuse: the guard or the component refuses the request.
    """
    answer = _asked(ask_request, component, request)
    return then(answer, lambda answer: then(_guarded(request, answer), partial(_for_client, request)))


def _guarded(request: Request, answer: T) -> T | Awaitable[T]:
    """Return an answer; first call the guard of the request, if a component has answered without it."""
    if not has_guard(request):
        return answer
    return then(_asked(_check, None, request), lambda _: answer)


def _for_client(request: Request, response: Response) -> Response:
    """Add the fields of a response that depend on the page and the user of the request."""
    access = access_of(request)
    if access is None or not isinstance(response, Response):
        return response
    if access.user is not None:
        _keep_private(response)
    if access.page_fields:
        response.headers = (*response.headers, *access.page_fields)
    return response


def _keep_private(response: Response) -> None:
    """Keep shared caches from storing what a user may see (RFC 9111, section 5.2.2.7)."""
    fields = [(name, _PUBLIC.sub("private", value) if _is_cache(name) else value) for name, value in response.headers]
    if not any(_is_cache(name) for name, _ in fields):
        fields.append(("Cache-Control", "private"))
    response.headers = tuple(fields)


def _is_cache(name: str) -> bool:
    return name.lower() == "cache-control"


def _check(_: None, request: Request) -> Awaitable[None] | None:
    return check_guard(request)


def _asked(ask: Callable[[Any, Request], T | Awaitable[T]], component: Any, request: Request) -> T | Awaitable[T]:
    try:
        answer = ask(component, request)
    except Exception:
        raise
    except BaseException as exc:
        raise_if_exiting(exc)
        raise RuntimeError(f"{type(component).__name__} raised {exc!r}") from exc
    return _awaited(cast("Awaitable[T]", answer)) if must_await(answer) else answer


async def _awaited(answer: Awaitable[T]) -> T:
    try:
        return await answer
    except Exception:
        raise
    except BaseException as exc:
        raise_if_cancelled(exc)
        raise RuntimeError(f"{answer!r} raised {exc!r}") from exc


def refusal_response(refuse: Refuse, request: Request | None) -> Response:
    """Return the response for a refusal, which a page of another origin can read if its origin is allowed.

    Args:
        refuse: the refusal.
        request: the request; None if it was not valid.
    """
    response = Response.refusal(refuse)
    access = None if request is None else access_of(request)
    if access is not None:
        response.headers = (*response.headers, *access.page_fields)
    return response


def refusal_for(exc: Exception, what: str, request: Request | None) -> Refuse:
    """Return the refusal for an exception of a component; log the exception if it is a fault of this side.

    Args:
        exc: what `on_handshake` or `on_request` raised.
        what: the request, for the sentence of the log.
        request: the request, for the fields of the log; None if it was not valid.
    """
    if isinstance(exc, Refuse):
        return exc
    logger.error(
        "answering %s failed",
        what,
        exc_info=exc,
        extra=log_fields("request.failed", request, error=type(exc).__name__),
    )
    return Refuse(500, body="internal error")
