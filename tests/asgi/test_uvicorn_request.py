"""The request of an App on uvicorn with the protocol of pywsapp: parsed once, unless a middleware has changed it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from support.asgi_servers import chat, exchange, site_server

from pywsapp import App, Connection, HandshakeError, MessageComponent, Options
from pywsapp._protocol.http import parse_request
from pywsapp.asgi.exchange import Exchange
from pywsapp.asgi.uvicorn import Protocol

BACKENDS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
]
pytestmark = [pytest.mark.anyio, pytest.mark.once, pytest.mark.parametrize("anyio_backend", BACKENDS)]
Change = Callable[[Any], None]


class Told(MessageComponent):
    """Sends what its request has."""

    def on_message(self, conn: Connection, message: str | bytes) -> None:
        request = conn.request
        conn.send(f"{request.path} {request.query_string} {request.remote_address} {request.headers.get('x-user')}")


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The heads that an App has parsed itself."""
    found: list[bytes] = []

    def note(head: bytes, **arguments: Any) -> Any:
        found.append(head)
        return parse_request(head, **arguments)

    monkeypatch.setattr("pywsapp.asgi.scope.parse_request", note)
    return found


def make_app(**options: Any) -> App:
    app = App(options=Options(**options))
    app.route("/{rest:path}", Told())
    return app


def behind(app: App, change: Change) -> Any:
    """Return a site with a middleware that changes the scopes of handshakes."""

    async def site(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            change(scope)
        await app(scope, receive, send)

    return site


def replace_fields(scope: Any) -> None:
    scope["headers"] = [*scope["headers"], (b"x-user", b"ben")]


def append_field(scope: Any) -> None:
    scope["headers"].append((b"x-user", b"ben"))


def change_path(scope: Any) -> None:
    scope.update(path="/other", raw_path=b"/other")


def change_query(scope: Any) -> None:
    scope["query_string"] = b"b=2"


def mount(scope: Any) -> None:
    scope["root_path"] = "/a"


def change_client(scope: Any) -> None:
    scope["client"] = ("192.0.2.7", 5)


@pytest.mark.parametrize(
    ("change", "seen", "is_parsed"),
    [
        (lambda scope: None, "/a/b q=1 127.0.0.1 None", False),
        (change_client, "/a/b q=1 192.0.2.7 None", False),
        (mount, "/b q=1 127.0.0.1 None", False),
        (replace_fields, "/a/b q=1 127.0.0.1 ben", True),
        (append_field, "/a/b q=1 127.0.0.1 ben", True),
        (change_path, "/other q=1 127.0.0.1 None", True),
        (change_query, "/a/b b=2 127.0.0.1 None", True),
    ],
    ids=["nothing", "client", "mount", "other fields", "one field more", "path", "query"],
)
async def test_the_app_sees_what_the_middleware_has_changed(
    change: Change, seen: str, is_parsed: bool, parsed: list[bytes]
) -> None:
    async with site_server(behind(make_app(), change), ws=Protocol) as server, chat(server.port, "/a/b?q=1") as conn:
        assert await exchange(conn, "") == seen
    assert bool(parsed) is is_parsed


async def test_the_proxy_names_the_client(parsed: list[bytes]) -> None:
    headers = {"X-Forwarded-For": "192.0.2.9"}
    async with site_server(make_app(), ws=Protocol) as server, chat(server.port, "/", headers=headers) as conn:
        assert await exchange(conn, "") == "/  192.0.2.9 None"
    assert parsed == []


@pytest.mark.parametrize("options", [{"max_headers": 3}, {"max_header_size": 100}])
async def test_the_limits_of_the_app_hold(options: dict[str, Any]) -> None:
    async with site_server(make_app(**options), ws=Protocol) as server:
        with pytest.raises(HandshakeError) as caught:
            async with chat(server.port, "/"):
                pass
    assert caught.value.status == 431


async def test_a_request_is_taken_once() -> None:
    taken: list[Any] = []

    async def site(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            takeover = scope["extensions"]["pywsapp.transport"]["takeover"]
            taken.extend([takeover.take_request(scope), takeover.take_request(scope)])
            await app(scope, receive, send)

    app = make_app()
    async with site_server(site, ws=Protocol) as server, app.lifespan(), chat(server.port, "/a") as conn:
        assert await exchange(conn, "") == "/a  127.0.0.1 None"
    assert (taken[0].path, taken[1]) == ("/a", None)


async def test_an_application_that_accepts_before_it_receives_gets_the_events_in_order() -> None:
    received: list[Any] = []
    has_message = anyio.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            await has_message.wait()
            received.extend([await receive(), await receive(), await receive()])

    async with site_server(application, ws=Protocol) as server, chat(server.port, "/") as conn:
        await conn.send("hello")
        await conn.ping()
        has_message.set()
    assert [event["type"] for event in received] == [
        "websocket.connect",
        "websocket.receive",
        "websocket.disconnect",
    ]


async def test_what_a_handshake_needs_is_freed() -> None:
    async with site_server(make_app(), ws=Protocol) as server, chat(server.port, "/") as conn:
        await exchange(conn, "")
        protocol = await server.connection()
        gc.collect()
        assert (protocol._request, protocol._fields, protocol._scope) == (None, (), {})
        assert [one for one in gc.get_objects() if type(one) is Exchange] == []
