"""`app.users`: messages to all connections of one user, their number, and which connections they are."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest
from support.topic_bench import Bench, until
from support.topic_rooms import Rooms, expect, running
from support.user_rooms import Members, subscribes

from pywsapp import App, BrokerUnavailable, ConfigurationError, PreparedMessage, Request, TopicError
from pywsapp.auth import Authenticated
from pywsapp.brokers.base import Broker
from pywsapp.brokers.memory import MemoryBroker
from pywsapp.topics.users import users as users_module

pytestmark = pytest.mark.anyio


# -- sending -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, b"a key that all processes share"])
async def test_a_message_reaches_all_connections_of_a_user(brokers: tuple[Broker, Broker], key: bytes | None) -> None:
    one, two = (Members(broker, broker_key=key) for broker in brokers)
    heard: list[Any] = []
    for members in (one, two):
        members.app.on_broadcast("*")(lambda topic, message: heard.append(message))
    async with running(one, two) as clients:
        anas = [(await members.enter(clients))[0] for members in (one, one, two, two)]
        ben, _ = await two.enter(clients, "ben")
        await one.user().send("to ana")
        await one.user().send(b"\x00\xff")
        await two.user().send(PreparedMessage("from the other process"))
        await one.user("ben").send("to ben")
        await expect(ben, "to ben")
        for ana in anas[:2]:
            await expect(ana, "to ana", b"\x00\xff", "from the other process")
        for ana in anas[2:]:
            messages = {await ana.message() for _ in range(3)}
            assert messages == {"to ana", b"\x00\xff", "from the other process"}
        assert heard == []
        assert set(one.names() + two.names()) == {"open"}


async def test_a_user_has_a_hundred_connections() -> None:
    members = Members()
    async with running(members) as clients:
        anas = [await members.enter(clients) for _ in range(100)]
        assert members.user().connections == [conn for _, conn in anas]
        assert await members.user().count() == 100
        await members.user().send("x", exclude=anas[7][1])
        members.user().send("y", exclude=[conn for _, conn in anas[:5]])
        await members.user().send("z")
        for number, (client, _) in enumerate(anas):
            await expect(client, *(["x"] * (number != 7) + ["y"] * (number >= 5) + ["z"]))


async def test_a_message_to_a_user_without_connections_goes_nowhere() -> None:
    broker = MemoryBroker()
    one, two = Members(broker), Members(broker)
    async with running(one, two) as clients:
        client, _ = await two.enter(clients, "ben")
        await one.user("ana").send("x")
        await one.user("ben").send("y")
        await expect(client, "y")
        assert one.user("nobody").connections == []


async def test_what_is_sent_need_not_be_awaited() -> None:
    one, two = Members(broker := MemoryBroker()), Members(broker)
    async with running(one, two) as clients:
        client, _ = await two.enter(clients)
        one.user().send("x")
        gc.collect()
        await expect(client, "x")


async def test_while_the_broker_is_unavailable_only_this_process_gets_a_message() -> None:
    broker = MemoryBroker()
    members = Members(broker)
    async with running(members) as clients:
        client, _ = await members.enter(clients)
        broker.available = False
        broker.disconnect()
        await until(lambda: not members.app.topics.stats.broker.connected)  # type: ignore[union-attr]
        with pytest.raises(BrokerUnavailable):
            await members.user().send("x")
        with pytest.raises(BrokerUnavailable):
            await members.user().count()
        await expect(client, "x")


async def test_a_message_that_is_too_large_is_sent_to_no_connection() -> None:
    broker = Bench()
    broker.max_size = 300
    members = Members(broker)
    async with running(members) as clients:
        client, _ = await members.enter(clients)
        with pytest.raises(TopicError, match="is more than the memory broker carries"):
            members.user().send("x" * 300)
        await members.user().send("y")
        await expect(client, "y")


# -- counting ----------------------------------------------------------------------------------------------------------


async def test_connections_are_counted_in_all_processes(brokers: tuple[Broker, Broker]) -> None:
    one, two = (Members(broker) for broker in brokers)
    async with running(one, two) as clients:
        for members, number in ((one, 2), (two, 3)):
            for _ in range(number):
                last, _ = await members.enter(clients)
        await one.enter(clients, "ben")
        counts: dict[str, int] = {}

        async def count(name: str, members: Members, user: str) -> None:
            counts[name] = await members.user(user).count()

        async with anyio.create_task_group() as tasks:
            for name, members, user in (("1", one, "ana"), ("2", two, "ana"), ("3", two, "ben"), ("4", one, "cem")):
                tasks.start_soon(count, name, members, user)
        assert counts == {"1": 5, "2": 5, "3": 1, "4": 0}
        assert len(one.user().connections) == 2
        await last.close()
        await two.until_called("close")
        assert await one.user().count() == 4


async def test_answers_that_come_too_late_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = MemoryBroker()
    one, two = Members(broker), Members(broker)
    async with running(one, two) as clients:
        await one.enter(clients)
        await two.enter(clients)
        assert await one.user().count(seconds=0) in (1, 2)
        service = one.app.topics.users
        assert service._answers == {}
        monkeypatch.setattr(users_module, "_COUNT_SECONDS", 0)
        assert await one.user().count(seconds=0.2) == 2


@pytest.mark.parametrize("seconds", [-1, "1", True, float("inf"), float("nan"), None])
async def test_seconds_that_cannot_be_waited(seconds: Any) -> None:
    with pytest.raises(ConfigurationError, match="seconds must be a number from 0 on"):
        await App().users["ana"].count(seconds=seconds)


# -- which connections -------------------------------------------------------------------------------------------------


async def test_connections_that_were_open_before_the_first_use_are_found() -> None:
    broker = MemoryBroker()
    one, two = Members(broker), Members(broker)
    async with running(one, two) as clients:
        before = [(await members.enter(clients))[0] for members in (one, two)]
        for members in (one, two):
            assert members.app.topics.users._index is None, "nothing is kept until it is used"
        await one.user().send("x")
        for client in before:
            await expect(client, "x")
        after, _ = await two.enter(clients)
        await one.user().send("y")
        await expect(after, "y")


async def test_connections_that_have_ended_are_not_kept() -> None:
    members = Members()
    async with running(members) as clients:
        assert members.user().connections == []
        client, _ = await members.enter(clients)
        index = members.app.topics.users._index
        assert list(index or ()) == ["ana"]
        await client.close()
        await members.until_called("close")
        await until(lambda: not index)
        client, _ = await members.enter(clients)
        await client.reset()
        await until(lambda: not index)


async def test_connections_that_are_being_closed_do_not_count() -> None:
    members = Members()
    async with running(members) as clients:
        client, conn = await members.enter(clients)
        assert members.user().connections == [conn]
        conn.close()  # the client has not answered yet
        assert members.user().connections == []
        assert await members.user().count() == 0
        await client.close()


async def test_connections_without_a_user_cost_nothing() -> None:
    broker = Bench()
    members = Members(broker, authenticate=None)
    async with running(members) as clients:
        _, conn = await members.enter(clients)
        assert members.user().connections == []
        assert members.app.users.of(conn) is None
        assert broker.subscribed == set()
        assert members.app.topics.users._index == {}


async def test_a_user_that_comes_later() -> None:
    broker = Bench()
    one, two = Members(broker, authenticate=None), Members(broker)
    async with running(one, two) as clients:
        client, conn = await one.enter(clients)
        conn.refresh_user("ben")
        await until(lambda: subscribes(one.app))
        await two.user("ben").send("to ben")
        conn.refresh_user(Authenticated("ben", subject="7"))
        await one.user("7").send("to 7")
        await one.user("ben").send("to nobody")
        conn.refresh_user(Authenticated("ben again", subject="7"))
        await one.user("7").send("to 7 again")
        await expect(client, "to ben", "to 7", "to 7 again")
        assert one.user("7").connections == [conn]
        assert one.user("ben").connections == []


async def test_the_events_are_subscribed_before_the_first_connection() -> None:
    broker = Bench()
    members = Members(broker)
    async with running(members):
        assert broker.subscribed == {"$pywsapp:users"}


async def test_the_user_of_a_connection() -> None:
    def guard(request: Request) -> Any:
        return Authenticated({"name": request.query_string}, subject=f"id of {request.query_string}")

    members = Members(authenticate=guard)
    async with running(members) as clients:
        _, conn = await members.enter(clients)
        user = members.app.users.of(conn)
        assert user is not None
        assert (user.key, user.connections) == ("id of ana", [conn])
        assert repr(user) == "<UserConnections of 'id of ana'>"
        with pytest.raises(ConfigurationError, match=r"write app.users.of\(conn\)"):
            members.app.users[conn]


async def test_an_app_has_its_own_keys() -> None:
    members = Members(
        authenticate=lambda request: Authenticated({"sub": request.query_string}, subject="https://issuer ana"),
        user_key=lambda user: user["sub"],
    )
    async with running(members) as clients:
        client, conn = await members.enter(clients)
        assert members.app.users.key(conn.user) == "ana"
        await members.user({"sub": "ana"}).send("x")
        await members.user("ana").send("y")
        await expect(client, "x", "y")


async def test_a_user_without_a_key_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail(user: Any) -> str:
        raise LookupError(f"no {user}")

    for settings, reason in (
        ({"authenticate": lambda request: object()}, "a object has no key"),
        ({"user_key": fail}, "no ana"),
    ):
        members = Members(**settings)
        async with running(members) as clients:
            assert members.user("x").connections == []
            for _ in range(3):
                await members.enter(clients)
        found = [record for record in caplog.records if "its user has no key" in record.getMessage()]
        assert [reason in record.getMessage() for record in found] == [True, True], "at 1 and 2"
        caplog.clear()


async def test_a_mounted_app_has_the_users_of_the_app_around_it() -> None:
    outer, inner = Members(), Rooms()
    outer.app.mount("/inner", inner.app)
    async with running(outer) as clients:
        inner.server = outer.server
        client, conn = await inner.connect(clients, None, path="/inner/?ana")
        assert inner.app.users["ana"].connections == outer.user().connections == [conn]
        await inner.app.users["ana"].send("x")
        await expect(client, "x")
    with pytest.raises(ConfigurationError, match="cannot have its own user_key"):
        outer.app.mount("/other", App(user_key=str))


async def test_an_app_can_be_served_again() -> None:
    members = Members()
    for _ in range(2):
        async with running(members) as clients:
            client, conn = await members.enter(clients)
            assert members.user().connections == [conn]
            await members.user().send("x")
            await expect(client, "x")
        assert members.app.topics.users._index is None


# -- mistakes ----------------------------------------------------------------------------------------------------------


async def test_an_app_that_does_not_run_cannot_reach_users() -> None:
    user = App().users["ana"]
    calls: list[Callable[[], Any]] = [lambda: user.send("x"), user.disconnect]
    for call in calls:
        with pytest.raises(ConfigurationError, match="works while the App runs, in the process of the App"):
            call()
    with pytest.raises(ConfigurationError, match="works while the App runs"):
        await user.count()
    assert user.connections == []


async def test_another_thread_cannot_use_them() -> None:
    members = Members()
    async with running(members):
        user = members.user()
        calls: list[Callable[[], Any]] = [lambda: user.send("x"), user.disconnect, lambda: user.connections]
        for call in calls:
            with pytest.raises(ConfigurationError, match="thread"):
                await anyio.to_thread.run_sync(call)


async def test_users_cannot_be_listed() -> None:
    users: Any = App().users
    with pytest.raises(TypeError, match="not iterable"):
        list(users)
    with pytest.raises(TypeError):
        assert "ana" in users


async def test_none_is_no_message_for_a_user() -> None:
    with pytest.raises(TypeError, match="None is no message"):
        App().users["ana"].send(None)  # type: ignore[arg-type]
