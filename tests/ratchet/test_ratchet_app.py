"""Ratchet's App: the facade, its arguments and its defaults.

The rest of Ratchet's App is proven elsewhere:

    App [src]  tests/middleware/test_origin.py  test_without_a_list_the_origin_must_be_the_same
    App [src]  tests/middleware/test_origin.py  test_an_entry_allows
    App [src]  tests/routing/test_router.py  test_a_wrong_host_is_explained_to_the_client_and_once_in_the_log
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from support.ratchet_peer import Recorder, connected, opened, serving
from wsproto.events import Ping

from pywsapp import App, ConfigurationError, EchoServer, IpBlackList, Options, OriginCheck

pytestmark = pytest.mark.anyio


def test_app_1_there_is_no_loop_to_pass() -> None:
    """App 1: a wrong 4th argument is refused; ours takes no loop there, as `run(backend=...)` chooses it."""
    with pytest.raises(TypeError):
        App("localhost", 8080, "127.0.0.1", object())  # type: ignore[arg-type, call-arg]
    with pytest.raises(ConfigurationError, match='"asyncio" or "trio"'):
        App("localhost", 8080, "127.0.0.1").run(backend="react")


def test_app_src_the_arguments_and_their_defaults() -> None:
    """App [src]: http host "localhost", port 8080, address 127.0.0.1, in this order."""
    parameters = list(inspect.signature(App).parameters.values())[:3]
    assert [(parameter.name, parameter.default) for parameter in parameters] == [
        ("http_host", "localhost"),
        ("port", 8080),
        ("address", "127.0.0.1"),
    ]


def test_app_src_the_arguments_of_route() -> None:
    """App [src]: path, component, allowed origins, http host, in this order."""
    parameters = list(inspect.signature(App.route).parameters)
    assert parameters[1:5] == ["path", "component", "allowed_origins", "http_host"]


def test_app_src_route_returns_the_component_as_it_is() -> None:
    """App [src]: Ratchet returns what it made of the component; ours the component, so that `route` decorates too."""
    app, echo = App(), EchoServer()
    assert app.route("/echo", echo) is echo
    assert app.route("/class", EchoServer) is EchoServer

    @app.route("/decorated")
    class Decorated(EchoServer):
        pass

    assert issubclass(Decorated, EchoServer)


def test_app_src_what_is_no_component_is_refused_at_once() -> None:
    """App [src]: anything may be routed there and fails at the first request; ours says so when it is routed."""
    app = App()
    for wrong in (object(), "EchoServer", 5, dict):
        with pytest.raises(ConfigurationError):
            app.route("/wrong", wrong)  # type: ignore[call-overload]
    assert app.router.routes() == []


@pytest.mark.parametrize("component", [EchoServer(), OriginCheck(EchoServer()), IpBlackList(EchoServer())])
async def test_app_src_every_connection_is_pinged(component: Any) -> None:
    """App [src]: keepalive only where App itself made the WsServer; ours for every component, wrapped or not."""
    app = App(port=0, options=Options(ping_interval=0.05))
    app.route("/", component)
    async with serving(app), opened(app) as peer:
        assert isinstance(await peer.hear(), Ping)


async def test_app_src_origins() -> None:
    """App [src]: no list is the host itself, ["*"] any; ours compares scheme and port too, and "*" may stand anywhere.

    Ratchet answers a missing Origin with 403; ours lets it pass, for only browsers send one, and only they need it.
    """
    app = App(port=0)
    app.route("/own", EchoServer())
    app.route("/any", EchoServer(), ["*"])
    app.route("/some", EchoServer(), ["https://a.example", "*"])
    app.route("/required", EchoServer(), ["*"], require_origin=True)
    async with serving(app):
        host = f"localhost:{app.port}"
        own, stranger = f"Origin: http://{host}", "Origin: http://evil.example"
        for path, fields, status in [
            ("/own", [own], 101),
            ("/own", [stranger], 403),
            ("/own", ["Origin: http://localhost"], 403),
            ("/own", [], 101),
            ("/any", [stranger], 101),
            ("/some", [stranger], 101),
            ("/required", [], 403),
        ]:
            async with connected(app) as peer:
                assert (await peer.shake(path, *fields, host=host)).status == status, (path, fields)


async def test_app_src_hosts() -> None:
    """App [src]: the Host field must name the http host, in any case, with any port; ours takes IP addresses too."""
    app = App(port=0)
    app.route("/", EchoServer())
    app.route("/other", EchoServer(), http_host="other.example")
    app.route("/any", EchoServer(), http_host="*")
    async with serving(app):
        for path, host, status in [
            ("/", "LOCALHOST:1234", 101),
            ("/", "evil.example", 404),
            ("/", "127.0.0.1:8080", 101),
            ("/other", "other.example", 101),
            ("/other", "localhost", 404),
            ("/other", "127.0.0.1", 404),
            ("/any", "anything.example", 101),
        ]:
            async with connected(app) as peer:
                assert (await peer.shake(path, host=host)).status == status, (path, host)


def test_app_src_any_host_is_a_star() -> None:
    """App [src]: '' is any host there; ours is "*", and '' a mistake."""
    App("*")
    with pytest.raises(ConfigurationError):
        App("")


async def test_app_src_only_get() -> None:
    """App [src]: every route takes GET only; another method is answered with 405 and what is allowed."""
    app = App(port=0)
    app.route("/", EchoServer())
    async with serving(app), connected(app) as peer:
        answer = await peer.shake(method="PUT")
        assert (answer.status, answer.fields["allow"]) == (405, "GET")


async def test_app_src_two_apps_on_one_machine() -> None:
    """App [src]: the port of the Flash policy makes a second App fail there; ours opens no port but its own."""
    first, second = App(port=0), App(port=0)
    for app in (first, second):
        app.route("/", Recorder())
    async with serving(first, second), opened(first), opened(second):
        assert first.port != second.port
