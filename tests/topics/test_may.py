"""`conn.may`: what a client asks for is allowed by True only, and the answers are remembered, but not for ever."""

from __future__ import annotations

import gc
import warnings
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.topic_bench import until
from support.topic_rooms import Rooms, expect, note_answer, running
from support.waiting import GUARD, until_blocked

from pywsapp import ConfigurationError, Connection, NotAuthorized, Options
from pywsapp._lifecycle.authorization import MIN_CACHED, TopicAuthorization
from pywsapp._outbox.awaitables import ALLOWED, REFUSED

pytestmark = pytest.mark.anyio


class Counting:
    """An `authorize` that counts its calls, and waits for the test if it is async."""

    def __init__(self, decision: Any = True, *, is_async: bool = False, waits: bool = False) -> None:
        self.decision = decision
        self.calls: list[tuple[str, str]] = []
        self.go = anyio.Event()
        self._is_async = is_async or waits
        if not waits:
            self.go.set()

    def __call__(self, conn: Connection, action: str, topic: str) -> Any:
        if self._is_async:
            return self._later(action, topic)
        self.calls.append((action, topic))
        return self.decision

    async def _later(self, action: str, topic: str) -> Any:
        self.calls.append((action, topic))
        await self.go.wait()
        await anyio.lowlevel.checkpoint()
        if isinstance(self.decision, Exception):
            raise self.decision
        return self.decision


both = pytest.mark.parametrize("is_async", [False, True], ids=["def", "async"])


@both
@pytest.mark.parametrize(("decision", "expected"), [(True, True), (False, False), (None, False)], ids="tfn")
async def test_only_true_allows(decision: bool | None, expected: bool, is_async: bool) -> None:
    rooms = Rooms(authorize=Counting(decision, is_async=is_async))
    async with running(rooms) as clients:
        _, conn = await rooms.connect(clients, topic=None)
        for action in ("subscribe", "publish", "presence", "history"):
            assert await conn.may(action, "t") is expected


async def test_without_an_authorize_nothing_is_allowed() -> None:
    rooms = Rooms()
    async with running(rooms) as clients:
        _, conn = await rooms.connect(clients)
        assert await conn.may("subscribe", "t") is False
        await conn.reauthorize()
        assert conn in rooms.topic()


@both
async def test_an_answer_is_remembered_for_each_connection_action_and_topic(is_async: bool) -> None:
    authorize = Counting(is_async=is_async)
    rooms = Rooms(authorize=authorize)
    async with running(rooms) as clients:
        _, one = await rooms.connect(clients, topic=None)
        _, two = await rooms.connect(clients, topic=None)
        for _ in range(3):
            for name in ("t", "u"):
                assert await one.may("subscribe", name)
                assert await one.may("publish", name)
                await one.subscribe(name)
        assert authorize.calls == [("subscribe", "t"), ("publish", "t"), ("subscribe", "u"), ("publish", "u")]
        assert await two.may("publish", "u")
        assert len(authorize.calls) == 5


@both
@pytest.mark.parametrize("name", ["", "a b", "room:*", "$pywsapp:users", "x" * 201, "a::b", 7, None], ids="12345678")
async def test_a_name_that_no_topic_can_have_is_not_asked_about(name: Any, is_async: bool) -> None:
    authorize = Counting(is_async=is_async)
    rooms = Rooms(authorize=authorize)
    async with running(rooms) as clients:
        _, conn = await rooms.connect(clients, topic=None)
        assert await conn.may("subscribe", name) is False
        assert authorize.calls == []


async def test_mistakes() -> None:
    rooms = Rooms(authorize=Counting(is_async=True))
    async with running(rooms) as clients:
        _, conn = await rooms.connect(clients, topic=None)
        with pytest.raises(ConfigurationError, match="'read' is no action; the actions are 'subscribe', 'publish'"):
            conn.may("read", "t")  # type: ignore[arg-type]
        topic: Any = rooms.topic()
        with pytest.raises(ConfigurationError, match="write the name, 't', not the topic"):
            conn.may("publish", topic)
        permission = conn.may("publish", "t")
        with pytest.raises(ConfigurationError, match=r"write `await conn\.may\(\.\.\.\)`"):
            bool(permission)
        assert await permission
        for known in (conn.may("publish", "t"), ALLOWED, REFUSED):
            with pytest.raises(ConfigurationError, match="write `await"):
                bool(known)


