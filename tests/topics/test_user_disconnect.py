"""`app.users[user].disconnect()`: all connections of a user are closed, also those that are just being opened."""

from __future__ import annotations

import logging
import tracemalloc
from typing import Any

import anyio
import pytest
from support.serving import CLOSE, Client
from support.topic_bench import Bench, until
from support.topic_rooms import Rooms, expect, running
from support.user_rooms import Members
from support.waiting import until_blocked

from pywsapp import BrokerUnavailable, CloseCode, ConfigurationError, Options, Request
from pywsapp.auth import Authenticated
from pywsapp.auth.first_message import FirstMessage
from pywsapp.brokers.base import Broker
from pywsapp.brokers.memory import MemoryBroker
from pywsapp.close_codes import ComeBack, come_back
from pywsapp.topics.users import service as service_module

pytestmark = pytest.mark.anyio


async def close_of(client: Client) -> tuple[int, str]:
    """Return the code and the reason of the close frame that comes next."""
    opcode, payload = await client.receive()
    assert opcode == CLOSE
    return int.from_bytes(payload[:2], "big"), payload[2:].decode()


async def test_all_connections_of_a_user_are_closed(
    brokers: tuple[Broker, Broker], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    one, two = (Members(broker) for broker in brokers)
    async with running(one, two) as clients:
        anas = [(await members.enter(clients))[0] for members in (one, one, two, two)]
        ben, _ = await two.enter(clients, "ben")
        await one.user().disconnect()
        for ana in anas:
            assert await close_of(ana) == (3503, "disconnected by the server")
        await two.user("ben").send("still here")
        await expect(ben, "still here")
        assert "closed 2 connections of the user 'ana' with code 3503: disconnected by the server" in caplog.messages
        again, _ = await one.enter(clients)  # whether it can come back is up to `authenticate`
        await two.user().disconnect(CloseCode.UNAUTHENTICATED, "the token was revoked")
        assert await close_of(again) == (4401, "the token was revoked")


def test_after_the_code_clients_do_not_come_back() -> None:
    assert come_back(CloseCode.FORCED_DISCONNECT) is ComeBack.NEVER


async def test_a_connection_can_log_out_all_others() -> None:
    one, two = Members(broker := MemoryBroker()), Members(broker)
    async with running(one, two) as clients:
        (mine, conn), (other, _), (third, _) = [await members.enter(clients) for members in (one, one, two)]
        user = one.app.users.of(conn)
        assert user is not None
        await user.disconnect(exclude=conn)
        for client in (other, third):
            assert (await close_of(client))[0] == 3503
        conn.refresh_user("ana")  # the same user again
        await user.send("still here")
        await expect(mine, "still here")


async def test_a_hundred_connections_are_closed_while_others_open() -> None:
    one, two = Members(broker := MemoryBroker()), Members(broker)
    async with running(one, two) as clients:
        anas = [(await members.enter(clients))[0] for members in (one, two) for _ in range(50)]

        async def enter() -> None:
            anas.append((await two.enter(clients))[0])

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(enter)
            await until(lambda: len(two.conns) > 55)
            one.user().disconnect()
        await one.user().disconnect()
        for client in anas:
            assert (await close_of(client))[0] == 3503


# -- the race with handshakes ------------------------------------------------------------------------------------------


class Slow:
    """A guard that answers when a test says so."""

    def __init__(self) -> None:
        self.asked = 0
        self.go = anyio.Event()

    async def __call__(self, request: Request) -> Any:
        self.asked += 1
        await self.go.wait()
        return request.query_string


async def expect_refused(members: Members, query: str, status: int) -> None:
    async with await anyio.connect_tcp("127.0.0.1", members.server.port) as stream:
        await Client(stream).handshake(f"/?{query}", expected=status)


@pytest.mark.parametrize("is_remote", [False, True], ids=["here", "elsewhere"])
async def test_a_handshake_whose_credentials_were_checked_before_is_refused(is_remote: bool) -> None:
    broker, slow = MemoryBroker(), Slow()
    members, other = Members(broker, authenticate=slow), Members(broker)
    async with running(members, other), anyio.create_task_group() as tasks:
        tasks.start_soon(expect_refused, members, "ana", 401)
        await until(lambda: slow.asked == 1)
        await (other if is_remote else members).user().disconnect()
        await until(lambda: members.app.topics.users._remembered)
        slow.go.set()
    assert members.calls == []


async def test_a_handshake_that_begins_afterwards_is_accepted() -> None:
    slow = Slow()
    slow.go.set()
    members = Members(authenticate=slow)
    async with running(members) as clients:
        await members.user().disconnect()
        client, _ = await members.enter(clients)
        await members.user().send("hello")
        await expect(client, "hello")


async def test_a_handshake_of_another_user_is_accepted() -> None:
    slow = Slow()
    members = Members(authenticate=slow)
    async with running(members) as clients, anyio.create_task_group() as tasks:
        tasks.start_soon(members.enter, clients, "ben")
        await until(lambda: slow.asked == 1)
        await members.user().disconnect()
        slow.go.set()
        await members.until_called("open")


async def test_a_handler_that_decides_late_cannot_let_the_user_in() -> None:
    asked, go = anyio.Event(), anyio.Event()

    class Deciding(Members):
        async def on_handshake(self, request: Request) -> None:
            asked.set()
            await go.wait()

    members = Deciding()
    async with running(members), anyio.create_task_group() as tasks:
        tasks.start_soon(expect_refused, members, "ana", 401)
        await asked.wait()
        await members.user().disconnect()
        go.set()


@pytest.mark.parametrize("is_late", [False, True], ids=["token before", "token after"])
async def test_a_token_in_the_first_message(is_late: bool) -> None:
    asked, go = anyio.Event(), anyio.Event()

    async def verify(token: str) -> Authenticated:
        asked.set()
        await go.wait()
        return Authenticated(token, subject=token)

    members, inner = Members(authenticate=None), Rooms()
    members.app.route("/later", FirstMessage(inner, verify))
    async with running(members) as clients:
        client = await clients.enter_async_context(members.server.client("/later"))
        if is_late:
            await members.user().disconnect()
        await client.send("ana")
        await asked.wait()
        if not is_late:
            await members.user().disconnect()
        go.set()
        if is_late:
            await inner.until_called("open")
            await members.user().send("hello")
            await expect(client, "hello")
        else:
            assert (await close_of(client))[0] == 3503


async def test_a_connection_that_logs_in_afterwards_stays_open() -> None:
    members = Members(authenticate=None)
    async with running(members) as clients:
        client, conn = await members.enter(clients)
        await members.user().disconnect()
        conn.refresh_user("ana")
        await members.user().send("hello")
        await expect(client, "hello")


async def test_a_long_key_is_remembered_in_few_bytes() -> None:
    long, slow = "x" * 5000, Slow()
    members, other = Members(broker := MemoryBroker(), authenticate=slow), Members(broker)
    async with running(members, other), anyio.create_task_group() as tasks:
        tasks.start_soon(expect_refused, members, long, 401)
        await until(lambda: slow.asked == 1)
        await other.user(long).disconnect()
        await until(lambda: members.app.topics.users._remembered)
        slow.go.set()
    service = other.app.topics.users
    tracemalloc.start()
    for number in range(100):
        service._remember(f"{number}" + "x" * 100_000, 4000, "")
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 100_000
    assert len(service._remembered) == 100


async def test_disconnects_are_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "_SPARE_SECONDS", 0)
    monkeypatch.setattr(service_module, "_MAX_REMEMBERED", 3)
    now = 1000.0
    monkeypatch.setattr(service_module, "monotonic", lambda: now)
    members = Members(options=Options(handshake_timeout=10))
    async with running(members):
        remembered = members.app.topics.users._remembered
        for name in ("ana", "ben", "ana", "cem"):
            await members.user(name).disconnect()
        assert list(remembered) == ["ben", "ana", "cem"]
        await members.user("dan").disconnect()
        assert list(remembered) == ["ana", "cem", "dan"]
        now = 1010.5
        await members.user("eve").disconnect()
        assert list(remembered) == ["eve"]
        request = Request(user="eve")
        with pytest.raises(Exception, match="was disconnected meanwhile"):
            members.app.topics.users.check(request)
        now = 1021.0
        members.app.topics.users.check(request)


