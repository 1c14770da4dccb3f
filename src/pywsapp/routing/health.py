"""Health checks: whether a server runs, whether clients may be sent to it, and whether it can accept more.

    path                  200                                     503
    --------------------  --------------------------------------  ------------------------------------------
    /health               as /health/ready
    /health/live          the event loop runs                     never
    /health/ready         start-up is done                        it starts or stops, or has lost its broker
    /health/capacity      there is room for another connection    max_connections are open

Readiness and capacity differ: a load balancer must not take a server out of service because one worker is full.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from pywsapp.auth.identity import public
from pywsapp.http import Request, Response

if TYPE_CHECKING:
    from pywsapp.routing.router import Router

_FRESH = {"Cache-Control": "no-store"}
OK = "ok"
STARTING = "starting"
STOPPING = "stopping"
NO_BROKER = "broker not connected"
FULL = "full"


class Health(NamedTuple):
    """The health of a process, or of all workers together.

    Attributes:
        status: `"ok"`, or why clients should not be sent here.
        connections: the connections that count against `max_connections`.
        max_connections: how many there can be.
        details: further numbers for the health port.
        is_shared: whether the two numbers of a worker are those of all workers together.
    """

    status: str
    connections: int = 0
    max_connections: int = 0
    details: dict[str, Any] = {}  # noqa: RUF012 - a field, never changed
    is_shared: bool = False

    @property
    def capacity(self) -> str:
        """`"ok"`, or `"full"` if there is no room for another connection."""
        return OK if self.connections < self.max_connections else FULL


def add_health_checks(router: Router, path: str, health: Callable[[], Health], *, has_numbers: bool = False) -> None:
    """Route the health checks of the table above, for every host; they are answered also above `max_connections`.

    Args:
        router: gets the routes.
        path: the path of the readiness check; the others are below it.
        health: returns the health at the moment; must not block.
        has_numbers: whether the answers contain numbers, which are not for a public port.

    Raises:
        ConfigurationError: the path is not valid, or a route exists.
    """

    def answer(status: str, state: Health) -> Response:
        numbers = {"connections": state.connections, "max_connections": state.max_connections, **state.details}
        content = {"status": status, **(numbers if has_numbers else {})}
        return Response.json(content, 200 if status == OK else 503, _FRESH)

    def live(request: Request) -> Response:
        return answer(OK, health())

    def ready(request: Request) -> Response:
        state = health()
        return answer(state.status, state)

    def capacity(request: Request) -> Response:
        state = health()
        return answer(state.capacity, state)

    below = path.rstrip("/")
    for at, handler in (
        (path, ready),
        (f"{below}/live", live),
        (f"{below}/ready", ready),
        (f"{below}/capacity", capacity),
    ):
        router.http(at, handler, http_host="*", is_probe=True, authenticate=public)
