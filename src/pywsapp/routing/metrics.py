"""The endpoint for metrics: who may read them, and the answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from pywsapp._access import Authenticate
from pywsapp._addresses import Networks
from pywsapp._http_text import one_line
from pywsapp.auth.identity import public
from pywsapp.exceptions import ConfigurationError, Refuse
from pywsapp.http import Request, Response
from pywsapp.routing.router import Router

#: Who may read the metrics: an authenticator, or IP addresses and networks.
MetricsGuard = Authenticate | Iterable[str]
#: Returns the text of numbers for the Accept field of a request, and its content type.
Encode = Callable[[Any, str], tuple[bytes, str]]


def add_metrics(
    router: Router, path: str, collect: Callable[[], Awaitable[Any]], encode: Encode, guard: MetricsGuard | None
) -> None:
    """Route the metrics; they are answered also above `max_connections`.

    Args:
        router: gets the route.
        path: the path.
        collect: returns the numbers.
        encode: returns them as text.
        guard: who may read them; None for the guard of the router.

    Raises:
        ConfigurationError: the path or the guard is not valid, or the route exists.
    """
    networks: Networks | None = None
    if isinstance(guard, str):
        raise ConfigurationError(
            f"guard is an authenticator, or a list of IP addresses and networks: write [{one_line(guard)!r}]"
        )
    if guard is not None and not callable(guard):
        networks = Networks()
        for entry in guard:
            networks.add(entry)
        guard = public  # who may read is decided below

    async def metrics(request: Request) -> Response:
        if networks is not None and request.remote_address not in networks:
            raise Refuse(403, body="the metrics are not for your address")
        content, content_type = encode(await collect(), request.headers.get("accept", ""))
        return Response(content, content_type=content_type, headers={"Cache-Control": "no-store"})

    router.http(path, metrics, is_probe=True, authenticate=guard)
