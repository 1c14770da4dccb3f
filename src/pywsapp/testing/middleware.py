"""The rules for every middleware, as checks that run against a component around a component.

    async def test_my_middleware():
        await check_middleware(lambda component: MyMiddleware(component, limit=10))

With pytest, each check can be a test of its own:

    @pytest.mark.parametrize("check", MIDDLEWARE_CHECKS.values(), ids=MIDDLEWARE_CHECKS)
    async def test_my_middleware(check):
        await check(lambda component: MyMiddleware(component, limit=10))

The checks send a few short text messages. The middleware must let these clients and messages through, or the checks of
what comes after it cannot run: configure it for them. It may change messages.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel

from pywsapp.app import App
from pywsapp.component import Accept, MessageComponent
from pywsapp.connection import Connection
from pywsapp.exceptions import ConnectionClosed, InvalidCredentials, NotAuthorized, Refuse
from pywsapp.http import Request, Response
from pywsapp.testing.checks import recorder, run_checks
from pywsapp.testing.client import TestClient
from pywsapp.testing.idle import until_idle
from pywsapp.topics.topic import Topic

MakeMiddleware = Callable[[MessageComponent], MessageComponent]
Check = Callable[[MakeMiddleware], Awaitable[None]]

_PATIENCE = 5.0
#: Every check by its name, in the order of `check_middleware`.
MIDDLEWARE_CHECKS: dict[str, Check] = {}
_check = recorder(MIDDLEWARE_CHECKS)


async def check_middleware(make: MakeMiddleware) -> None:
    """Run all checks against a middleware. This takes about a tenth of a second.

    Args:
        make: returns the middleware around the component that it gets.

    Raises:
        AssertionError: the middleware breaks a rule, or raises something. The text begins with the rule.
    """
    await run_checks(MIDDLEWARE_CHECKS, make, "the middleware")


class _Inside(MessageComponent):
    """The component inside, which records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []  # the hook, and the id of the connection
        self.errors: list[Exception] = []

    def on_open(self, conn: Connection) -> Any:
        self.calls.append(("on_open", conn.id))

    def on_message(self, conn: Connection, message: Any) -> Any:
        self.calls.append(("on_message", conn.id))
        conn.send("answer")

    def on_close(self, conn: Connection) -> Any:
        self.calls.append(("on_close", conn.id))

    def on_error(self, conn: Connection, exc: Exception) -> Any:
        self.errors.append(exc)

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


@asynccontextmanager
async def _client(make: MakeMiddleware, inside: MessageComponent) -> AsyncIterator[TestClient]:
    app = App()
    app.route("/", make(inside))
    async with TestClient(app, timeout=_PATIENCE) as client:
        yield client


@_check
async def the_hooks_of_the_component_inside_are_called_once_and_in_order(make: MakeMiddleware) -> None:
    inside = _Inside()
    async with _client(make, inside) as client:
        async with client.connect("/") as ws:
            for _ in range(3):
                ws.send("hello")
                await ws.receive()
        assert inside.names() == ["on_open", *["on_message"] * 3, "on_close"], f"the calls were {inside.names()}"
        assert len({conn for _, conn in inside.calls}) == 1, "the component inside saw several connections"


@_check
async def on_close_is_called_once_after_a_lost_connection(make: MakeMiddleware) -> None:
    inside = _Inside()
    async with _client(make, inside) as client:
        async with client.connect("/") as ws:
            ws.reset()
        assert inside.names() == ["on_open", "on_close"], f"the calls were {inside.names()}"


@_check
async def on_close_is_called_once_after_a_drain(make: MakeMiddleware) -> None:
    inside = _Inside()
    async with _client(make, inside) as client, client.connect("/") as ws:
        client.app.stop()
        await ws.assert_closed(1012)
        await until_idle()
        assert inside.names() == ["on_open", "on_close"], f"the calls were {inside.names()}"


@_check
async def connections_are_separate(make: MakeMiddleware) -> None:
    inside = _Inside()
    async with _client(make, inside) as client, client.connect("/") as one, client.connect("/") as other:
        other.send("hello")
        await other.receive()
        await one.assert_silent()
        await one.close()
        other.send("hello")
        await other.receive()
        ids = [conn for name, conn in inside.calls if name == "on_message"]
        assert len(ids) == 2, f"two messages became {len(ids)}"
        assert len(set(ids)) == 1, "the messages of one client came from two connections"


@_check
async def a_refusal_of_the_component_inside_passes(make: MakeMiddleware) -> None:
    class Refusing(_Inside):
        def on_handshake(self, request: Request) -> None:
            raise Refuse(418, [("X-Reason", "tea")], "a teapot")

    inside = Refusing()
    async with _client(make, inside) as client:
        response = await client.assert_refused("/", 418)
        assert response.headers.get("x-reason") == "tea", "the header fields of the refusal are missing"
        assert inside.calls == [], "a hook was called for a refused handshake"


