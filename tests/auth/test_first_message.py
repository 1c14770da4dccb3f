"""The token in the first message: limits until then, the order of the hooks, and every way to fail."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from support.serving import BINARY, TEXT, Recorder, frame
from support.wire import Peer, get, handshake, peer_of, running

from pywsapp import App, ConfigurationError, Connection, MessageComponent, Options, OriginCheck, Refuse, Request
from pywsapp.auth import Authenticated, TicketAuthenticator, TicketIssuer, TokenAuthenticator
from pywsapp.auth.first_message import FirstMessage

pytestmark = pytest.mark.anyio


def verify(token: str) -> Any:
    if token == "unavailable":
        raise Refuse(503, body="no keys")
    if token == "broken":
        raise ValueError("the store is not there")
    return {"ana": "Ana", "short": Authenticated("Ana", time.time() - 1)}.get(token)


async def verify_later(token: str) -> Any:
    await anyio.lowlevel.checkpoint()
    return verify(token)


class Chat(MessageComponent):
    """Records its calls, and greets the user."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_open(self, conn: Connection) -> None:
        self.calls.append(f"open {conn.user}")
        conn.send(f"hello {conn.user}")

    def on_message(self, conn: Connection, message: Any) -> None:
        self.calls.append(f"message {len(message)}")
        conn.send(f"{len(message)}")

    def on_close(self, conn: Connection) -> None:
        self.calls.append(f"close {conn.close_code}")

    def on_error(self, conn: Connection, exc: Exception) -> None:
        self.calls.append(f"error {exc}")
        super().on_error(conn, exc)


class AsyncChat(Chat):
    async def on_open(self, conn: Connection) -> None:  # type: ignore[override]
        await anyio.lowlevel.checkpoint()
        super().on_open(conn)


@asynccontextmanager
async def chatting(
    chat: MessageComponent, check: Any = verify, options: Options | None = None, **arguments: Any
) -> AsyncIterator[tuple[App, Peer]]:
    app = App("*", 0, options=options)
    app.route("/x", FirstMessage(chat, check, **arguments))
    async with running(app), peer_of(app) as peer:
        yield app, peer


@pytest.mark.parametrize("check", [verify, verify_later, TokenAuthenticator(verify), TokenAuthenticator(verify_later)])
@pytest.mark.parametrize("kind", [Chat, AsyncChat])
async def test_on_open_follows_the_token(kind: Any, check: Any) -> None:
    chat = kind()
    async with chatting(chat, check) as (_, peer):
        await peer.open("/x", frame(TEXT, b"ana") + frame(TEXT, b"12345"))
        assert await peer.frame() == (TEXT, b"hello Ana")
        assert await peer.frame() == (TEXT, b"5")
        await peer.send(frame(BINARY, b"\0" * 100_000))  # the small limit was until then only
        assert await peer.frame() == (TEXT, b"100000")
        await peer.send(frame(8, b"\x03\xe8"))
        await peer.read_to_end()
    assert chat.calls == ["open Ana", "message 5", "message 100000", "close 1000"]


@pytest.mark.parametrize("check", [verify, verify_later])
@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (frame(TEXT, b"wrong"), 4401),
        (frame(TEXT, b""), 4401),
        (frame(BINARY, b"ana"), 4401),
        (frame(TEXT, b"unavailable"), 1013),
        (frame(TEXT, b"broken"), 1011),
        (frame(TEXT, b"a" * 8193), 1009),
        (frame(TEXT, b"a" * 5000, fin=False) + frame(0, b"a" * 5000), 1009),
        (frame(TEXT, b"wrong") + frame(TEXT, b"ana"), 4401),
        (frame(8, b"\x03\xe8"), 1000),
    ],
)
async def test_what_is_no_token_closes_the_connection(first: bytes, expected: int, check: Any) -> None:
    chat = Chat()
    async with chatting(chat, check) as (_, peer):
        await peer.open("/x", first)
        code, reason = await peer.receive_close()
        assert code == expected
        assert "wrong" not in reason
    assert chat.calls == []


async def test_a_client_that_leaves_is_not_known_to_the_component() -> None:
    chat = Chat()
    async with chatting(chat) as (_, peer):
        await peer.open("/x")
    assert chat.calls == []


async def test_a_client_that_sends_nothing_is_closed() -> None:
    chat = Chat()
    async with chatting(chat, options=Options(message_timeout=0.08), seconds=0.05) as (_, peer):
        await peer.open("/x")
        assert await peer.receive_close() == (4401, "no credentials came in time")
    assert chat.calls == []


async def test_the_deadline_ends_with_the_token() -> None:
    chat = Chat()
    async with chatting(chat, seconds=60) as (app, peer):
        await peer.open("/x", frame(TEXT, b"ana"))
        assert await peer.frame() == (TEXT, b"hello Ana")
        server = app._runner._server
        assert server is not None
        assert len(server.runtime.expiries) == 0
        assert len(chat.calls) == 1


