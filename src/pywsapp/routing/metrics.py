"""The endpoint for metrics: its guard, and its answer."""

from __future__ import annotations

import gzip
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import anyio.to_thread

from pywsapp._access import Authenticate
from pywsapp.auth.identity import public
from pywsapp.http import Request, Response
from pywsapp.routing.address_guard import AddressGuard
from pywsapp.routing.router import Router

#: The guard of the metrics: an authenticator, or IP addresses and networks.
MetricsGuard = Authenticate | Iterable[str]
#: Returns the text of numbers for the Accept field of a request, and its content type.
Encode = Callable[[Any, str], tuple[bytes, str]]

_GZIP = re.compile(r"(?:^|,)\s*gzip\s*(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))(?:[;,]|$)", re.IGNORECASE)
_LEVEL = 6  # of 9, which takes five times as long for a twentieth of the bytes


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
    addresses: AddressGuard | None = None
    if guard is not None and not callable(guard):
        addresses, guard = AddressGuard(guard, "the metrics are"), public

    async def metrics(request: Request) -> Response:
        if addresses is not None:
            addresses.check(request)
        stats, accept = await collect(), request.headers.get("accept", "")
        is_compressed = any(map(_GZIP.search, request.headers.getlist("accept-encoding")))

        def content_and_type() -> tuple[bytes, str]:
            content, content_type = encode(stats, accept)
            return gzip.compress(content, _LEVEL) if is_compressed else content, content_type

        # In a thread, because the text of hundreds of routes takes a tenth of a second.
        content, content_type = await anyio.to_thread.run_sync(content_and_type)
        headers = {"Cache-Control": "no-store", **({"Content-Encoding": "gzip"} if is_compressed else {})}
        return Response(content, content_type=content_type, headers=headers)

    router.http(path, metrics, is_probe=True, authenticate=guard)
