"""No secret is in any record of any logger, at no level: each way that a secret can come has a canary of its own."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from support.outages import until
from support.receiver import Receiver
from support.records import Records, recording, texts_of
from support.services import free_port, redis_server
from support.serving import close_frame, frame
from support.wire import get, handshake, peer_of, running

from pywsapp import (
    Accept,
    App,
    ConfigurationError,
    Connection,
    HandshakeError,
    InvalidCredentials,
    MessageComponent,
    Refuse,
    Request,
    Response,
    TopicComponent,
    WebhookOptions,
    connect,
    reconnecting,
)
from pywsapp.auth import (
    BearerHeader,
    BearerSubprotocol,
    QueryToken,
    SignedUrls,
    TicketAuthenticator,
    TicketIssuer,
    TokenAuthenticator,
    first_of,
    public,
)
from pywsapp.auth.first_message import FirstMessage
from pywsapp.auth.jwks import Jwks, SharedSecret
from pywsapp.auth.jwt import JwtAuthenticator

pytestmark = [pytest.mark.anyio, pytest.mark.once]

CANARY = re.compile(r"Canary[A-Za-z]+0123456789")
CLOSED_PORT = 1


def canary(name: str) -> str:
    """Return a secret that names the way it came."""
    return f"Canary{name}0123456789"


@pytest.fixture
def records() -> Iterator[Records]:
    with recording() as found:
        yield found


def leaks(records: Records) -> set[str]:
    return set(CANARY.findall(records.text))


def jwt_of(**claims: Any) -> str:
    """Return a token with a wrong signature, whose three parts contain canaries."""
    parts = [{"alg": "HS256", "typ": "JWT"}, claims]
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, canary("JwtSignature")])


async def answer_to(app: App, request: bytes) -> int:
    async with peer_of(app) as peer:
        await peer.send(request)
        return (await peer.head())[0]


class Rooms(TopicComponent):
    def authenticate_token(self, token: str) -> Any:
        raise InvalidCredentials


class Room(MessageComponent):
    def on_open(self, conn: Connection) -> None:
        conn.subscribe("room")


class Faulty(MessageComponent):
    """Fails in each hook, without a secret in its own texts."""

    def on_handshake(self, request: Request) -> Any:
        if request.path == "/choice":
            return Accept(subprotocol="other")
        if request.path == "/fields":
            raise Refuse(403, [("Set-Cookie", f"session={canary('RefusedCookie')}\n")])
        if request.path == "/fails":
            raise RuntimeError
        return None

    def on_message(self, conn: Connection, message: Any) -> None:
        raise RuntimeError

    def on_close(self, conn: Connection) -> None:
        raise RuntimeError

    def on_request(self, request: Request) -> Any:
        if request.path == "/cookie":
            return Response("page", headers=[("Set-Cookie", f"session={canary('SetCookie')}\n")])
        if request.path == "/wrong":
            return None
        raise RuntimeError


def app_with_guards() -> App:
    def knows(token: str) -> str | None:
        return "ana" if "Right" in token else None

    guard = first_of(
        TokenAuthenticator(knows, BearerHeader(), BearerSubprotocol(), QueryToken()),
        SignedUrls(canary("SigningKey") * 2),
    )
    app = App("*", 0, access_log=True, authenticate=guard)
    for path in ("/open", "/choice", "/fields", "/fails", "/cookie", "/wrong"):
        app.route(path, Faulty())
    jwt = JwtAuthenticator({"issuer": SharedSecret(canary("JwtKey") * 2)}, BearerHeader(), QueryToken(), audience="a")
    app.route("/jwt", Faulty(), authenticate=jwt)
    app.route("/first", FirstMessage(MessageComponent(), TokenAuthenticator(knows)))
    app.route("/live", Rooms(), authenticate=public)
    app.publish_endpoint("/publish", canary("PublishKey") * 2)
    return app


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_requests(records: Records) -> None:
    statuses = set()
    async with running(app_with_guards()) as app:
        for path in ("/open", "/choice", "/fields", "/fails", "/cookie", "/wrong", "/nothing", "/jwt"):
            for right in ("Right", "Wrong"):
                for make in (handshake, get):
                    token = canary(f"{right}Query")
                    for query in (f"token={token}", f"ticket={token}&signature={token}&expires=9", f"%FF{token}"):
                        statuses.add(await answer_to(app, make(f"{path}?{query}")))
                fields: dict[str, str] = {
                    "authorization": f"Bearer {canary(f'{right}Bearer')}",
                    "cookie": f"session={canary(f'{right}Cookie')}",
                    "sec_websocket_protocol": f"bearer.{canary(f'{right}Subprotocol')}, chat",
                }
                for name, value in fields.items():
                    statuses.add(await answer_to(app, handshake(path, **{name: value})))
                    statuses.add(await answer_to(app, handshake(path, origin="http://evil.example", **{name: value})))
                    statuses.add(await answer_to(app, handshake(path, connection="x", **{name: value})))
        token = jwt_of(iss="issuer", sub=canary("JwtClaim"))
        for text in (token, f"{canary('JwtText')}.x.y", token + ".x"):
            statuses.add(await answer_to(app, handshake("/jwt", authorization=f"Bearer {text}")))
            statuses.add(await answer_to(app, handshake(f"/jwt?token={text}")))
        publishing = get("/publish", "POST")[:-2] + b"X-Signature: " + canary("Signature").encode()
        statuses.add(await answer_to(app, publishing + b"\r\nContent-Length: 2\r\n\r\n{}"))
    assert {101, 400, 401, 403, 404, 500} <= statuses
    assert {"access.request", "access.connection", "connection.opened", "request.failed"} <= events_of(records)
    assert leaks(records) == set()


def events_of(records: Records) -> set[str]:
    return set(re.findall(r'"event": "([^"]+)"', records.text))


async def test_messages_with_tokens(records: Records) -> None:
    async def say(path: str, *frames: bytes) -> None:
        async with peer_of(app) as peer:
            await peer.open(path)
            await peer.send(b"".join([*frames, close_frame()]))
            await peer.read_to_end()

    secret = canary("Message")
    async with running(app_with_guards()) as app:
        await say("/first", frame(1, secret.encode()))
        await say("/first", frame(2, secret.encode()))
        for message in (
            {"type": "connect", "token": secret},
            {"type": "connect", "id": secret, "token": [secret]},
            {"connect": {"token": secret}, "id": 1},
        ):
            await say("/live", frame(1, json.dumps(message).encode()), frame(1, secret.encode() + b"{"))
        await say("/open?token=" + canary("RightQuery"), frame(1, secret.encode()))
    assert {"auth.refused", "handler.failed"} <= events_of(records)
    assert leaks(records) == set()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_stores_that_fail(records: Records) -> None:
    url = f"redis://user:{canary('StorePassword')}@127.0.0.1:{CLOSED_PORT}"
    app = App("*", 0, session_store=url)
    app.http("/session", lambda request: str(request.session))
    app.route("/ticket", Faulty(), authenticate=TicketAuthenticator(TicketIssuer(url)))
    keys = Jwks.from_url(f"http://localhost:{CLOSED_PORT}/keys?token={canary('KeySet')}")
    app.route("/jwt", Faulty(), authenticate=JwtAuthenticator({"issuer": keys}, audience="a"))
    session = canary("SessionId").ljust(43, "x")
    async with running(app):
        statuses = [
            await answer_to(app, get("/session")[:-2] + f"Cookie: session={session}\r\n\r\n".encode()),
            await answer_to(app, handshake(f"/ticket?ticket={canary('Ticket')}")),
            await answer_to(app, handshake("/jwt", authorization=f"Bearer {jwt_of(iss='issuer', sub='ana')}")),
        ]
    assert statuses[0] == 503
    assert {"session.store_unavailable"} <= events_of(records)
    assert leaks(records) == set()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("scheme", ["redis", "rediss", "amqp", "nats"])
async def test_brokers_that_cannot_be_reached(scheme: str, records: Records) -> None:
    app = App(
        "*",
        0,
        broker=f"{scheme}://user:{canary('BrokerPassword')}@127.0.0.1:{free_port()}",
        broker_key=canary("BrokerKey"),
    )
    app.route("/live", Rooms())
    async with running(app):
        await until(lambda: "broker.unavailable" in events_of(records))
    assert leaks(records) == set()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_broker_that_refuses_the_password(records: Records) -> None:
    with redis_server() as server:
        assert server.ask("CONFIG", "SET", "requirepass", "another") == "+OK"
        url = server.url.replace("redis://", f"redis://:{canary('BrokerPassword')}@")
        app = App("*", 0, broker=url)
        app.route("/live", Rooms())
        async with running(app):
            await until(lambda: "broker.unavailable" in events_of(records))
    assert leaks(records) == set()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_webhooks_that_fail(records: Records) -> None:
    secret = "whsec_" + base64.b64encode(canary("WebhookSecret").encode()).decode()
    app = App("*", 0)
    app.route("/room", Room())
    quick = WebhookOptions(base=0.01, cap=0.01, max_attempts=3, flush_seconds=0.1)
    with Receiver() as receiver:
        receiver.answers += [(500, {}), (404, {"X-Secret": canary("Answer")})]
        for url in (receiver.url, f"http://127.0.0.1:{CLOSED_PORT}/hooks"):
            app.webhook(f"{url}?token={canary('WebhookQuery')}", secret=secret, options=quick)
        async with running(app), peer_of(app) as peer:
            await peer.open("/room")
            await until(lambda: {"webhook.retried", "webhook.events_dropped"} <= events_of(records))
    assert secret not in records.text
    assert leaks(records) == set()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_clients(records: Records) -> None:
    query, headers = f"?token={canary('ClientQuery')}", {"Authorization": f"Bearer {canary('ClientHeader')}"}
    proxy = f"http://user:{canary('ProxyPassword')}@127.0.0.1:{CLOSED_PORT}"
    found: list[BaseException] = []
    async with running(app_with_guards()) as app:
        urls = [f"ws://127.0.0.1:{port}/open{query}" for port in (CLOSED_PORT, app.port)]
        for url in urls:
            for arguments in ({}, {"proxy": proxy}, {"subprotocols": [f"bearer.{canary('ClientSubprotocol')}"]}):
                with pytest.raises((OSError, HandshakeError)) as caught:
                    async with connect(url, headers=headers, **arguments):
                        pass
                found.append(caught.value)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anext, reconnecting(urls[0], headers=headers))
            await until(lambda: "client.not_connected" in events_of(records))
            tasks.cancel_scope.cancel()
    assert leaks(records) == set()
    assert CANARY.findall("".join(text for exc in found for text in texts_of(exc))) == []


PASSWORD = canary("Password")
WRONG: dict[str, Callable[[], object]] = {
    "broker port": lambda: App(broker=f"redis://user:{PASSWORD}@host:port"),
    "broker scheme": lambda: App(broker=f"kafka://user:{PASSWORD}@host"),
    "broker option": lambda: App(broker=f"redis://user:{PASSWORD}@host?no_option=1"),
    "no scheme": lambda: App(broker=f"user:{PASSWORD}@host"),
    "amqp": lambda: App(broker=f"amqp://user:{PASSWORD}@host:port"),
    "nats": lambda: App(broker=f"nats://user:{PASSWORD}@host:port"),
    "store": lambda: App(session_store=f"redis://user:{PASSWORD}@host:port"),
    "store scheme": lambda: App(session_store=f"sql://user:{PASSWORD}@host"),
    "tickets": lambda: TicketIssuer(f"redis://user:{PASSWORD}@host:port"),
    "tickets scheme": lambda: TicketIssuer(f"sql://user:{PASSWORD}@host"),
    "key set": lambda: Jwks.from_url(f"http://user:{PASSWORD}@host/keys"),
    "key set port": lambda: Jwks.from_url(f"https://user:{PASSWORD}@host:port/keys"),
    "webhook": lambda: App().webhook(f"http://user:{PASSWORD}@host/hooks", secret="whsec_x"),
    "webhook secret": lambda: App().webhook("https://host/hooks", secret=f"whsec_{PASSWORD}!"),
    "proxy": lambda: connect("ws://localhost", proxy=f"http://user:{PASSWORD}@host:port"),
    "proxy scheme": lambda: connect("ws://localhost", proxy=f"ftp://user:{PASSWORD}@host"),
    "header": lambda: connect("ws://localhost", headers={"Authorization": f"Bearer {PASSWORD}\n"}),
}


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG)
def test_exceptions_of_wrong_arguments(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()
    shown = [
        caught.value,
        caught.value.__cause__,
        None if caught.value.__suppress_context__ else caught.value.__context__,
    ]
    assert PASSWORD not in "".join(f"{each!r} {each}" for each in shown)
