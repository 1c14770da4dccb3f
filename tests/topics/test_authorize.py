"""`authorize` decides what the server does for a connection: False refuses, True and None allow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from support.serving import CLOSE, Recorder, close_frame
from support.topic_bench import until
from support.topic_rooms import Rooms, running, take

from pywsapp import (
    Accept,
    App,
    ComponentMiddleware,
    ConfigurationError,
    Connection,
    HandshakeMiddleware,
    MessageComponent,
    NotAuthorized,
    Request,
    Router,
    Topic,
    TopicError,
    in_thread,
)
from pywsapp.auth.first_message import FirstMessage

pytestmark = pytest.mark.anyio

ANSWERS = {"yes": True, "no": False, "open": None}


def answer(conn: Connection, action: str, topic: str) -> bool | None:
    """Answer by the last part of the name: "subscribe-no" or just "no"."""
    word = topic.rpartition(":")[2]
    asked, _, word = word.rpartition("-")
    return ANSWERS.get(word) if asked in ("", action) else None


async def answer_later(conn: Connection, action: str, topic: str) -> bool | None:
    await anyio.lowlevel.checkpoint()
    return answer(conn, action, topic)


every_kind = pytest.mark.parametrize(
    "authorize", [answer, answer_later, in_thread(answer)], ids=["def", "async", "thread"]
)


class Watched(Rooms):
    """Rooms with presence and a history in the topics of "room:*"."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.app.history("room:*")
        self.app.on_presence("room:*")(lambda topic, diff: None)


@every_kind
async def test_what_the_server_subscribes_is_refused_by_false_only(authorize: Any) -> None:
    rooms = Rooms(authorize=authorize)
    async with running(rooms) as clients:
        client, conn = await rooms.connect(clients, topic=None)
        for word in ("yes", "open", "publish-no"):
            await rooms.topic(word).add(conn)
        with pytest.raises(NotAuthorized, match=r"^subscribing to 'no' is not allowed$") as info:
            await conn.subscribe("no")
        assert (info.value.action, info.value.topic) == ("subscribe", "no")
        assert [topic.name for topic in conn.topics] == ["yes", "open", "publish-no"]
        assert rooms.said("subscribe") == [("subscribe", "yes"), ("subscribe", "open"), ("subscribe", "publish-no")]
        assert rooms.said("error") == []
        await client.send("join no")
        await rooms.until_called("error")
        assert rooms.said("error") == [("error", "subscribing to 'no' is not allowed")]


@every_kind
async def test_presence_and_history_are_refused(authorize: Any) -> None:
    rooms = Watched(authorize=authorize)
    async with running(rooms) as clients:
        client, conn = await rooms.connect(clients, topic=None)
        for name in ("room:presence-no", "room:history-no"):
            await rooms.topic(name).add(conn)
        with pytest.raises(NotAuthorized, match="being present in 'room:presence-no' is not allowed"):
            await rooms.topic("room:presence-no").track(conn, "ana")
        await rooms.topic("room:history-no").track(conn, "ana")
        assert rooms.topic("room:presence-no").present() == {}
        assert list(rooms.topic("room:history-no").present()) == ["ana"]
        conn.unsubscribe("room:history-no")
        for name, action in (("room:history-no", "history"), ("room:subscribe-no", "subscribe")):
            await rooms.topic(name).broadcast("secret")
            with pytest.raises(NotAuthorized) as info:
                await rooms.topic(name).recover(conn, None)
            assert info.value.action == action
            assert conn not in rooms.topic(name)
        await rooms.topic("room:yes").broadcast("hello")
        assert (await rooms.topic("room:yes").recover(conn, None)).messages == 1
        assert [message["message"] for message in await take(client)] == ["hello"]


async def test_a_def_needs_no_await() -> None:
    rooms = Watched(authorize=answer)
    async with running(rooms) as clients:
        _, conn = await rooms.connect(clients, topic=None)
        topic = rooms.topic("room:yes")
        topic.add(conn)
        topic.track(conn, "ana")
        assert list(topic.present()) == ["ana"]
        with pytest.raises(NotAuthorized):
            conn.subscribe("no")