async def test_a_token_that_expires_at_once() -> None:
    chat = Chat()
    async with chatting(chat, options=Options(message_timeout=0.08)) as (_, peer):
        await peer.open("/x", frame(TEXT, b"short"))
        assert await peer.frame() == (TEXT, b"hello Ana")
        assert await peer.receive_close() == (4401, "the credentials have expired")
    assert chat.calls == ["open Ana", "close 4401"]


async def test_a_token_that_is_accepted_after_the_end_opens_nothing() -> None:
    begun, checked = anyio.Event(), anyio.Event()

    async def slow(token: str) -> str:
        begun.set()
        await checked.wait()
        return "Ana"

    chat = Chat()
    async with chatting(chat, slow) as (_, peer):
        await peer.open("/x", frame(TEXT, b"ana"))
        await begun.wait()
        await peer.send(frame(8, b"\x03\xe8"))
        peer.end()
        checked.set()
        await peer.read_to_end()
    assert chat.calls in ([], ["open Ana", "close 1000"])  # the close frame can come after the token


async def test_a_ticket_is_for_one_origin_in_a_message_too() -> None:
    tickets = TicketIssuer()
    for origin in "https://chat.example", "https://evil.example":
        chat = Chat()
        ticket = await tickets.issue("Ana", origin="https://chat.example")
        app = App("*", 0)
        app.route("/x", FirstMessage(chat, TicketAuthenticator(tickets)), allowed_origins=["*"])
        async with running(app), peer_of(app) as peer:
            await peer.open("/x", frame(TEXT, ticket.encode()), origin=origin)
            first = await peer.frame()
        assert first == (TEXT, b"hello Ana") or (origin == "https://evil.example" and first[0] == 8)
        assert chat.calls[:1] == (["open Ana"] if origin == "https://chat.example" else [])


async def test_errors_of_the_component_are_its_own() -> None:
    class Failing(Chat):
        def on_open(self, conn: Connection) -> None:
            raise ValueError("no room")

    chat = Failing()
    async with chatting(chat) as (_, peer):
        await peer.open("/x", frame(TEXT, b"ana"))
        assert (await peer.receive_close())[0] == 1011
    assert chat.calls == ["error no room", "close 1011"]


async def test_a_smaller_limit_of_the_options_stays() -> None:
    async with chatting(Chat(), options=Options(max_message_size=100)) as (_, peer):
        await peer.open("/x", frame(TEXT, b"a" * 101))
        assert (await peer.receive_close())[0] == 1009
    async with chatting(Chat(), options=Options(max_message_size=100)) as (_, peer):
        await peer.open("/x", frame(TEXT, b"ana"))
        assert await peer.frame() == (TEXT, b"hello Ana")
        await peer.send(frame(TEXT, b"a" * 101))
        assert (await peer.receive_close())[0] == 1009


async def test_plain_requests_are_refused_and_the_route_counts_as_guarded(caplog: pytest.LogCaptureFixture) -> None:
    class Page(MessageComponent):
        def on_request(self, request: Request) -> Any:
            raise AssertionError("no page is shown without a user")

    def never(request: Request) -> Any:
        raise AssertionError("FirstMessage is the innermost guard")

    app = App("*", 0, authenticate=never)
    app.route("/x", FirstMessage(Page(), verify))
    async with running(app):
        for request, expected in {get("/x"): 426, handshake("/x"): 101}.items():
            async with peer_of(app) as peer:
                await peer.send(request)
                assert (await peer.head())[0] == expected
    assert "have no authenticate" not in caplog.text


async def test_connections_do_not_share_their_state() -> None:
    recorder = Recorder()
    async with chatting(recorder) as (app, first):
        await first.open("/x", frame(TEXT, b"ana"))
        async with peer_of(app) as second:
            await second.open("/x", frame(TEXT, b"wrong"))
            assert (await second.receive_close())[0] == 4401
        await first.send(frame(TEXT, b"hello"))
        await first.send(frame(8, b"\x03\xe8"))
        await first.read_to_end()
    assert recorder.names() == ["open", "message", "close"]


class OwnGuard(MessageComponent):
    def authenticate(self, request: Request) -> Any:
        return "ana"


@pytest.mark.parametrize(
    ("component", "check", "options", "message"),
    [
        (OwnGuard(), verify, {}, "both have an authenticate"),
        (OriginCheck(OwnGuard), verify, {}, "both have an authenticate"),
        (MessageComponent(), "secret", {}, "must be a function"),
        (MessageComponent(), TokenAuthenticator, {}, "write TokenAuthenticator"),
        (MessageComponent(), lambda: "ana", {}, r"must take \(token\)"),
        (MessageComponent(), verify, {"seconds": 0}, "seconds must be"),
        (MessageComponent(), verify, {"max_size": 0}, "max_size must be"),
        (MessageComponent(), verify, {"max_waiting": 0}, "max_waiting must be"),
    ],
)
def test_mistakes_raise_at_once(component: Any, check: Any, options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        FirstMessage(component, check, **options)


def test_a_route_with_a_guard_of_its_own() -> None:
    with pytest.raises(ConfigurationError, match="FirstMessage and the route '/x' both have"):
        App().route("/x", FirstMessage(Chat(), verify), authenticate=lambda request: "ana")
