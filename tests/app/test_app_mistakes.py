"""Mistakes in the use of an App, and the messages that explain them."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from support.serving import TEXT, frame
from support.wire import handshake, peer_of, running

import pywsapp
from pywsapp import (
    Accept,
    App,
    ConfigurationError,
    Connection,
    EchoServer,
    IpFilter,
    MessageComponent,
    Options,
    Request,
)
from pywsapp.options import SERVER_WIDE

pytestmark = pytest.mark.anyio


class WrongMessage(MessageComponent):
    def on_message(self, conn: Connection) -> None:  # type: ignore[override]
        """Takes too little."""


@pytest.mark.parametrize(
    ("mistake", "what"),
    [
        pytest.param(
            lambda app: [app.route("/twice", EchoServer()) for _ in range(2)], "route twice: '/twice'", id="route twice"
        ),
        pytest.param(
            lambda app: [app.http("/twice", lambda request: "") for _ in range(2)],
            "route twice: '/twice'",
            id="page twice",
        ),
        pytest.param(
            lambda app: app.route("/", WrongMessage()),
            r"WrongMessage\.on_message must take \(self, conn, message\)",
            id="handler of an instance",
        ),
        pytest.param(
            lambda app: app.route("/", WrongMessage),
            r"WrongMessage\.on_message must take \(self, conn, message\)",
            id="handler of a class",
        ),
        pytest.param(lambda app: app.route("/", 7), "needs a MessageComponent", id="no component"),
        pytest.param(lambda app: app.route("/", dict), "subclass of MessageComponent", id="no component class"),
        pytest.param(
            lambda app: app.route("/", EchoServer(), "*"),
            r"allowed_origins is a list: write \['\*'\]",
            id="origins as str",
        ),
        pytest.param(
            lambda app: app.route("/", EchoServer(), ["https://a.example/"]),
            "without a slash at the end",
            id="origin with a slash",
        ),
        pytest.param(
            lambda app: app.route("/", EchoServer(), subprotocols="chat"),
            r"subprotocols is a list: write \['chat'\]",
            id="subprotocols as str",
        ),
        pytest.param(
            lambda app: app.route("/", EchoServer(), http_host="http://a"), "without scheme", id="host with a scheme"
        ),
        pytest.param(
            lambda app: app.route("/", EchoServer(), options={}), "options must be an Options", id="options as dict"
        ),
        pytest.param(
            lambda app: app.route("/", EchoServer(), options=Options(handshake_timeout=3, drain_delay=1)),
            "options of a route cannot set handshake_timeout, drain_delay, .*: set this in the options of the App",
            id="options of the server",
        ),
        pytest.param(
            lambda app: app.http("/", lambda request: "", methods="POST"),
            r"methods is a list: write \['POST'\]",
            id="methods as str",
        ),
        pytest.param(lambda app: app.http("/", lambda request: "", methods=[]), "methods is empty", id="no methods"),
        pytest.param(
            lambda app: app.http("/", lambda request: "", methods=["GET", 7]), "7 is no HTTP method", id="no method"
        ),
        pytest.param(
            lambda app: [app.http("/twice", lambda request: "", methods=["POST", name]) for name in ("GET", "PUT")],
            "route twice: '/twice'",
            id="method twice",
        ),
        pytest.param(lambda app: App("0.0.0.0"), r"write App\('chat.example', address='0.0.0.0'\)", id="bind as host"),
        pytest.param(lambda app: App("::", 80), r"not '::': .* address='::'\)", id="bind IPv6 as host"),
        pytest.param(lambda app: App("[::]"), r"not '\[::\]': .* address='::'\)", id="bind in brackets as host"),
        pytest.param(lambda app: App("0:0:0:0:0:0:0:0"), "to listen on all interfaces", id="bind long IPv6 as host"),
        pytest.param(lambda app: App(""), "to listen on all interfaces", id="nothing as host"),
        pytest.param(lambda app: App(["a.example", "0.0.0.0"]), "to listen on all interfaces", id="bind among hosts"),
        pytest.param(
            lambda app: app.route("/", EchoServer(), http_host="0.0.0.0"),
            "to listen on all interfaces",
            id="bind as host of a route",
        ),
        pytest.param(lambda app: app.configure(http_host="::"), "to listen on all interfaces", id="bind as new host"),
        pytest.param(
            lambda app: app.rebind(port=1, unix_path="/run/socket"),
            "choose one of an address and port",
            id="two places",
        ),
        pytest.param(lambda app: app.route("no-slash", EchoServer()), "slash", id="path without slash"),
        pytest.param(lambda app: app.http("/", lambda: ""), r"must take \(request\)", id="http handler"),
        pytest.param(lambda app: app.mount("/", app), "mounted on itself", id="mount on itself"),
        pytest.param(lambda app: app.static("/", "/no/such/folder"), "/no/such/folder", id="no folder"),
        pytest.param(lambda app: app.listen(port=70000), "from 0 to 65535, not 70000", id="port too high"),
        pytest.param(lambda app: app.listen(port="8080"), "from 0 to 65535, not '8080'", id="port as str"),
        pytest.param(
            lambda app: app.listen(tls=("missing.pem", "key.pem")),
            r"certificate file 'missing\.pem' does not exist",
            id="no certificate",
        ),
        pytest.param(lambda app: app.listen(tls=7), "tls must be a Tls, an SSLContext, a PEM file or", id="no tls"),
        pytest.param(lambda app: App(max_connections=0), "max_connections must be 1 or more", id="no room"),
        pytest.param(lambda app: App(http_host=()), "answer to no request", id="no host"),
        pytest.param(
            lambda app: app.run(backend="gevent"), '"asyncio" or "trio", not \'gevent\'', id="unknown backend"
        ),
        pytest.param(lambda app: app.run(backend="uvloop"), "uvloop=True", id="uvloop as backend"),
        pytest.param(lambda app: app.run(backend="trio", uvloop=True), "remove uvloop=True", id="uvloop on trio"),
    ],
)
def test_mistake_is_explained(mistake: Any, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        mistake(App("*", 0))


async def test_message_of_another_type_is_explained(caplog: pytest.LogCaptureFixture) -> None:
    class Wrong(MessageComponent):
        def on_message(self, conn: Connection, message: Any) -> None:
            conn.send({"not": "a message"})

    app = App("*", 0)
    app.route("/", Wrong())
    async with running(app), peer_of(app) as peer:
        await peer.open(trailing=frame(TEXT))
        assert (await peer.receive_close())[0] == 1011
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "str or bytes" in str(record.exc_info[1] if record.exc_info else "")


async def test_options_of_the_server_may_be_repeated_for_a_route() -> None:
    app = App(options=Options(handshake_timeout=3))
    app.route("/", EchoServer(), options=replace(app.options, max_queue=7))
    with pytest.raises(ConfigurationError, match="handshake_timeout"):
        app.route("/other", EchoServer(), options=Options(handshake_timeout=4))


class Deciding(MessageComponent):
    """Accepts with options of its own."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def on_handshake(self, request: Request) -> Accept:
        return Accept(options=self.options)