async def test_authorize_runs_before_on_subscribe_and_the_answer_is_current_after_it() -> None:
    allowed = True
    going_on = anyio.Event()

    def authorize(conn: Connection, action: str, topic: str) -> bool:
        rooms.record("authorize", topic)
        return allowed

    class Asking(Rooms):
        async def on_subscribe(self, conn: Connection, topic: Topic) -> None:
            self.record("subscribe", topic.name)
            await going_on.wait()

    rooms = Asking(authorize=authorize)
    async with running(rooms) as clients:
        client, conn = await rooms.connect(clients, topic=None)
        await client.send("join t")
        await rooms.until_called("subscribe")
        assert rooms.said("authorize", "subscribe") == [("authorize", "t"), ("subscribe", "t")]
        allowed = False
        conn.reauthorize()  # it does not subscribe yet, so there is nothing to check
        going_on.set()
        await rooms.until_called("error")
        assert rooms.said("error") == [("error", "subscribing to 't' is not allowed")]
        assert conn.topics == ()


async def test_a_def_on_subscribe_can_withdraw_what_was_allowed() -> None:
    allowed = True

    class Withdrawing(Rooms):
        def on_subscribe(self, conn: Connection, topic: Topic) -> None:
            nonlocal allowed
            allowed = False
            conn.reauthorize()

    rooms = Withdrawing(authorize=lambda conn, action, topic: allowed)
    async with running(rooms) as clients:
        _, conn = await rooms.connect(clients, topic=None)
        with pytest.raises(NotAuthorized):
            rooms.topic().add(conn)
        assert conn.topics == ()


async def test_a_connection_that_ends_or_unsubscribes_while_it_is_asked() -> None:
    going_on = anyio.Event()

    async def authorize(conn: Connection, action: str, topic: str) -> bool:
        rooms.record("authorize", action)
        if action == "presence" or topic == "u":
            await going_on.wait()
        return True

    rooms = Watched(authorize=authorize)
    async with running(rooms) as clients:
        client, conn = await rooms.connect(clients, topic="room:1")
        topic = rooms.topic("room:1")
        _, other = await rooms.connect(clients, topic="room:1")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(topic.track, conn, "ana")
            tasks.start_soon(rooms.topic("u").add, conn)

            async def leave() -> None:
                with pytest.raises(TopicError, match="only a subscriber"):
                    await topic.track(other, "ben")

            tasks.start_soon(leave)
            await rooms.until_called("authorize", 5)
            topic.remove(other)
            await client.close()
            await rooms.until_called("close")
            going_on.set()
        assert conn.topics == ()
        assert len(rooms.topic("u")) == len(topic) == 0


async def test_a_topic_of_a_closed_connection_is_not_asked_about() -> None:
    rooms: Rooms = Rooms(authorize=lambda conn, action, topic: rooms.record("authorize"))
    async with running(rooms) as clients:
        client, conn = await rooms.connect(clients, topic=None)
        await client.close()
        await until(lambda: conn._driver is None)
        await conn.subscribe("t")
        assert not await conn.may("subscribe", "t")
        await conn.reauthorize()
        assert rooms.said("authorize") == []


# -- who decides -------------------------------------------------------------------------------------------------------


def saying(log: list[str], name: str, decision: bool | None) -> Callable[..., Any]:
    def authorize(conn: Connection, action: str, topic: str) -> bool | None:
        log.append(name)
        return decision if topic == name or topic == "all" else None

    return authorize


class Member(Recorder):
    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.authorize = saying(log, "component", False)


class Around(ComponentMiddleware):
    """Middleware that is asked with the copy for the connection."""

    log: list[str]

    def authorize(self, conn: Connection, action: str, topic: str) -> bool | None:
        assert isinstance(self.inner, MessageComponent)
        self.log.append("around")
        return False if topic == "around" else None


class Before(HandshakeMiddleware):
    log: list[str]

    def authorize(self, conn: Connection, action: str, topic: str) -> bool | None:
        self.log.append("before")
        return False if topic == "before" else None