async def test_a_client_cannot_fill_the_memory() -> None:
    authorize = Counting()
    rooms = Rooms(authorize=authorize)
    async with running(rooms) as clients:
        _, conn = await rooms.connect(clients)
        for number in range(3 * MIN_CACHED):
            assert await conn.may("subscribe", f"room:{number}")
        authorization: Any = conn._driver.subscriptions().authorization  # type: ignore[union-attr]
        assert isinstance(authorization, TopicAuthorization)
        assert len(authorization._decisions) == MIN_CACHED
        authorize.calls.clear()
        assert await conn.may("subscribe", f"room:{3 * MIN_CACHED - 1}")
        assert authorize.calls == []
        assert await conn.may("subscribe", "room:0")
        assert authorize.calls == [("subscribe", "room:0")]
        authorize.decision = None
        await conn.reauthorize()  # the answer for the subscription is not in the cache any more
        assert conn.topics == ()


async def test_the_cache_is_large_enough_for_all_topics_of_a_connection() -> None:
    authorize = Counting()
    rooms = Rooms(authorize=authorize, options=Options(max_topics=MIN_CACHED))
    async with running(rooms) as clients:
        _, conn = await rooms.connect(clients, topic=None)
        for _ in range(2):
            for number in range(MIN_CACHED):
                await conn.may("subscribe", f"room:{number}")
                await conn.may("publish", f"room:{number}")
        assert len(authorize.calls) == 2 * MIN_CACHED


# -- at the same time --------------------------------------------------------------------------------------------------


async def test_questions_at_the_same_time_ask_once() -> None:
    authorize = Counting(waits=True)
    rooms = Rooms(authorize=authorize)
    answers: list[bool] = []
    async with running(rooms) as clients, anyio.create_task_group() as tasks:
        _, conn = await rooms.connect(clients, topic=None)

        for _ in range(20):
            tasks.start_soon(note_answer, conn, "subscribe", answers)
        tasks.start_soon(rooms.topic().add, conn)
        other = conn.may("subscribe", "t")
        await until_blocked()
        assert answers == []
        authorize.go.set()
        assert await other
        await until(lambda: len(answers) == 20 and conn.topics)
        assert all(answers)
        assert authorize.calls == [("subscribe", "t")]


@pytest.mark.parametrize("decision", [LookupError("no table"), "yes"], ids=["raises", "returns a str"])
async def test_a_failure_is_reported_once_for_all_that_wait(decision: Any) -> None:
    authorize = Counting(decision, waits=True)
    rooms = Rooms(authorize=authorize)
    answers: list[bool] = []
    async with running(rooms) as clients, anyio.create_task_group() as tasks:
        _, conn = await rooms.connect(clients, topic=None)

        for _ in range(5):
            tasks.start_soon(note_answer, conn, "publish", answers)
        await until(lambda: authorize.calls)
        authorize.go.set()
        await until(lambda: len(answers) == 5)
        assert answers == [False] * 5
        assert len(authorize.calls) == len(rooms.said("error")) == 1


async def test_if_the_task_that_asks_is_cancelled_the_next_one_asks() -> None:
    authorize = Counting(waits=True)
    rooms = Rooms(authorize=authorize)
    answers: list[bool] = []
    async with running(rooms) as clients, anyio.create_task_group() as tasks:
        _, conn = await rooms.connect(clients, topic=None)

        async def give_up() -> None:
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                await note_answer(conn, "publish", answers)

        scopes: list[anyio.CancelScope] = []
        tasks.start_soon(give_up)
        await until(lambda: authorize.calls)
        for _ in range(3):
            tasks.start_soon(note_answer, conn, "publish", answers)
        await until_blocked()
        scopes[0].cancel()
        await until(lambda: len(authorize.calls) == 2)
        authorize.go.set()
        await until(lambda: len(answers) == 3)
        assert answers == [True] * 3
        assert len(authorize.calls) == 2
        assert rooms.said("error") == []