@pytest.mark.parametrize("wrapped", [False, True])
async def test_an_accept_cannot_set_options_of_the_server(wrapped: bool, caplog: pytest.LogCaptureFixture) -> None:
    wrong = Deciding(Options(handshake_timeout=4, max_queue=7))
    app = App("*", 0, options=Options(handshake_timeout=3))
    app.route("/wrong", IpFilter(wrong, deny=["192.0.2.1"]) if wrapped else wrong)
    app.route("/right", Deciding(replace(app.options, max_queue=7)))
    app.route("/default", Deciding(Options(max_queue=7)))
    async with running(app):
        for path, status in {"/wrong": 500, "/right": 101, "/default": 101}.items():
            async with peer_of(app) as peer:
                await peer.send(handshake(path))
                assert (await peer.head())[0] == status
    (record,) = [record for record in caplog.records if record.exc_info]
    text = str(record.exc_info[1] if record.exc_info else "")
    assert text.startswith("options of an Accept cannot set handshake_timeout, which the server reads")


def test_server_wide_options_are_those_that_only_the_server_reads() -> None:
    """Options that the lifecycle or the protocol reads can differ by route; the others cannot."""
    source = Path(pywsapp.__file__).parent
    by_route = "".join(
        path.read_text()
        for folder in ("_lifecycle", "_messages", "_outbox", "_protocol", "protocols/topics_v1")
        for path in [*(source / folder).glob("*.py"), source / "connection.py"]
    )
    server = (source / "_server" / "http_connection.py").read_text()
    names = {field.name for field in fields(Options)}
    read_by_route = set(re.findall(r"options\.(\w+)", by_route)) | set(re.findall(r"[^.]options\.(\w+)", server))
    read_by_both = {"drain_timeout"}  # also the time for a connection that has reached its age
    assert names - read_by_route | read_by_both == set(SERVER_WIDE)
