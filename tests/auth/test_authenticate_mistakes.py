"""Mistakes around `authenticate` are found when a component is routed, or when the App starts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from support.wire import running

from pywsapp import App, ComponentMiddleware, ConfigurationError, MessageComponent, OriginCheck, Request, StaticFolder
from pywsapp.auth import Authenticated, public
from pywsapp.component import handler


def guard(request: Request) -> Any:
    return "ana"


def guard_in_a_generator(request: Request) -> Any:
    yield "ana"


async def guard_in_an_async_generator(request: Request) -> Any:
    yield "ana"


class Guard:
    def __init__(self, secret: str) -> None: ...
    def __call__(self, request: Request) -> Any: ...


class OwnGuard(MessageComponent):
    def authenticate(self, request: Request) -> Any:
        return "ana"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("secret", "must be a function, not 'secret'"),
        (lambda: "ana", r"must take \(request\)"),
        (Guard, r"not the class Guard: write Guard\(\.\.\.\)"),
        (guard_in_a_generator, "has a yield"),
        (guard_in_an_async_generator, "has a yield"),
    ],
)
def test_what_cannot_be_a_guard(wrong: Any, message: str) -> None:
    app = App()
    with pytest.raises(ConfigurationError, match=message):
        App(authenticate=wrong)
    with pytest.raises(ConfigurationError, match=message):
        app.route("/x", MessageComponent(), authenticate=wrong)
    with pytest.raises(ConfigurationError, match=message):
        app.http("/x", lambda request: "", authenticate=wrong)
    with pytest.raises(ConfigurationError, match=message):
        app.mount("/x", App(), authenticate=wrong)


class WithoutRequest(MessageComponent):
    def authenticate(self) -> Any:
        return "ana"


class WithClass(MessageComponent):
    authenticate = Guard


class WithYield(MessageComponent):
    def authenticate(self, request: Request) -> Any:
        yield "ana"


class WithText(MessageComponent):
    authenticate: Any = "secret"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (WithoutRequest, r"WithoutRequest.authenticate must take \(self, request\)"),
        (WithClass, r"WithClass.authenticate must be a method or an object, not a class: write Guard\(\.\.\.\)"),
        (WithYield, "WithYield.authenticate has a yield"),
        (WithText, "WithText.authenticate must be a method"),
    ],
)
def test_a_method_that_cannot_be_a_guard(kind: Any, message: str) -> None:
    for component in kind, kind():
        with pytest.raises(ConfigurationError, match=message):
            App().route("/x", component)


@pytest.mark.parametrize(
    "name",
    [
        "autenticate",
        "authentificate",
        "authentcate",
        "authenticated",
        "on_authenticate",
        "onAuthenticate",
        "on_authentication",
        "Authenticate",
    ],
)
def test_a_misspelt_method_is_found(name: str) -> None:
    kind = type("Chat", (MessageComponent,), {name: lambda self, request: None})
    with pytest.raises(ConfigurationError, match="did you mean authenticate"):
        App().route("/x", kind())


@pytest.mark.parametrize("name", ["authenticate_user", "author", "add", "authors", "authentication", "accept_token"])
def test_methods_with_other_names_are_allowed(name: str) -> None:
    assert_is_routed(type("Chat", (MessageComponent,), {name: lambda self, request: None})())


def test_a_marked_method_is_allowed() -> None:
    assert_is_routed(type("Chat", (MessageComponent,), {"authenticated": handler(lambda self, request: None)})())


def assert_is_routed(component: MessageComponent) -> None:
    app = App()
    assert app.route("/x", component) is component
    assert [route.path for route in app.router.routes()] == ["/x"]


@pytest.mark.parametrize(
    "component", [OwnGuard, OwnGuard(), OriginCheck(OwnGuard()), ComponentMiddleware(OriginCheck(OwnGuard))]
)
def test_a_route_and_its_component_cannot_both_have_a_guard(component: Any) -> None:
    with pytest.raises(ConfigurationError, match="OwnGuard and the route '/x' both have an authenticate"):
        App().route("/x", component, authenticate=guard)


@pytest.mark.parametrize("expires_at", [float("nan"), "1767225600", True, b"1"])
def test_an_expiry_that_is_no_time(expires_at: Any) -> None:
    """One nan in the heap of expiries would change the order of all others."""
    with pytest.raises(ConfigurationError, match="expires_at must be seconds"):
        Authenticated("ana", expires_at)
    for valid in (0, 10**400, float("inf"), None):
        assert Authenticated("ana", valid).expires_at == valid


# -- open routes -----------------------------------------------------------------------------------------------------


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [f"{record.levelname} {record.getMessage()}" for record in caplog.records if "routes" in record.getMessage()]


@pytest.mark.anyio
async def test_open_routes_beside_guarded_ones_are_listed(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.INFO, "pywsapp")
    inner = App("*")
    inner.route("/a", MessageComponent())
    inner.route("/b", MessageComponent(), authenticate=public)
    app = App("*", 0)
    app.route("/own", OwnGuard())
    app.route("/route", MessageComponent(), authenticate=guard)
    app.route("/open", MessageComponent())
    app.http("/page", guard)
    app.http("/login", guard, methods=["POST"], authenticate=public)
    app.mount("/in", inner)
    app.mount("/guarded", inner, authenticate=guard)
    app.mount("", OriginCheck(StaticFolder(tmp_path)))
    app.health()
    async with running(app):
        pass
    assert lines(caplog) == [
        "WARNING other routes need a user, but these have no authenticate: /open (MessageComponent), "
        "GET HEAD /page (guard), /in/a (MessageComponent), / (StaticFolder); write authenticate=public if they need "
        "none",
        "INFO these routes need no user (authenticate=public): POST /login (guard), /guarded/b (MessageComponent), "
        "/in/b (MessageComponent)",
    ]


@pytest.mark.anyio
async def test_nothing_is_listed_without_a_guard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pywsapp")
    app = App("*", 0)
    app.route("/open", MessageComponent())
    app.health()
    async with running(app):
        pass
    assert lines(caplog) == []


def test_many_open_routes_make_one_short_line(caplog: pytest.LogCaptureFixture) -> None:
    from pywsapp.routing.guards import log_guards

    app = App()
    app.route("/own", OwnGuard())
    for number in range(25):
        app.route(f"/{number}", MessageComponent())
    log_guards(app.router)
    assert len(caplog.messages) == 1
    assert "and 5 more;" in caplog.text


# -- pages of every site ---------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_routes_for_pages_of_every_site_are_listed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pywsapp")
    inner = App("*")
    inner.route("/a", MessageComponent(), allowed_origins=["*"])
    inner.route("/b", MessageComponent(), allowed_origins=["https://a.example"])
    app = App("*", 0)
    app.route("/public", MessageComponent(), allowed_origins=["*"])
    app.route("/closed", MessageComponent(), authenticate=guard)
    app.route("/guarded", MessageComponent(), allowed_origins=["*"], authenticate=guard)
    app.route("/own", OwnGuard(), allowed_origins=["https://a.example", "null"])
    app.route("/session", MessageComponent(), allowed_origins=["*"], sessions="memory")
    app.route("/open", MessageComponent(), allowed_origins=["*"], authenticate=public)
    app.route("/both", OriginCheck(MessageComponent(), ["https://a.example"]), allowed_origins=["*"])
    app.mount("/in", inner, authenticate=guard)
    app.mount("/checked", OriginCheck(inner))
    async with running(app):
        pass
    assert [line for line in caplog.messages if "any site" in line] == [
        "a page of any site can connect with the cookies of your users to: /guarded (MessageComponent), "
        "/own (OwnGuard), /session (MessageComponent), /in/a (MessageComponent); list your pages in allowed_origins in "
        "place of '*' or 'null'",
        "pages of any site can connect (allowed_origins has '*' or 'null'): /open (MessageComponent), "
        "/public (MessageComponent)",
    ]
