"""The responses of a router: what a handler of plain HTTP returned, and redirects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from pywsapp.http import Request, Response
from pywsapp.routing.route import label_of

#: A def or async def that takes a request and returns a Response, str, bytes, dict, list or None.
HttpHandler = Callable[[Request], Any]


def with_slash(request: Request) -> Response:
    """Return a redirect to the same path with a slash at the end, so that relative links of the page work.

    The Location is relative (RFC 9110, section 10.2.2): a mount can have cut the path, and a path that begins with two
    slashes would name another host.
    """
    location = quote(request.path.rpartition("/")[2], safe="", errors="replace") + "/"
    query = f"?{request.query_string}" if request.query_string else ""
    return Response(status=308, headers={"Location": location + query, "Cache-Control": "no-cache"})


def as_response(handler: HttpHandler, value: Any) -> Response:
    """Return the Response for what a handler of plain HTTP returned.

    Raises:
        TypeError: the handler returned something else.
    """
    if isinstance(value, Response):
        return value
    if isinstance(value, (str, bytes)):
        return Response(value)
    if isinstance(value, (dict, list)):
        return Response.json(value)
    if value is None:
        return Response(status=204)
    raise TypeError(f"{label_of(handler)} must return a Response, str, bytes, dict, list or None, not {value!r}")