async def test_the_most_specific_one_with_an_opinion_decides() -> None:
    log: list[str] = []
    member = Member(log)
    around = Around(member)
    around.log = log
    before = Before(around)
    before.log = log
    inner = App(port=0, authorize=saying(log, "inner app", False))
    inner.route("/member", before, authorize=saying(log, "route", False))
    rooms = Rooms(authorize=saying(log, "app", False))
    rooms.app.mount("/inner", inner)
    order = ["component", "around", "before", "route", "inner app", "app"]
    async with running(rooms) as clients:
        await clients.enter_async_context(rooms.server.client("/inner/member"))
        await member.until_called("open")
        (conn,) = member.conns
        for number, name in enumerate(order):
            log.clear()
            with pytest.raises(NotAuthorized):
                conn.subscribe(name.replace(" ", "-")) if " " not in name else conn.subscribe("all")
            assert log == order[: number + 1] if " " not in name else ["component"]
        log.clear()
        conn.subscribe("nothing")
        assert log == order


async def test_the_route_goes_before_the_app() -> None:
    rooms = Rooms(authorize=lambda conn, action, topic: False)
    rooms.app.route("/open", rooms, authorize=lambda conn, action, topic: True if topic == "t" else None)
    async with running(rooms) as clients:
        _, conn = await rooms.connect(clients, topic=None, path="/open")
        conn.subscribe("t")
        with pytest.raises(NotAuthorized):
            conn.subscribe("u")
        _, other = await rooms.connect(clients, topic=None)
        with pytest.raises(NotAuthorized):
            other.subscribe("t")


async def test_a_router_and_a_class_for_each_connection() -> None:
    class Own(Recorder):
        seen: list[MessageComponent] = []  # noqa: RUF012 - the instances of the test

        def on_open(self, conn: Connection) -> None:
            self.seen.append(self)
            self.conns.append(conn)

        async def authorize(self, conn: Connection, action: str, topic: str) -> bool | None:
            return False if topic == f"conn-{id(self)}" else None

    router = Router(authorize=answer)
    router.route("/own", Own)
    rooms = Rooms()
    rooms.app.mount("/at", router)
    async with running(rooms) as clients:
        for _ in range(2):
            await clients.enter_async_context(rooms.server.client("/at/own"))
        await until(lambda: len(Own.seen) == 2)
        one, two = Own.seen
        (conn,) = one.conns  # type: ignore[attr-defined]
        with pytest.raises(NotAuthorized):
            await conn.subscribe(f"conn-{id(one)}")
        await conn.subscribe(f"conn-{id(two)}")
        with pytest.raises(NotAuthorized):
            await conn.subscribe("no")


async def test_the_component_behind_a_first_message_is_asked() -> None:
    log: list[str] = []
    member = Member(log)
    rooms = Rooms()
    rooms.app.route("/later", FirstMessage(member, lambda token: token))
    async with running(rooms) as clients:
        client = await clients.enter_async_context(rooms.server.client("/later"))
        await client.send("ana")
        await member.until_called("open")
        with pytest.raises(NotAuthorized):
            member.conns[0].subscribe("component")


async def test_a_component_that_an_accept_names_is_asked() -> None:
    log: list[str] = []
    member = Member(log)

    class Naming(MessageComponent):
        def on_handshake(self, request: Request) -> Accept:
            return Accept(component=member)

        def authorize(self, conn: Connection, action: str, topic: str) -> bool:
            raise AssertionError("it has no connection")

    rooms = Rooms(authorize=saying(log, "app", False))
    rooms.app.route("/named", Naming())
    async with running(rooms) as clients:
        await clients.enter_async_context(rooms.server.client("/named"))
        await member.until_called("open")
        for name in ("component", "app"):
            with pytest.raises(NotAuthorized):
                member.conns[0].subscribe(name)
        assert log == ["component", "component", "app"]


async def test_true_of_a_component_goes_before_false_of_the_app() -> None:
    class Own(Rooms):
        def authorize(self, conn: Connection, action: str, topic: str) -> bool | None:
            return ANSWERS.get(topic)

    rooms = Own(authorize=lambda conn, action, topic: False)
    async with running(rooms) as clients:
        _, conn = await rooms.connect(clients, topic=None)
        conn.subscribe("yes")
        for name in ("no", "open", "other"):
            with pytest.raises(NotAuthorized):
                conn.subscribe(name)


# -- mistakes ----------------------------------------------------------------------------------------------------------


async def crash_later(conn: Connection, action: str, topic: str) -> bool:
    await anyio.lowlevel.checkpoint()
    raise LookupError("no such table")


def crash(conn: Connection, action: str, topic: str) -> bool:
    raise LookupError("no such table")