async def test_a_time_limit_around_a_question_is_kept() -> None:
    authorize = Counting(waits=True)
    rooms = Rooms(authorize=authorize)
    async with running(rooms) as clients:
        _, conn = await rooms.connect(clients, topic=None)
        with anyio.move_on_after(0.01) as scope:
            await conn.may("publish", "t")
        assert scope.cancelled_caught
        authorize.go.set()
        assert await conn.may("publish", "t")
        assert rooms.said("error") == []


async def test_a_question_that_is_not_awaited_warns_and_leaves_nothing() -> None:
    async def authorize(conn: Connection, action: str, topic: str) -> bool:
        return True

    rooms = Rooms(authorize=authorize)
    async with running(rooms) as clients:
        _, conn = await rooms.connect(clients, topic=None)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for number in range(10):
                conn.may("subscribe", f"room:{number}")
            rooms.topic().add(conn)
            gc.collect()
        assert {"authorize" in str(one.message) and "was never awaited" in str(one.message) for one in caught} == {True}
        assert len(caught) == 11
        authorization: Any = conn._driver.subscriptions().authorization  # type: ignore[union-attr]
        assert len(authorization._questions) == 0
        assert await conn.may("subscribe", "room:1")


async def test_an_authorize_that_asks_itself_does_not_hang() -> None:
    async def authorize(conn: Connection, action: str, topic: str) -> bool:
        return await conn.may("publish", topic) if action == "publish" or topic == "t" else True

    rooms = Rooms(authorize=authorize)
    async with running(rooms) as clients:
        _, conn = await rooms.connect(clients, topic=None)
        with anyio.fail_after(GUARD):
            assert not await conn.may("publish", "t")
            with pytest.raises(NotAuthorized):
                await conn.subscribe("t")
        await rooms.until_called("error", 2)
        assert rooms.said("error")[0] == ("error", "authorize asks about 't' while it is asked about it")


async def test_a_def_that_asks_itself_is_reported() -> None:
    def authorize(conn: Connection, action: str, topic: str) -> bool:
        return bool(conn.may(action, topic))  # type: ignore[arg-type]

    rooms = Rooms(authorize=authorize)
    async with running(rooms) as clients:
        _, conn = await rooms.connect(clients, topic=None)
        assert not await conn.may("publish", "t")
        await rooms.until_called("error")


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async"])
async def test_an_authorize_that_changes_the_user_does_not_hang(is_async: bool) -> None:
    def change(conn: Connection, action: str, topic: str) -> bool:
        conn.refresh_user("ana")
        return True

    async def change_later(conn: Connection, action: str, topic: str) -> bool:
        await anyio.lowlevel.checkpoint()
        return change(conn, action, topic)

    rooms = Rooms(authorize=change_later if is_async else change)
    async with running(rooms) as clients:
        _, conn = await rooms.connect(clients, topic=None)
        with anyio.fail_after(GUARD):
            if is_async:
                with pytest.raises(ConfigurationError, match=r"must not call conn\.refresh_user"):
                    await conn.subscribe("t")
            else:
                await conn.subscribe("t")
            await conn.reauthorize()


async def test_a_handler_asks_for_its_client() -> None:
    class Chat(Rooms):
        async def authorize(self, conn: Connection, action: str, topic: str) -> bool:
            await anyio.lowlevel.checkpoint()
            return topic == "tea" or action == "subscribe"

        async def on_message(self, conn: Connection, message: Any) -> None:
            name = message
            if await conn.may("publish", name):
                await self.topic(name).broadcast(f"hello {name}")
            else:
                conn.send(f"not on {name}")

    rooms = Chat()
    async with running(rooms) as clients:
        client, conn = await rooms.connect(clients, topic="tea")
        await conn.subscribe("wine")
        await client.send("tea", "wine", "tea", "a b")
        await expect(client, "hello tea", "not on wine", "hello tea", "not on a b")
