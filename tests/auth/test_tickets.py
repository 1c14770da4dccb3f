"""One-time tickets in memory and in a real Redis: single use, expiry, origins, outages."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.services import Redis, redis_server
from support.wire import handshake, peer_of, running

from pywsapp import App, ConfigurationError, Connection, InvalidCredentials, MessageComponent, Refuse, Request
from pywsapp.auth import (
    Authenticated,
    MemoryTicketStore,
    QueryToken,
    TicketAuthenticator,
    TicketIssuer,
    TicketStore,
)
from pywsapp.auth.redis_tickets import RedisTicketStore

pytestmark = pytest.mark.anyio

ORIGIN = "https://chat.example"
OTHER = "https://evil.example"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> str:
    return "memory" if request.param == "memory" else request.getfixturevalue("redis").url


@asynccontextmanager
async def issuing(store: str | TicketStore, **options: Any) -> AsyncIterator[TicketIssuer]:
    issuer = TicketIssuer(store, **options)
    try:
        yield issuer
    finally:
        await issuer.aclose()


def page(*origins: str, **arguments: Any) -> Request:
    return Request(headers=[("Origin", origin) for origin in origins], **arguments)


async def test_a_ticket_names_its_user_once(store: str) -> None:
    async with issuing(store) as issuer:
        ticket = await issuer.issue({"name": "Ana Bär"}, origin=ORIGIN)
        assert len(ticket) == 32
        found = await issuer.redeem(ticket, page(ORIGIN))
        assert found == Authenticated({"name": "Ana Bär"})
        for _ in range(2):
            with pytest.raises(InvalidCredentials, match="used already") as caught:
                await issuer.redeem(ticket, page(ORIGIN))
            assert ticket not in str(caught.value)
        assert ticket != await issuer.issue("ana", origin=ORIGIN)


@pytest.mark.parametrize("ticket", ["", "x", "\ud800", "x" * 100_000], ids=["empty", "short", "surrogate", "long"])
async def test_any_text_is_refused_as_a_ticket(ticket: str, store: str, caplog: pytest.LogCaptureFixture) -> None:
    async with issuing(store) as issuer:
        with pytest.raises(InvalidCredentials, match="not valid"):
            await issuer.redeem(ticket, page(ORIGIN))
    assert caplog.messages == []


async def test_of_many_attempts_at_the_same_time_one_succeeds(store: str) -> None:
    async with issuing(store) as one, issuing(store) as two:
        other = one if store == "memory" else two
        ticket = await one.issue("ana", origin=None)
        results: list[str] = []

        async def redeem(issuer: TicketIssuer) -> None:
            try:
                results.append((await issuer.redeem(ticket, Request())).user)
            except InvalidCredentials:
                results.append("refused")

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(redeem, one if number % 2 else other)
        assert sorted(results) == ["ana"] + ["refused"] * 19


@pytest.mark.parametrize("origins", [(), (OTHER,), ("null",), (ORIGIN, ORIGIN), (ORIGIN, OTHER), (ORIGIN + ":443",)])
async def test_a_ticket_of_another_origin_is_refused_and_used_up(origins: tuple[str, ...], store: str) -> None:
    async with issuing(store) as issuer:
        ticket = await issuer.issue("ana", origin=ORIGIN)
        with pytest.raises(InvalidCredentials, match="another origin"):
            await issuer.redeem(ticket, page(*origins))
        with pytest.raises(InvalidCredentials, match="used already"):
            await issuer.redeem(ticket, page(ORIGIN))


async def test_a_ticket_without_an_origin_is_for_every_client(store: str) -> None:
    async with issuing(store) as issuer:
        for origins in (), (OTHER,):
            ticket = await issuer.issue("ana", origin=None)
            assert (await issuer.redeem(ticket, page(*origins))).user == "ana"


async def test_the_user_of_a_request_gets_a_ticket_for_its_page(store: str) -> None:
    async with issuing(store) as issuer:
        request = page(ORIGIN, user="ana")
        request._state._pywsapp_access.expires_at = 4e9  # type: ignore[union-attr]
        request._state._pywsapp_access.subject = "1"  # type: ignore[union-attr]
        found = await issuer.redeem(await issuer.issue_for(request), page(ORIGIN))
        assert found == Authenticated("ana", 4e9, "1")
        for origins in (), ("null",), (ORIGIN, ORIGIN):
            with pytest.raises(Refuse, match="400"):
                await issuer.issue_for(page(*origins, user="ana"))
        with pytest.raises(InvalidCredentials):
            await issuer.issue_for(page(ORIGIN))


async def test_a_ticket_in_memory_expires() -> None:
    clock = Clock()
    store = MemoryTicketStore(clock=clock)
    issuer = TicketIssuer(store, seconds=30)
    ticket, late = [await issuer.issue("ana", origin=None) for _ in range(2)]
    clock.now += 29.9
    assert (await issuer.redeem(ticket, Request())).user == "ana"
    clock.now += 0.1
    with pytest.raises(InvalidCredentials):
        await issuer.redeem(late, Request())


async def test_tickets_in_memory_are_bounded_and_expired_ones_are_freed(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    store = MemoryTicketStore(3, clock)
    issuer = TicketIssuer(store, seconds=30)
    for _ in range(3):
        await issuer.issue("ana", origin=None)
    for _ in range(2):
        with pytest.raises(Refuse, match="503"):
            await issuer.issue("ana", origin=None)
    assert [record.getMessage() for record in caplog.records] == [
        "the ticket store in memory failed: OverflowError there are 3 tickets"
    ]
    clock.now += 30
    await issuer.issue("ana", origin=None)
    assert len(store) == 1


async def test_redis_keeps_hashes_for_a_time(redis: Redis) -> None:
    redis.ask("FLUSHALL")
    async with issuing(RedisTicketStore(redis.url, prefix="t:"), seconds=100) as issuer:
        ticket = await issuer.issue("ana", origin=None)
        (key,) = [line for line in redis.ask("KEYS", "*").split("\r\n") if line.startswith("t:")]
        assert ticket not in key
        assert 50_000 < int(redis.ask("PTTL", key).strip(":\r\n")) <= 100_000
        assert ticket not in redis.ask("GET", key)
        await issuer.redeem(ticket, Request())
        assert "t:" not in redis.ask("KEYS", "*")


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"], indirect=False)
async def test_while_redis_is_away_nothing_is_accepted(anyio_backend: str, caplog: pytest.LogCaptureFixture) -> None:
    with redis_server() as server:
        async with issuing(server.url) as issuer:
            ticket = await issuer.issue("ana", origin=None)
            server.kill()
            for _ in range(3):
                with pytest.raises(Refuse, match="503") as caught:
                    await issuer.redeem(ticket, Request())
                assert dict(caught.value.headers) == {"Retry-After": "5"}
            with pytest.raises(Refuse, match="503"):
                await issuer.issue("ana", origin=None)
            assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1
            assert ticket not in caplog.text
            server.start()
            ticket = await issuer.issue("ana", origin=None)
            assert (await issuer.redeem(ticket, Request())).user == "ana"


# -- on a server -----------------------------------------------------------------------------------------------------


class Greeting(MessageComponent):
    def on_open(self, conn: Connection) -> None:
        conn.send(f"{conn.user} {conn.subprotocol} {conn.request.query_string}")


async def test_a_page_gets_a_ticket_and_opens_a_connection(store: str) -> None:
    async with issuing(store) as tickets:
        app = App("*", 0, authenticate=TicketAuthenticator(tickets, user=lambda name: name.upper()))
        app.route("/chat", Greeting(), allowed_origins=[ORIGIN])

        @app.http("/ticket", methods=["POST"], authenticate=lambda request: request.headers.get("x-user"))
        async def ticket(request: Request) -> dict[str, str]:
            return {"ticket": await tickets.issue_for(request)}

        async with running(app):
            for offer in "query", "subprotocol":
                async with peer_of(app) as peer:
                    head = f"POST /ticket HTTP/1.1\r\nHost: a\r\nX-User: ana\r\nOrigin: {ORIGIN}\r\n"
                    await peer.send(f"{head}Content-Length: 0\r\n\r\n".encode())
                    issued = (await peer.response()).body.decode().split('"')[3]
                path = f"/chat?a=1&ticket={issued}" if offer == "query" else "/chat?a=1"
                fields: dict[str, Any] = (
                    {} if offer == "query" else {"sec_websocket_protocol": f"ticket, ticket.{issued}"}
                )
                async with peer_of(app) as peer:
                    await peer.open(path, origin=ORIGIN, **fields)
                    chosen = None if offer == "query" else "ticket"
                    assert (await peer.frame())[1].decode() == f"ANA {chosen} a=1"
                async with peer_of(app) as peer:
                    await peer.send(handshake(path, origin=ORIGIN, **fields))
                    assert (await peer.head())[0] == 401


@pytest.mark.parametrize("later", [False, True])
async def test_a_user_that_is_gone_is_refused(later: bool) -> None:
    def load(name: Any) -> Any:
        return None

    async def load_later(name: Any) -> Any:
        await anyio.lowlevel.checkpoint()

    issuer = TicketIssuer()
    by = TicketAuthenticator(issuer, QueryToken("t"), user=load_later if later else load)
    with pytest.raises(InvalidCredentials):
        await by(Request(query_string=f"t={await issuer.issue('ana', origin=None)}"))  # type: ignore[misc]
    assert by(Request()) is None


# -- mistakes ----------------------------------------------------------------------------------------------------------


async def test_tickets_in_memory_are_not_for_workers() -> None:
    class Worker:
        worker = 2

    issuer = TicketIssuer()
    ticket = await issuer.issue("ana", origin=None)
    with pytest.raises(ConfigurationError, match="each worker has tickets of its own"):
        await issuer.issue_for(page(ORIGIN, user="ana", app=Worker()))
    with pytest.raises(ConfigurationError, match="each worker has tickets of its own"):
        await issuer.redeem(ticket, Request(app=Worker()))


@pytest.mark.parametrize("user", [object(), b"ana", {1, 2}, "a" * 8192])
async def test_users_that_cannot_be_stored(user: Any) -> None:
    with pytest.raises(ConfigurationError, match="the user of a ticket"):
        await TicketIssuer().issue(user, origin=None)


def test_mistakes_raise_at_once() -> None:
    def without_user() -> str:
        return "ana"

    mistakes: list[tuple[Callable[[], Any], str]] = [
        (lambda: TicketIssuer("memcached://localhost"), "'memory', redis://"),
        (lambda: TicketIssuer("redis:/localhost"), "'memory', redis://"),
        (lambda: TicketIssuer(7), "must be 'memory'"),  # type: ignore[arg-type]
        (lambda: TicketIssuer(seconds=0), "from 1 to 3600"),
        (lambda: TicketIssuer(seconds=True), "from 1 to 3600"),
        (lambda: TicketAuthenticator("memory"), "must be a TicketIssuer"),  # type: ignore[arg-type]
        (lambda: TicketAuthenticator(TicketIssuer(), user=without_user), "user must take"),  # type: ignore[arg-type]
        (lambda: TicketAuthenticator(TicketIssuer()).verify("x"), "cannot be sent over one"),
    ]
    for make, message in mistakes:
        with pytest.raises(ConfigurationError, match=message):
            make()
