"""Tokens in the first message of a client, their expiry, and new ones over the same connection."""

from __future__ import annotations

import time
from typing import Any

import pytest
from support.topics_peer import Open, app_of, peer_of

from pywsapp import App, Connection, InvalidCredentials, Refuse
from pywsapp.auth import Authenticated, TokenAuthenticator, public
from pywsapp.testing import TestClient, VirtualClock

pytestmark = pytest.mark.anyio
LIFETIME = 100


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Tokens(Open):
    """Takes the name of the user as a token; its end can name the seconds until it expires."""

    async def authenticate_token(self, token: str) -> Any:
        if token == "later":
            raise Refuse(503, body="the key server does not answer")
        if not token.startswith("user-"):
            raise InvalidCredentials("no such token")
        name, _, seconds = token.removeprefix("user-").partition("-")
        return Authenticated(name, time.time() + int(seconds), name) if seconds else name

    def on_call(self, conn: Connection, method: str, params: Any) -> Any:
        return conn.user


async def test_the_token_names_the_user() -> None:
    async with TestClient(app_of(Tokens())) as client, peer_of(client, connects=False) as peer:
        assert (await peer.connect(token="user-ana"))["user"] == "ana"
        assert await peer.ask("call", method="me") == {"type": "ok", "result": "ana"}
        assert (await peer.ask("subscribe", topic="room:1", presence=True, track=1))["present"] == {"ana": 1}


async def test_requests_right_behind_the_token_wait_for_it() -> None:
    async with TestClient(app_of(Tokens())) as client, peer_of(client, connects=False) as peer:
        ids = [peer.send("connect", token="user-ana"), peer.send("call", method="me")]
        assert (await peer.reply(ids[0]))["type"] == "ok"
        assert await peer.reply(ids[1]) == {"type": "ok", "result": "ana"}


@pytest.mark.parametrize(
    ("fields", "error", "code"),
    [
        ({"token": "wrong"}, "unauthenticated", 4401),
        ({}, "unauthenticated", 4401),
        ({"token": "later"}, "unavailable", 1013),
        ({"token": ""}, "invalid_message", None),
    ],
)
async def test_without_a_valid_token_the_connection_ends(fields: Any, error: str, code: int | None) -> None:
    async with TestClient(app_of(Tokens())) as client, peer_of(client, connects=False) as peer:
        assert await peer.fails("connect", **fields) == error
        if code is not None:
            found = await peer.receive()
            assert (found["type"], found["code"], found["reconnect"] is not False) == ("disconnect", code, True)
            await peer.ws.assert_closed(code)


async def test_a_user_of_the_handshake_needs_no_token() -> None:
    app = App("localhost", 8080, authenticate=lambda request: "ana")
    app.route("/live", Open())
    async with TestClient(app) as client, peer_of(client, connects=False) as peer:
        assert await peer.fails("connect", token="user-ana") == "invalid_message", "this component takes no token"
        await peer.ws.assert_closed(1008)


async def test_a_token_can_replace_the_user_of_the_handshake() -> None:
    app = App("localhost", 8080, authenticate=lambda request: request.cookies.get("user") or public(request))
    app.route("/live", Tokens())
    async with TestClient(app) as client:
        async with peer_of(client, connects=False, cookies={"user": "ana"}) as peer:
            assert (await peer.connect())["user"] == "ana"
        async with peer_of(client, connects=False, cookies={"user": "ana"}) as peer:
            assert (await peer.connect(token="user-ben"))["user"] == "ben"
        async with peer_of(client, connects=False) as peer:
            assert await peer.fails("connect") == "unauthenticated"


async def test_a_large_message_before_the_token_closes_the_connection() -> None:
    async with TestClient(app_of(Tokens())) as client, peer_of(client, connects=False) as peer:
        peer.send("publish", topic="t", data="x" * 20_000)
        await peer.ws.assert_closed(1009)
    async with TestClient(app_of(Tokens())) as client, peer_of(client, connects=False) as peer:
        await peer.connect(token="user-ana")
        assert await peer.ask("publish", topic="t", data="x" * 20_000) == {"type": "ok"}


async def test_a_token_is_replaced_before_it_expires() -> None:
    app = app_of(Tokens())
    clock = VirtualClock(modules=[__name__])
    async with TestClient(app, clock=clock) as client, peer_of(client, connects=False) as peer:
        assert (await peer.connect(token=f"user-ana-{LIFETIME}"))["expires_in"] == LIFETIME
        await client.clock.advance(LIFETIME - 32)
        await peer.ws.assert_silent()
        await client.clock.advance(4)
        found = await peer.receive()
        assert found["type"] == "expiring"
        assert 25 <= found["expires_in"] <= 30
        assert await peer.ask("refresh", token=f"user-ana-{LIFETIME}") == {"type": "ok", "expires_in": LIFETIME}
        await client.clock.advance(LIFETIME - 32)
        await peer.ws.assert_silent()
        await client.clock.advance(4)
        assert (await peer.receive())["type"] == "expiring"
        await client.clock.advance(32)
        found = await peer.receive()
        assert (found["type"], found["code"]) == ("disconnect", 4401)
        await peer.ws.assert_closed(4401)


async def test_a_new_token_must_be_that_of_the_same_user() -> None:
    async with TestClient(app_of(Tokens())) as client:
        for token in ("user-ben-50", "wrong"):
            async with peer_of(client, connects=False) as peer:
                await peer.connect(token="user-ana-50")
                assert await peer.fails("refresh", token="later") == "unavailable"
                assert await peer.fails("refresh", token=token) == "unauthenticated"
                await peer.ws.assert_closed(4401)


async def test_an_authenticator_can_check_the_token() -> None:
    class Rooms(Tokens):
        authenticate_token = TokenAuthenticator(lambda token: {"good": "ana"}.get(token))  # type: ignore[assignment]

    async with TestClient(app_of(Rooms())) as client:
        async with peer_of(client, connects=False) as peer:
            assert (await peer.connect(token="good"))["user"] == "ana"
        async with peer_of(client, connects=False) as peer:
            assert await peer.fails("connect", token="bad") == "unauthenticated"


async def test_a_client_that_does_not_connect_is_closed() -> None:
    async with TestClient(app_of(Tokens()), clock=VirtualClock()) as client, peer_of(client, connects=False) as peer:
        await client.clock.advance(8)
        await peer.ws.assert_silent()
        await client.clock.advance(4)
        await peer.ws.assert_closed(1008)


async def test_a_client_that_has_connected_stays_open() -> None:
    async with TestClient(app_of(Open()), clock=VirtualClock()) as client, peer_of(client) as peer:
        await client.clock.advance(15)
        assert (await peer.ask("subscribe", topic="t"))["type"] == "ok"


async def test_too_many_clients_without_a_token_push_out_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    component = Tokens()
    async with TestClient(app_of(component)) as client, peer_of(client, connects=False) as old:
        monkeypatch.setattr(component._waiting, "_limit", 2)
        async with peer_of(client, connects=False) as known:
            await known.connect(token="user-ana")
            async with peer_of(client, connects=False), peer_of(client, connects=False):
                await old.ws.assert_closed(1006)
                assert (await known.ask("call", method="me"))["result"] == "ana"
    assert len(component._waiting) == 0