class AsyncErrors(Rooms):
    async def on_error(self, conn: Connection, exc: Exception) -> None:
        await anyio.lowlevel.checkpoint()
        super().on_error(conn, exc)


@pytest.mark.parametrize("kind", [Rooms, AsyncErrors], ids=["def on_error", "async on_error"])
@pytest.mark.parametrize("authorize", [crash, crash_later])
async def test_an_exception_refuses_and_is_reported(authorize: Any, kind: type[Rooms]) -> None:
    rooms = kind(authorize=authorize)
    async with running(rooms) as clients:
        _, conn = await rooms.connect(clients, topic=None)
        with pytest.raises(NotAuthorized):
            await conn.subscribe("t")
        await rooms.until_called("error")
        assert not await conn.may("publish", "t")
        await rooms.until_called("error", 2)
        assert not await conn.may("publish", "t")  # the answer was not remembered
        await rooms.until_called("error", 3)
        assert rooms.said("error") == [("error", "no such table")] * 3
        assert conn.is_open


async def test_by_default_an_exception_is_logged_and_closes_with_1011(caplog: pytest.LogCaptureFixture) -> None:
    class Plain(Recorder):
        def on_message(self, conn: Connection, message: Any) -> None:
            conn.subscribe(message)

    plain = Plain()
    app = App(port=0, authorize=crash)
    app.route("/", plain)
    rooms = Rooms()
    rooms.app = app
    async with running(rooms) as clients:
        client = await clients.enter_async_context(rooms.server.client())
        await client.send("t")
        opcode, payload = await client.receive()
        assert (opcode, payload) == (CLOSE, b"\x03\xf3internal error")
        await client.stream.send(close_frame(1011))
        await client.read_to_end()
        assert [record.getMessage().split(" for ")[0] for record in caplog.records if record.levelname == "ERROR"] == [
            "Plain failed"
        ]
        await plain.until_called("close")


@pytest.mark.parametrize("value", ["yes", 1, 0, [], NotAuthorized, "x" * 1000], ids="123456")
async def test_other_values_are_a_mistake(value: Any) -> None:
    async def later(conn: Connection, action: str, topic: str) -> Any:
        return value

    for authorize in (lambda conn, action, topic: value, later):
        rooms = Rooms(authorize=authorize)
        async with running(rooms) as clients:
            _, conn = await rooms.connect(clients, topic=None)
            with pytest.raises(NotAuthorized):
                await conn.subscribe("t")
            await rooms.until_called("error")
            ((_, text),) = rooms.said("error")
            assert text.endswith("is no decision: return True to allow, False to refuse, None for no opinion")
            assert "test_other_values" in text
            assert len(text) < 300


class Request2(Request):
    """A class, in place of a function."""


@pytest.mark.parametrize(
    ("authorize", "text"),
    [
        ("yes", "must be a function, not 'yes'"),
        (lambda conn, topic: True, r"must take \(conn, action, topic\)"),
        (Request2, r"not the class Request2: write Request2\(...\)"),
        (lambda conn, action, topic: (yield), "has a yield"),
    ],
    ids="1234",
)
def test_what_cannot_be_called_is_refused(authorize: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        App(authorize=authorize)
    with pytest.raises(ConfigurationError, match=text):
        App().route("/", Recorder(), authorize=authorize)
    kind = type("Own", (MessageComponent,), {"authorize": authorize})
    if not callable(authorize) or isinstance(authorize, type):
        with pytest.raises(ConfigurationError, match=r"Own\.authorize must be a method"):
            App().route("/", kind())


@pytest.mark.parametrize("name", ["authorise", "authorize_", "autorize", "on_authorize", "onAuthorize", "Authorize"])
def test_a_misspelt_authorize_is_refused(name: str) -> None:
    kind = type("Own", (MessageComponent,), {name: lambda self, conn, action, topic: False})
    with pytest.raises(ConfigurationError, match=f"Own.{name} is never called: did you mean authorize?"):
        App().route("/", kind())


async def test_a_call_from_another_thread() -> None:
    rooms = Rooms(authorize=answer)
    async with running(rooms) as clients:
        _, conn = await rooms.connect(clients, topic=None)
        for call in (lambda: conn.may("publish", "t"), conn.reauthorize):
            with pytest.raises(ConfigurationError, match="thread"):
                await anyio.to_thread.run_sync(call)
