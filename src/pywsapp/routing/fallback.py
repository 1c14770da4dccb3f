"""The fallback of routes for networks that block WebSockets: the POST requests, and pages of other origins.

The server handles the GET request for the event stream as a handshake (`pywsapp._server.streams`), so all guards and
middleware decide about it. A POST request is a plain request to the same component, with its guard and its middleware
in front. In place of `on_request` of the component, `receive_batch` answers it.

Origins. `OriginCheck` checks both requests as it checks handshakes. It notes the fields of CORS for a page of another
origin that the route allows, and the server adds them to whatever answers the request, also to its own refusals. The
page gets an answer to the preflight request of its browser too. A request that is refused before it reaches the check,
because the server drains for instance, has no such fields, because the allowed origins are not known.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pywsapp._limits.over_limit import OverLimit
from pywsapp._protocol.fallback import STREAM_FIELD
from pywsapp._request_state import access_of, make_access
from pywsapp.auth.user_keys import key_of_user
from pywsapp.exceptions import ConfigurationError, Refuse
from pywsapp.http import Request, Response
from pywsapp.options import Options
from pywsapp.routing.route import Route
from pywsapp.topics.fallback.batch import InvalidBatch, read_batch
from pywsapp.topics.fallback.service import Outcome

#: Bytes of a body beside the messages: JSON doubles the quotes and backslashes of a message.
_SPARE_BYTES = 64 * 1024
_AGAIN = (("Retry-After", "1"),)
_REFUSALS = {
    Outcome.GONE: Refuse(404, body="there is no such stream"),
    Outcome.FULL: OverLimit(429, _AGAIN, "earlier messages wait; send the batch again"),
    Outcome.MISSING: Refuse(409, body="the batch before this one is missing"),
    Outcome.UNKNOWN: Refuse(504, _AGAIN, "no process with the stream has answered; send the batch again"),
    Outcome.BUSY: Refuse(503, _AGAIN, "too many batches wait; send the batch again"),
    Outcome.TOO_LARGE: Refuse(413, body="the batch is larger than a message of the broker"),
}


def is_for_stream(request: Request) -> bool:
    """Return whether a plain request is a POST request to a stream, or the preflight request before one."""
    if request.method == "POST":
        return STREAM_FIELD.lower() in request.headers
    return request.method == "OPTIONS" and "access-control-request-method" in request.headers


def check_has_fallback(component: Any, label: str) -> None:
    """Check that a route can have a fallback.

    Raises:
        ConfigurationError: its component is no `TopicComponent`.
    """
    while hasattr(component, "component"):
        component = component.component
    if not getattr(component, "_has_protocol", False):
        raise ConfigurationError(f"{label}: fallback=True is for a TopicComponent, whose clients can fall back")


def note_fallback(request: Request, route: Route) -> None:
    """Note that the route of a request has a fallback, and the name of the route for the fallback.

    It is the same for all requests of one connection, and on all servers: the hosts of the route and of the mounts
    around it, and the path of the request.
    """
    path = (request._origin or request).path
    make_access(request).fallback_route = f"{request._mount_hosts}{route.hosts.text}; {path}"


def takes_request(route: Route, request: Request, server_options: Options) -> bool:
    """Return whether a route has a fallback that answers a plain request; note how.

    Args:
        route: the route of the request.
        request: the request.
        server_options: the options of the server, for a route without options of its own.
    """
    if not route.has_fallback or not is_for_stream(request):
        return False
    note_fallback(request, route)
    max_size = 2 * (route.options or server_options).max_message_size + _SPARE_BYTES
    make_access(request).answer = _batch_receiver(max_size) if request.method == "POST" else _refuse_preflight
    return True


def _batch_receiver(max_size: int) -> Callable[[Request], Awaitable[Response]]:
    """Return a function that hands the batch of a POST request to its connection.

    Args:
        max_size: bytes of a body.
    """

    async def receive_batch(request: Request) -> Response:
        app, streams, access = request.app, request.headers.getlist(STREAM_FIELD), access_of(request)
        if app is None or len(streams) != 1 or access is None or access.fallback_route is None:
            raise Refuse(400, body=f"a batch needs one field {STREAM_FIELD}, and an App")
        body = await request.read(max_size)
        try:
            batch = read_batch(body)
        except InvalidBatch as exc:
            raise Refuse(400, body=str(exc)) from None
        outcome = await app.topics.fallback.deliver(streams[0], access.fallback_route, key_of_user(request), batch)
        if outcome is not Outcome.ACCEPTED:
            found = _REFUSALS[outcome]
            raise type(found)(found.status, found.headers, found.body)
        return Response(status=204)

    return receive_batch


def _refuse_preflight(request: Request) -> Response:
    raise Refuse(405, {"Allow": "GET, HEAD, POST"}, "pages of other origins need a route of App.route")


def preflight(request: Request) -> Response:
    """Return the answer to the preflight request of a browser."""
    fields = [
        ("Access-Control-Allow-Methods", "GET, POST"),
        ("Access-Control-Allow-Headers", f"Content-Type, {STREAM_FIELD}"),
        ("Access-Control-Max-Age", "600"),
    ]
    return Response(status=204, headers=fields)
