"""`pywsapp check` and `pywsapp routes`: the routes with what lies around them, and warnings about unsafe settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from pywsapp.cli import main

pytestmark = pytest.mark.once
Module = Callable[[str], str]

HEAD = """
import math, ssl
from pywsapp import *
from pywsapp.auth import public

class Chat(MessageComponent):
    subprotocols = ("chat.v1",)

def user(request):
    return "ada"

"""

SHOP = f"""{HEAD}
app = App("shop.example")
app.route("/chat/{{room}}", RateLimit(Chat, messages_per_second=5), ["https://shop.example"], authenticate=user)
app.route("/open", EchoServer(), authenticate=public, options=Options(max_message_size=100))
app.http("/page", lambda request: "page", methods=["GET", "POST"])
app.events("/news", "news", authenticate=public)
app.static("/files", ".")
app.health()
inner = App(authenticate=user)
inner.route("/", Chat())
app.mount("/inner", inner, http_host="inner.example")
"""


def routes(source: str, module: Module, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    assert main(["routes", module(source), "--json"]) == 0
    return {route["path"]: route for route in json.loads(capsys.readouterr().out)}


def test_routes_have_whole_paths_guards_and_limits(module: Module, capsys: pytest.CaptureFixture[str]) -> None:
    found = routes(SHOP, module, capsys)
    assert list(found) == [
        "/chat/{room}",
        "/files/...",
        "/health",
        "/health/capacity",
        "/health/live",
        "/health/ready",
        "/inner",
        "/news",
        "/open",
        "/page",
    ]
    chat = found["/chat/{room}"]
    assert (chat["kind"], chat["component"], chat["authenticate"], chat["needs_user"]) == (
        "websocket",
        "Chat",
        "user",
        True,
    )
    assert (chat["origins"], chat["rate_limit"], chat["subprotocols"]) == (
        [["https://shop.example"]],
        True,
        ["chat.v1"],
    )
    assert (found["/open"]["authenticate"], found["/open"]["needs_user"]) == ("public", False)
    assert found["/open"]["limits"]["max_message_size"] == 100
    assert (found["/inner"]["authenticate"], found["/inner"]["host"]) == ("user", "inner.example")
    assert (found["/page"]["methods"], found["/page"]["host"]) == (["GET", "HEAD", "POST"], "shop.example")
    assert (found["/news"]["kind"], found["/news"]["origins"]) == ("events", [["same origin"]])
    assert found["/files/..."]["kind"] == "files"
    assert found["/health"]["host"] == "*"


def test_routes_are_a_table(module: Module, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["routes", module(SHOP)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["KIND", "PATH", "HOST"]
    assert lines[1].split()[:3] == ["websocket", "/chat/{room}", "shop.example"]
    assert "user" in lines[1]
    assert "https://shop.example" in lines[1]


def test_an_app_without_routes(module: Module, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["routes", module("from pywsapp import App; app = App()")]) == 0
    assert capsys.readouterr().out == "no routes\n"


def check(
    source: str, arguments: list[str], module: Module, capsys: pytest.CaptureFixture[str]
) -> list[tuple[str, str, str]]:
    assert main(["check", module(HEAD + source), "--json", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)["findings"]
    assert all(finding["fix"] for finding in found)
    return [(finding["level"], finding["name"], finding["text"]) for finding in found]


SAFE = """
app = App("shop.example", authenticate=user)
app.route("/", Chat(), ["https://shop.example"])
app.health()
"""


def test_a_safe_app_has_no_warning(module: Module, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(SAFE, [], module, capsys) == []


ROUTE = "app.route('/', Chat(), authenticate=user)\n"
CONTEXT = "context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n"
UNSAFE = {
    "a route without authenticate": (
        "app = App()\n" + ROUTE + "app.route('/b', Chat())",
        [],
        "no-authenticate",
        "/b (Chat)",
    ),
    "a folder without authenticate": (
        "app = App()\n" + ROUTE + "app.static('/f', '.')",
        [],
        "no-authenticate",
        "/f/...",
    ),
    "every origin": ("app = App()\napp.route('/', Chat(), ['*'], authenticate=user)", [], "open-origins", "/ (Chat)"),
    "every origin with a session": (
        "app = App(session_store='memory')\napp.route('/', Chat(), ['null'], authenticate=public)",
        [],
        "open-origins",
        "/ (Chat)",
    ),
    "a component without an origin check": (
        "app = App(authenticate=user)\napp.mount('/m', Chat())",
        [],
        "no-origin-check",
        "/m/... (Chat)",
    ),
    "any host": ("app = App('*')\n" + ROUTE, [], "any-host", "/ (Chat)"),
    "any host by an option": ("app = App()\n" + ROUTE, ["--http-host", "*"], "any-host", "/ (Chat)"),
    "no TLS": ("app = App('a.example', address='0.0.0.0')\n" + ROUTE, [], "no-tls", "listens on 0.0.0.0 without TLS"),
    "an old version of TLS": (
        CONTEXT + "context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED\napp = App(tls=context)\n" + ROUTE,
        [],
        "old-tls",
        "minimum_version is MINIMUM_SUPPORTED",
    ),
    "trusted proxies": (
        "app = App(trusted_proxies=['10.0.0.0/8', '::/0'])\n" + ROUTE,
        [],
        "wide-proxies",
        "trusted_proxies has ::/0",
    ),
    "PROXY headers of everyone": ("app = App(proxy_protocol=True)\n" + ROUTE, [], "any-proxy", "proxy_protocol is on"),
    "a broker without a key": ("app = App()\n" + ROUTE, ["--broker", "redis://a"], "no-broker-key", "not signed"),
    "sessions of one process": (
        "app = App(session_store='memory')\n" + ROUTE,
        ["--workers", "2"],
        "sessions-in-memory",
        "belongs to one process",
    ),
    "a large message": (
        "app = App(options=Options(max_message_size=1 << 30))\n" + ROUTE,
        [],
        "no-limit",
        "Options of the App: max_message_size is 1,073,741,824 bytes",
    ),
    "an option of a route": (
        "app = App()\napp.route('/', Chat(), authenticate=user, options=Options(message_timeout=math.inf))",
        [],
        "no-limit",
        "Options of / (Chat): message_timeout is infinite",
    ),
    "no pings": ("app = App(options=Options(ping_interval=None))\n" + ROUTE, [], "no-limit", "ping_interval is None"),
}


@pytest.mark.parametrize(("source", "arguments", "name", "text"), UNSAFE.values(), ids=UNSAFE.keys())
def test_an_unsafe_setting_is_one_warning(
    source: str, arguments: list[str], name: str, text: str, module: Module, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [finding for finding in check(source, arguments, module, capsys) if finding[0] == "warning"]
    if name == "old-tls":  # such a context permits renegotiation too, on some versions of OpenSSL
        found = [finding for finding in found if finding[1] != "tls-renegotiation"]
    assert [finding[1] for finding in found] == [name]
    assert text in found[0][2]


def test_what_is_often_intended_is_a_note(module: Module, capsys: pytest.CaptureFixture[str]) -> None:
    source = "app = App('a.example', address='0.0.0.0', trusted_proxies=['10.0.0.1'])\napp.route('/', Chat(), ['*'])"
    found = check(source, [], module, capsys)
    assert {level for level, _, _ in found} == {"note"}
    assert {name for _, name, _ in found} == {
        "everyone-connects",
        "open-origins",
        "no-limit-of-addresses",
        "no-rate-limit",
    }


def test_the_debug_mode_of_asyncio(
    module: Module, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    assert [name for _, name, _ in check(SAFE, [], module, capsys)] == ["debug"]


def test_a_key_in_the_environment(
    module: Module, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYWSAPP_BROKER_KEY", "a secret of some length")
    assert check(SAFE, ["--broker", "redis://a"], module, capsys) == []


def test_the_report_and_its_exit_status(module: Module, capsys: pytest.CaptureFixture[str]) -> None:
    name = module(f"{HEAD}app = App('*')\n{ROUTE}")
    assert main(["check", name]) == 0
    written = capsys.readouterr().out
    assert "websocket" in written
    assert "limits: max_connections -, " in written
    assert "\nwarning any-host: " in written
    assert written.endswith("1 warning, 0 notes\n")
    assert main(["check", name, "--fail-on-warning"]) == 1
    assert main(["check", module(HEAD + SAFE), "--fail-on-warning"]) == 0


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import no_such_library", "ModuleNotFoundError"),
        ("from pywsapp import App; app = App('localhost', 70000)", "pywsapp: port must be an int"),
        ("app = 1", "is no App, but int"),
    ],
)
def test_an_app_that_cannot_be_loaded(
    source: str, what: str, module: Module, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", module(source)]) == 2
    assert what in capsys.readouterr().err


def test_control_characters_of_names_are_escaped(module: Module, capsys: pytest.CaptureFixture[str]) -> None:
    source = f"{HEAD}Chat.__module__ = 'a\\x1b[2J'\napp = App()\napp.route('/', Chat())\n"
    assert main(["routes", module(source)]) == 0
    written = capsys.readouterr().out
    assert "\x1b" not in written
    assert r"a\x1b[2J" in written