# -- failures ----------------------------------------------------------------------------------------------------------


async def test_while_the_broker_is_unavailable_the_connections_of_this_process_are_closed() -> None:
    one, two = Members(broker := Bench()), Members(broker)
    async with running(one, two) as clients:
        (here, _), (there, _) = await one.enter(clients), await two.enter(clients)
        broker.available = False
        broker.disconnect()
        await until(lambda: one.app.topics.relay and one.app.topics.relay.connection is None)
        with pytest.raises(BrokerUnavailable):
            await one.user().disconnect()
        assert (await close_of(here))[0] == 3503
        two.user().send("still here")
        await expect(there, "still here")


class Broken:
    """Stands for a connection whose transport fails."""

    is_open = True
    is_aborted = False

    def close(self, code: int, reason: str) -> None:
        raise OSError("the transport is broken")

    def abort(self) -> None:
        self.is_aborted = True


async def test_a_connection_that_cannot_be_closed_is_aborted(caplog: pytest.LogCaptureFixture) -> None:
    members, broken = Members(), Broken()
    async with running(members) as clients:
        assert members.user().connections == []
        index: Any = members.app.topics.users._index
        index["ana"] = {broken: None}
        client, _ = await members.enter(clients)
        members.user().disconnect()
        assert (await close_of(client))[0] == 3503
        assert broken.is_aborted
        assert [message for message in caplog.messages if message.startswith(f"closing {broken!r} failed")]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [((1005,), "may not be sent"), ((999,), "may not be sent"), ((4401, "x" * 124), "123"), ((4401, None), "str")],
)
async def test_codes_and_reasons_that_cannot_be_sent(arguments: Any, match: str) -> None:
    members = Members()
    async with running(members) as clients:
        _, conn = await members.enter(clients)
        with pytest.raises(ConfigurationError, match=match):
            members.user().disconnect(*arguments)
        await until_blocked()
        assert conn.is_open
