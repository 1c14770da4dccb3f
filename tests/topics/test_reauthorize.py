"""Asking `authorize` again: by a new user, by `conn.reauthorize`, and by `app.users` in all processes."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.topic_bench import Bench, until
from support.topic_rooms import expect, note_answer, running, take
from support.user_rooms import Members
from support.waiting import until_blocked

from pywsapp import App, BrokerUnavailable, ConfigurationError, Connection, NotAuthorized, Request, Topic
from pywsapp.auth import Authenticated
from pywsapp.brokers.base import Broker
from pywsapp.brokers.memory import MemoryBroker

pytestmark = pytest.mark.anyio


class Roles:
    """A table of what may be used, which all processes of a test share; def or async."""

    def __init__(self, *, is_async: bool = False) -> None:
        self.allowed: set[str] = set()
        self.refused: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self.go = anyio.Event()
        self.go.set()
        self.stops_at: tuple[str, str] | None = None  # the only question that waits for `go`; None for all
        self._is_async = is_async

    def __call__(self, conn: Connection, action: str, topic: str) -> Any:
        return self._later(conn, action, topic) if self._is_async else self._answer(conn, action, topic)

    async def _later(self, conn: Connection, action: str, topic: str) -> bool | None:
        decision = self._answer(conn, action, topic)
        if self.stops_at in (None, (action, topic)):
            await self.go.wait()
        await anyio.lowlevel.checkpoint()
        return decision

    def _answer(self, conn: Connection, action: str, topic: str) -> bool | None:
        self.asked.append((action, topic))
        for name in (topic, f"{action} {topic}", f"{conn.user} {topic}"):
            if name in self.refused:
                return False
            if name in self.allowed:
                return True
        return None


both = pytest.mark.parametrize("is_async", [False, True], ids=["def", "async"])


def names(conn: Connection) -> list[str]:
    return [topic.name for topic in conn.topics]


async def until_in(conn: Connection, *expected: str) -> None:
    await until(lambda: names(conn) == list(expected))


@both
async def test_a_new_user_has_other_topics(is_async: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    roles = Roles(is_async=is_async)
    roles.allowed = {"ana hers", "ana shared", "ben shared", "ben his"}
    members = Members(authorize=roles)
    async with running(members) as clients:
        _, conn = await members.enter(clients)
        for name in ("hers", "shared", "open"):
            await conn.subscribe(name)
        assert await conn.may("publish", "hers")
        conn.refresh_user("ben")
        await until_in(conn, "shared", "open")
        assert not await conn.may("publish", "hers")
        assert await conn.may("publish", "his")
        assert members.said("unsubscribe") == [("unsubscribe", "hers")]
        assert [text for text in caplog.messages if "is not allowed" in text] == [
            f"{conn!r}: subscribing to 'hers' is not allowed"
        ]
        assert members.said("error") == []


async def test_with_a_def_the_topics_are_left_at_once() -> None:
    roles = Roles()
    roles.allowed = {"ana t"}
    members = Members(authorize=roles)
    async with running(members) as clients:
        _, conn = await members.enter(clients)
        conn.subscribe("t")
        conn.refresh_user("ben")
        assert conn.topics == ()


async def test_the_same_user_with_a_new_token_keeps_the_topics() -> None:
    roles = Roles()
    roles.allowed = {"ana t"}
    members = Members(authorize=roles, authenticate=lambda request: Authenticated("ana", subject="ana"))
    async with running(members) as clients:
        _, conn = await members.enter(clients)
        conn.subscribe("t")
        conn.refresh_user(Authenticated("ana", subject="ana"))
        assert names(conn) == ["t"]
        assert roles.asked == [("subscribe", "t")] * 2


@both
async def test_all_connections_of_a_user_in_all_processes(brokers: tuple[Broker, Broker], is_async: bool) -> None:
    roles = Roles(is_async=is_async)
    roles.allowed = {"room", "open"}
    one, two = (Members(broker, authorize=roles) for broker in brokers)
    async with running(one, two) as clients:
        anas = [await members.enter(clients) for members in (one, two, two)]
        ben, ben_conn = await two.enter(clients, "ben")
        for _, conn in [*anas, (ben, ben_conn)]:
            await conn.subscribe("room")
            await conn.subscribe("open")
            assert await conn.may("publish", "room")
        roles.refused = {"ana room"}
        roles.allowed = {"ben room", "open"}
        assert await anas[2][1].may("publish", "room")  # it is remembered
        await one.user().reauthorize()
        for client, conn in anas:
            await until_in(conn, "open")
            assert not await conn.may("publish", "room")
            with pytest.raises(NotAuthorized):
                await conn.subscribe("room")
            assert conn.is_open
            one.topic("open").broadcast("still here", eligible=conn)
            two.topic("open").broadcast("still here", eligible=conn)
            await expect(client, "still here")
        assert names(ben_conn) == ["room", "open"]
        assert sorted(one.said("unsubscribe") + two.said("unsubscribe")) == [("unsubscribe", "room")] * 3


@both
async def test_what_was_allowed_must_be_allowed_again_and_what_was_open_must_not_be_refused(is_async: bool) -> None:
    roles = Roles(is_async=is_async)
    roles.allowed = {"was allowed -> open", "was allowed -> allowed", "was allowed -> refused"}
    roles.allowed = {name.replace(" ", "_") for name in roles.allowed}
    members = Members(authorize=roles)
    async with running(members) as clients:
        _, conn = await members.enter(clients)
        for before in ("allowed", "open"):
            for after in ("allowed", "open", "refused"):
                await conn.subscribe(f"was_{before}_->_{after}")
        roles.allowed = {f"was_{before}_->_allowed" for before in ("allowed", "open")}
        roles.refused = {f"was_{before}_->_refused" for before in ("allowed", "open")}
        await conn.reauthorize()
        assert names(conn) == ["was_allowed_->_allowed", "was_open_->_allowed", "was_open_->_open"]
        roles.allowed.clear()
        await conn.reauthorize()
        assert names(conn) == ["was_open_->_allowed", "was_open_->_open"]


@both
async def test_presence_ends_and_the_subscription_stays(is_async: bool) -> None:
    roles = Roles(is_async=is_async)
    roles.allowed = {"presence t", "presence u"}
    members = Members(authorize=roles)
    members.app.on_presence("*")(lambda topic, diff: None)
    async with running(members) as clients:
        _, conn = await members.enter(clients)
        for name in ("t", "u", "v"):
            await conn.subscribe(name)
            await members.topic(name).track(conn, "ana")
        roles.allowed, roles.refused = {"presence u"}, {"presence x"}
        await conn.reauthorize()
        assert [sorted(members.topic(name).present()) for name in ("t", "u", "v")] == [[], ["ana"], ["ana"]]
        assert names(conn) == ["t", "u", "v"]
        roles.refused = {"presence v"}
        await conn.reauthorize()
        assert [sorted(members.topic(name).present()) for name in ("t", "u", "v")] == [[], ["ana"], []]
        await members.topic("t").track(conn, "ana")  # nothing speaks against it: the server decides


async def test_a_recovery_that_goes_on_ends_if_the_history_is_refused() -> None:
    roles = Roles()
    members = Members(authorize=roles)
    members.app.history("t", size=1000, max_bytes=2**26)
    async with running(members) as clients:
        client, conn = await members.enter(clients)
        for _ in range(300):
            await members.topic().broadcast("x" * 100_000)
        recoveries: list[Any] = []

        async def recover() -> None:
            recoveries.append(await members.topic().recover(conn, None))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(recover)
            await until_blocked()
            assert names(conn) == ["t"]
            assert recoveries == []
            roles.refused = {"history t"}
            await conn.reauthorize()
            assert names(conn) == []
            await take(client, 30)
            conn.abort()
        assert recoveries[0].complete is False


async def test_after_a_recovery_only_the_subscription_counts() -> None:
    roles = Roles()
    members = Members(authorize=roles)
    members.app.history("t")
    async with running(members) as clients:
        _, conn = await members.enter(clients)
        await members.topic().recover(conn, None)
        roles.refused = {"history t"}
        await conn.reauthorize()
        assert names(conn) == ["t"]


# -- while an answer is awaited ----------------------------------------------------------------------------------------


async def test_an_answer_from_before_is_asked_for_again() -> None:
    roles = Roles(is_async=True)
    roles.allowed = {"t"}
    roles.go = anyio.Event()
    members = Members(authorize=roles)
    async with running(members) as clients, anyio.create_task_group() as tasks:
        _, conn = await members.enter(clients)
        answers: list[Any] = []

        async def subscribe() -> None:
            with pytest.raises(NotAuthorized):
                await conn.subscribe("t")
            answers.append("refused")

        for _ in range(2):
            tasks.start_soon(note_answer, conn, "publish", answers)
        for _ in range(2):
            tasks.start_soon(subscribe)
        await until(lambda: len(roles.asked) == 2)
        roles.refused = {"t"}
        await conn.reauthorize()
        roles.go.set()
        await until(lambda: len(answers) == 4)
        assert sorted(map(str, answers)) == ["False", "False", "refused", "refused"]
        assert len(roles.asked) == 4


async def test_many_calls_while_one_is_checked_need_one_task() -> None:
    roles = Roles(is_async=True)
    roles.allowed = {"t"}
    members = Members(authorize=roles)
    async with running(members) as clients:
        _, conn = await members.enter(clients)
        await conn.subscribe("t")
        roles.go = anyio.Event()
        waiting = [conn.reauthorize() for _ in range(50)]
        await until_blocked()
        roles.refused = {"t"}
        waiting += [conn.reauthorize() for _ in range(50)]
        assert names(conn) == ["t"]
        roles.go.set()
        for one in waiting:
            await one
        assert conn.topics == ()
        assert len(roles.asked) <= 4


async def test_a_topic_that_was_checked_is_checked_again_if_the_check_goes_on() -> None:
    roles = Roles(is_async=True)
    members = Members(authorize=roles)
    async with running(members) as clients:
        _, conn = await members.enter(clients)
        for name in ("t", "u"):
            await conn.subscribe(name)
        roles.go, roles.stops_at = anyio.Event(), ("subscribe", "u")
        waiting = conn.reauthorize()
        await until(lambda: roles.asked[-1] == ("subscribe", "u") and len(roles.asked) == 4)
        roles.refused = {"t"}
        conn.reauthorize()
        roles.go.set()
        await waiting
        assert names(conn) == ["u"]


@pytest.mark.parametrize("is_late", [False, True], ids=["before on_subscribe", "after on_subscribe"])
async def test_the_history_is_refused_while_the_subscription_is_asked_about(is_late: bool) -> None:
    class Slow(Members):
        async def on_subscribe(self, conn: Connection, topic: Topic) -> None:
            await conn.reauthorize()  # so that the check after this asks anew
            stop()

    def stop() -> None:
        roles.go, roles.stops_at = anyio.Event(), ("subscribe", "t")

    roles = Roles(is_async=True)
    members = Slow(authorize=roles)
    members.app.history("t")
    async with running(members) as clients, anyio.create_task_group() as tasks:
        _, conn = await members.enter(clients)

        async def recover() -> None:
            with pytest.raises(NotAuthorized, match="reading the history of 't'"):
                await members.topic().recover(conn, None)

        if not is_late:
            stop()
        tasks.start_soon(recover)
        await until(lambda: roles.asked == [("history", "t"), ("subscribe", "t")] * (1 + is_late))
        roles.refused = {"history t"}
        await conn.reauthorize()
        roles.go.set()


async def test_a_question_that_was_not_awaited_yet_is_asked_again() -> None:
    roles = Roles(is_async=True)
    roles.allowed = {"t"}
    members = Members(authorize=roles)
    async with running(members) as clients:
        _, conn = await members.enter(clients)
        added = conn.subscribe("t")
        roles.refused = {"t"}
        conn.refresh_user("ben")
        with pytest.raises(NotAuthorized):
            await added


async def test_a_connection_that_ends_meanwhile(caplog: pytest.LogCaptureFixture) -> None:
    roles = Roles(is_async=True)
    members = Members(authorize=roles)
    async with running(members) as clients:
        client, conn = await members.enter(clients)
        await conn.subscribe("t")
        roles.go = anyio.Event()
        roles.refused = {"t"}
        waiting = conn.reauthorize()
        await until_blocked()
        await client.close()
        await until(lambda: conn._driver is None)
        roles.go.set()
        await waiting
        assert members.names() == ["open", "subscribe", "close", "unsubscribe"]
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


async def test_an_authorize_that_calls_reauthorize_ends_the_subscriptions() -> None:
    calls_it = False

    async def authorize(conn: Connection, action: str, topic: str) -> bool:
        await anyio.lowlevel.checkpoint()
        if calls_it:
            conn.reauthorize()
        return True

    members = Members(authorize=authorize)
    async with running(members) as clients:
        _, conn = await members.enter(clients)
        for name in ("t", "u"):
            await conn.subscribe(name)
        calls_it = True
        await conn.reauthorize()
        assert conn.topics == ()
        assert len(members.said("error")) == 2


async def test_what_is_raised_after_the_end_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    going_on = anyio.Event()

    async def authorize(conn: Connection, action: str, topic: str) -> bool:
        if action == "publish":
            await going_on.wait()
            raise LookupError("no table")
        return True

    members = Members(authorize=authorize)
    async with running(members) as clients, anyio.create_task_group() as tasks:
        client, conn = await members.enter(clients)
        await conn.subscribe("t")
        answers: list[bool] = []

        tasks.start_soon(note_answer, conn, "publish", answers)
        await until_blocked()
        await client.close()
        await until(lambda: conn._driver is None)
        going_on.set()
        await until(lambda: answers == [False])
        assert members.names() == ["open", "subscribe", "close", "unsubscribe"]
        assert [text.split(" for ")[0] for text in caplog.messages if "failed" in text] == ["Members failed"]


@both
async def test_failures_end_the_subscription(is_async: bool) -> None:
    broken = False

    def authorize(conn: Connection, action: str, topic: str) -> bool:
        if broken:
            raise LookupError("no table")
        return True

    async def later(conn: Connection, action: str, topic: str) -> bool:
        await anyio.lowlevel.checkpoint()
        return authorize(conn, action, topic)

    class Failing(Members):
        def on_unsubscribe(self, conn: Connection, topic: Topic) -> None:
            super().on_unsubscribe(conn, topic)
            raise ValueError("on purpose")

    members = Failing(authorize=later if is_async else authorize)
    async with running(members) as clients:
        _, conn = await members.enter(clients)
        for name in ("t", "u"):
            await conn.subscribe(name)
        broken = True
        await conn.reauthorize()
        assert conn.topics == ()
        assert len(members.topic()) == len(members.topic("u")) == 0
        await members.until_called("error", 4)
        assert members.said("error") == [("error", "no table"), ("error", "on purpose")] * 2


# -- app.users ---------------------------------------------------------------------------------------------------------


async def test_the_first_question_after_the_user_was_unknown() -> None:
    members = Members(authenticate=None, authorize=lambda conn, action, topic: conn.user == "ana")
    async with running(members) as clients:
        _, conn = await members.enter(clients)
        assert not await conn.may("publish", "t")
        conn.refresh_user("ana")
        assert await conn.may("publish", "t")


async def test_without_connections_or_an_authorize_nothing_happens() -> None:
    members = Members()
    async with running(members) as clients:
        _, conn = await members.enter(clients)
        await conn.subscribe("t")
        await members.user().reauthorize()
        await members.user("nobody").reauthorize()
        assert names(conn) == ["t"]


async def test_while_the_broker_is_unavailable_this_process_asks_again() -> None:
    roles = Roles()
    one, two = Members(broker := Bench(), authorize=roles), Members(broker, authorize=roles)
    async with running(one, two) as clients:
        (_, here), (_, there) = await one.enter(clients), await two.enter(clients)
        for conn in (here, there):
            await conn.subscribe("t")
        broker.available = False
        broker.disconnect()
        await until(lambda: one.app.topics.relay and one.app.topics.relay.connection is None)
        roles.refused = {"t"}
        with pytest.raises(BrokerUnavailable):
            await one.user().reauthorize()
        assert here.topics == ()
        assert names(there) == ["t"]


async def test_it_needs_a_running_app() -> None:
    app = App(port=0, authorize=Roles())
    with pytest.raises(ConfigurationError, match="works while the App runs"):
        app.users["ana"].reauthorize()


async def test_another_program_cannot_name_a_user_that_does_not_exist() -> None:
    one, two = Members(broker := MemoryBroker(), authorize=Roles()), Members(broker)
    async with running(one, two) as clients:
        _, conn = await one.enter(clients)
        await conn.subscribe("t")
        await two.user("x" * 1000).reauthorize()
        await two.user().reauthorize()
        roles: Any = one.app.router.authorize
        await until(lambda: len(roles.asked) == 2)
        assert conn.request.user == "ana"
        assert isinstance(conn.request, Request)