@_check
async def the_guard_of_the_component_inside_is_called(make: MakeMiddleware) -> None:
    class Guarded(_Inside):
        def authenticate(self, request: Request) -> str:
            if request.query_params.get("token") != "right":
                raise InvalidCredentials("a wrong token")
            return "ana"

        def on_open(self, conn: Connection) -> None:
            conn.send(f"user {conn.user}")

        def on_message(self, conn: Connection, message: Any) -> None: ...

    async with _client(make, Guarded()) as client:
        await client.assert_refused("/", 401)
        async with client.connect("/?token=right"):
            pass


@_check
async def what_the_component_inside_accepts_with_passes(make: MakeMiddleware) -> None:
    class Accepting(_Inside):
        subprotocols = ("b", "a")

        def on_handshake(self, request: Request) -> Accept:
            request.state.known = True
            return Accept(headers=(("X-Accepted", "yes"),))

        def on_open(self, conn: Connection) -> None:
            assert conn.state.known, "request.state was not passed on"

    async with _client(make, Accepting()) as client, client.connect("/", subprotocols=["a", "b"]) as ws:
        assert ws.subprotocol == "b", f"the subprotocol is {ws.subprotocol!r}, not that of the component inside"
        assert ws.headers.get("x-accepted") == "yes", "the header fields of the Accept are missing"


@_check
async def an_async_handshake_is_awaited(make: MakeMiddleware) -> None:
    class Slow(_Inside):
        async def on_handshake(self, request: Request) -> None:
            await anyio.lowlevel.checkpoint()
            if "refuse" in request.query_params:
                raise Refuse(403)

    async with _client(make, Slow()) as client:
        await client.assert_refused("/?refuse=1", 403)
        async with client.connect("/") as ws:
            ws.send("hello")
            await ws.receive()


@_check
async def async_handlers_are_awaited_one_after_the_other(make: MakeMiddleware) -> None:
    class Slow(_Inside):
        running = 0
        handled = 0

        async def on_message(self, conn: Connection, message: Any) -> None:
            self.running += 1
            assert self.running == 1, "two messages of a connection were handled at once"
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
            self.running -= 1
            self.handled += 1
            conn.send("answer")

        async def on_close(self, conn: Connection) -> None:
            await anyio.lowlevel.checkpoint()
            self.calls.append(("on_close", conn.id))

    inside = Slow()
    async with _client(make, inside) as client:
        async with client.connect("/") as ws:
            for _ in range(3):
                ws.send("hello")
            for _ in range(3):
                await ws.receive()
        assert inside.handled == 3, f"{inside.handled} of 3 handlers have ended"
        assert inside.names()[-1:] == ["on_close"], "the async on_close was not awaited"


@_check
async def exceptions_reach_on_error_of_the_component_inside(make: MakeMiddleware) -> None:
    class Failing(_Inside):
        def on_message(self, conn: Connection, message: Any) -> Any:
            raise ValueError("in the component inside")

    inside = Failing()
    async with _client(make, inside) as client, client.connect("/") as ws:
        ws.send("hello")
        await client._settle()
        found = [type(exc).__name__ for exc in inside.errors]
        assert found == ["ValueError"], f"on_error of the component inside got {found}"
        assert ws.is_open, "the connection was closed, although on_error had handled the exception"


@_check
async def hooks_about_topics_decide(make: MakeMiddleware) -> None:
    class Topics(_Inside):
        def authorize(self, conn: Connection, action: str, topic: str) -> bool:
            return topic != "secret"

        def on_subscribe(self, conn: Connection, topic: Topic) -> None:
            self.calls.append((f"on_subscribe {topic.name}", conn.id))

        def on_unsubscribe(self, conn: Connection, topic: Topic) -> None:
            self.calls.append((f"on_unsubscribe {topic.name}", conn.id))

        async def on_open(self, conn: Connection) -> None:
            await conn.subscribe("open")
            try:
                await conn.subscribe("secret")
            except NotAuthorized:
                self.calls.append(("refused", conn.id))

        def on_close(self, conn: Connection) -> None: ...

    inside = Topics()
    async with _client(make, inside) as client:
        async with client.connect("/"):
            await client._settle()
        expected = ["on_subscribe open", "refused", "on_unsubscribe open"]
        assert inside.names() == expected, f"the calls were {inside.names()}"


@_check
async def a_plain_request_reaches_the_component_inside(make: MakeMiddleware) -> None:
    class Page(_Inside):
        def on_request(self, request: Request) -> Response:
            if "refuse" in request.query_params:
                raise Refuse(418)
            return Response("page")

    async with _client(make, Page()) as client:
        response = await client.get("/")
        assert (response.status, response.text) == (200, "page"), f"the answer is {response!r}"
        assert (await client.get("/?refuse=1")).status == 418, "a refusal of the component inside did not pass"


@_check
async def a_close_of_the_component_inside_passes(make: MakeMiddleware) -> None:
    class Closing(_Inside):
        def on_open(self, conn: Connection) -> None:
            conn.close(4000, "at once")

    async with _client(make, Closing()) as client, client.connect("/") as ws:
        try:
            while True:
                await ws.receive()
        except ConnectionClosed:
            await ws.assert_closed(4000, "at once")
