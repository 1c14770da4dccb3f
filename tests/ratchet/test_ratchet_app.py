"""Ratchet's App: the facade, its arguments and its defaults.

These tests prove the rest of Ratchet's App:

    App [src]  tests/middleware/test_origin.py  test_without_a_list_the_origin_must_be_the_same
    App [src]  tests/middleware/test_origin.py  test_an_entry_allows
    App [src]  tests/routing/test_router.py  test_a_wrong_host_is_explained_once_in_the_log_and_not_to_the_client
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
    """App 1: Ratchet refuses a wrong loop as 4th argument; here `run(backend=...)` chooses the event loop."""
    with pytest.raises(TypeError):
        App("localhost", 8080, "127.0.0.1", object())  # type: ignore[arg-type, call-arg]
    with pytest.raises(ConfigurationError, match='"asyncio" or "trio"'):
        App("localhost", 8080, "127.0.0.1").run(backend="react")


def test_app_src_the_arguments_and_their_defaults() -> None:
    """App [src]: the arguments are http host "localhost", port 8080 and address 127.0.0.1, in this order."""
    parameters = list(inspect.signature(App).parameters.values())[:3]
    assert [(parameter.name, parameter.default) for parameter in parameters] == [
        ("http_host", "localhost"),
        ("port", 8080),
        ("address", "127.0.0.1"),
    ]


def test_app_src_the_arguments_of_route() -> None:
    """App [src]: the arguments of route are path, component, allowed origins and http host, in this order."""
    parameters = list(inspect.signature(App.route).parameters)
    assert parameters[1:5] == ["path", "component", "allowed_origins", "http_host"]


def test_app_src_route_returns_the_component_as_it_is() -> None:
    """App [src]: Ratchet returns the component with its middleware; here `route` returns what it gets."""
    app, echo = App(), EchoServer()
    assert app.route("/echo", echo) is echo
    assert app.route("/class", EchoServer) is EchoServer

    @app.route("/decorated")
    class Decorated(EchoServer):
        pass

    assert issubclass(Decorated, EchoServer)


def test_app_src_an_invalid_component_is_refused_at_once() -> None:
    """App [src]: in Ratchet an invalid component fails at the first request; here `route` refuses it."""
    app = App()
    for wrong in (object(), "EchoServer", 5, dict):
        with pytest.raises(ConfigurationError):
            app.route("/wrong", wrong)  # type: ignore[call-overload]
    assert app.router.routes() == []


@pytest.mark.parametrize("component", [EchoServer(), OriginCheck(EchoServer()), IpBlackList(EchoServer())])
async def test_app_src_every_connection_is_pinged(component: Any) -> None:
    """App [src]: Ratchet pings only if App made the WsServer; here every component has pings."""
    app = App(port=0, options=Options(ping_interval=0.05))
    app.route("/", component)
    async with serving(app), opened(app) as peer:
        assert isinstance(await peer.receive(), Ping)


async def test_app_src_origins() -> None:
    """App [src]: without a list the origin must be the http host; ["*"] allows every origin.

    Here scheme and port are compared too, and "*" can be anywhere in the list. Ratchet answers a missing Origin with
    403; here it is allowed by default, because only browsers send one, and only they need the check.
    """
    app = App(port=0)
    app.route("/own", EchoServer())
    app.route("/any", EchoServer(), ["*"])
    app.route("/some", EchoServer(), ["https://a.example", "*"])
    app.route("/required", EchoServer(), ["*"], require_origin=True)
    async with serving(app):
        host = f"localhost:{app.port}"
        own, foreign = f"Origin: http://{host}", "Origin: http://evil.example"
        for path, fields, status in [
            ("/own", [own], 101),
            ("/own", [foreign], 403),
            ("/own", ["Origin: http://localhost"], 403),
            ("/own", [], 101),
            ("/any", [foreign], 101),
            ("/some", [foreign], 101),
            ("/required", [], 403),
        ]:
            async with connected(app) as peer:
                assert (await peer.handshake(path, *fields, host=host)).status == status, (path, fields)


async def test_app_src_hosts() -> None:
    """App [src]: Host must be the http host, in any case and with any port; here an IP address is accepted too."""
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
                assert (await peer.handshake(path, host=host)).status == status, (path, host)


def test_app_src_any_host_is_a_star() -> None:
    """App [src]: in Ratchet '' means any host; here "*" does, and '' is an error."""
    App("*")
    with pytest.raises(ConfigurationError):
        App("")


async def test_app_src_only_get() -> None:
    """App [src]: every route accepts GET only; another method is answered with 405 and the allowed methods."""
    app = App(port=0)
    app.route("/", EchoServer())
    async with serving(app), connected(app) as peer:
        answer = await peer.handshake(method="PUT")
        assert (answer.status, answer.fields["allow"]) == (405, "GET")


async def test_app_src_two_apps_on_one_machine() -> None:
    """App [src]: in Ratchet a second App fails at the port of the Flash policy; here an App opens only its own port."""
    first, second = App(port=0), App(port=0)
    for app in (first, second):
        app.route("/", Recorder())
    async with serving(first, second), opened(first), opened(second):
        assert first.port != second.port
