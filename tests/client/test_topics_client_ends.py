"""How a client of topics ends, and what does not wait forever or grow without a bound."""

from __future__ import annotations

import contextlib
from typing import Any

import anyio
import pytest
from support.serving import GUARD
from support.topics_server import Rooms, Script, send, serving_topics
from support.waiting import until_blocked

from pywsapp import (
    CallError,
    CallTimeout,
    ConfigurationError,
    Connection,
    ConnectionClosed,
    Options,
    QueueFull,
    TopicSubscription,
    connect_topics,
)
from pywsapp._connecting.topics import subscription as subscription_module
from pywsapp._connecting.topics.requests import RequestQueue, WaitingRequest

pytestmark = pytest.mark.anyio


async def test_a_client_that_is_closed_gets_no_more_messages() -> None:
    async with serving_topics() as server, server.client() as topics:
        await topics.close()
        with pytest.raises(ConnectionClosed, match="the client is closed"):
            async with topics.messages() as messages:
                await anext(messages)


async def test_a_pause_can_be_ended_before_it_begins() -> None:
    async with serving_topics() as server, connect_topics(server.url) as topics:
        topics._driver._rules._uniform = lambda low, high: 1000
        states = topics.states()
        assert await anext(states) == "open"
        server.rooms.drop_all()
        assert await anext(states) == "waiting"
        topics.reconnect()
        while await anext(states) != "open":
            pass


async def test_a_pause_is_ended_once() -> None:
    async with serving_topics() as server, connect_topics(server.url) as topics:
        topics.reconnect()  # while it is open: without an effect
        topics._driver._rules._uniform = lambda low, high: 1000
        states = topics.states()
        assert await anext(states) == "open"
        server.rooms.drop_all()
        assert await anext(states) == "waiting"
        await until_blocked()
        assert topics.state == "waiting"


async def test_a_close_that_is_cancelled_does_not_wait_for_the_server() -> None:
    release = anyio.Event()

    class Busy(Rooms):
        async def on_call(self, conn: Connection, method: str, params: Any) -> None:
            await release.wait()

    options = Options(close_timeout=3 * GUARD)
    async with serving_topics(Busy(), options=Options(max_queue=1)) as server:
        async with server.client(options=options) as topics:
            for _ in range(4):
                with pytest.raises(CallTimeout):
                    await topics.call("block", timeout=0.01)
            with anyio.move_on_after(0.05) as scope:
                await topics.close()
            assert scope.cancelled_caught
            assert anyio.current_time() < scope.deadline + GUARD
        release.set()


async def test_a_token_function_whose_own_connection_is_lost() -> None:
    def token() -> str:
        raise ConnectionClosed("the login server has gone")

    async with serving_topics() as server:
        with pytest.raises(ConnectionClosed, match="the login server has gone"):
            async with server.client(token=token):
                pass


async def test_no_exception_and_no_repr_has_a_secret() -> None:
    """Error trackers show the `repr` of the variables of each frame."""
    client = connect_topics("ws://a/?hidden=1", token="hidden", headers={"Authorization": "hidden"})
    state = client._make_driver()._client
    assert "hidden" not in f"{client!r} {state!r} {state.arguments!r} {state.requests!r}"
    assert state.secret not in repr(state)
    token: Any = b"hidden"
    with pytest.raises(ConfigurationError, match="not bytes"):
        connect_topics("ws://a", token=token)


# -- requests ----------------------------------------------------------------------------------------------------------


def request(number: int, *, can_repeat: bool = False) -> WaitingRequest:
    return WaitingRequest(number, "x", can_repeat=can_repeat)


async def test_requests_that_time_out_without_a_connection_leave_nothing() -> None:
    requests = RequestQueue(10, 1000)
    for number in range(3):
        with pytest.raises(CallTimeout):
            await requests.ask(request(number), 0)
    assert not requests._unsent


async def test_a_reply_counts_more_than_the_end_of_the_connection() -> None:
    requests, replies = RequestQueue(10, 1000), list[Any]()

    async def ask(waiting: WaitingRequest) -> None:
        replies.append(await requests.ask(waiting, None))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, request(1))
        await requests.wait()
        taken = requests.take()
        assert taken is not None
        taken.resolve({"id": 1})
        requests.disconnected(ConnectionClosed("lost"))
        requests.end(ConnectionClosed("closed"))
    assert replies == [{"id": 1}]


# -- subscriptions -----------------------------------------------------------------------------------------------------


async def test_a_topic_without_a_form_does_no_harm() -> None:
    async with serving_topics() as server, server.client() as topics:
        with pytest.raises(ValueError, match="surrogate"):
            async with topics.subscribe("room:\ud800"):
                pass
        server.rooms.drop_all()
        await topics.publish("room:1", "over the next connection")
        assert (topics.state, server.rooms.opened) == ("open", 2)


async def test_a_filter_with_a_text_in_place_of_a_list() -> None:
    async with serving_topics() as server, server.client() as topics:
        with pytest.raises(ConfigurationError, match=r"filter.*list.*'tea'"):
            topics.subscribe("room:1", filter={"kind": "tea"})


async def test_a_history_that_is_larger_than_the_buffer() -> None:
    async with serving_topics() as server, server.client() as topics:
        for number in range(5):
            await topics.publish("room:1", number)
        since, received = None, list[int]()
        while len(received) < 5:
            async with topics.subscribe("room:1", since=since, buffer=2) as subscription:
                with contextlib.suppress(QueueFull, TimeoutError):
                    while True:
                        received.append((await subscription.receive(timeout=0)).data)
                since = subscription.position
        assert received == [0, 1, 2, 3, 4]


async def test_a_subscription_that_is_over_is_not_present() -> None:
    async with serving_topics() as server, server.client() as topics:
        async with topics.subscribe("room:1", track=1) as subscription:
            pass
        for change in (subscription.track(2), subscription.untrack()):
            with pytest.raises(ConnectionClosed, match="the subscription to 'room:1' is over"):
                await change


async def test_a_refused_meta_does_not_replace_a_later_one() -> None:
    bad: list[int] = []  # the id of the request, whose reply comes after the next one

    def answer(conn: Connection, fields: dict[str, Any]) -> object:
        if fields.get("meta") == "bad":
            bad.append(fields["id"])
            return "answered"
        if fields["type"] in ("track", "untrack"):
            send(conn, {"type": "error", "id": bad.pop(), "code": "impolite", "message": "no"})
        return None

    async def refused(subscription: TopicSubscription[Any]) -> None:
        with pytest.raises(CallError, match="impolite"):
            await subscription.track("bad")

    async with serving_topics(Script(answer)) as server, server.client() as topics:
        for change, expected in (("track", "later"), ("untrack", None)):
            async with topics.subscribe("t", track="first") as subscription:
                later = subscription.track("later") if change == "track" else subscription.untrack()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(refused, subscription)
                    await until_blocked()
                    await later
                server.rooms.connections[-1].abort()
                await topics.publish("t", 1)
            asked = [fields for fields in server.rooms.got if fields["type"] == "subscribe"]
            assert asked[-1].get("track") == expected


async def test_a_full_queue_and_a_position_that_the_server_refuses() -> None:
    """A subscription that ends while it subscribes again does not stay on the server."""

    def answer(conn: Connection, fields: dict[str, Any]) -> object:
        if fields["type"] != "subscribe":
            return None
        if "since" in fields:
            send(conn, {"type": "error", "id": fields["id"], "code": "invalid_position", "message": "no"})
        else:
            send(conn, {"type": "ok", "id": fields["id"], "topic": "t", "position": "5-a"})
            send(conn, {"type": "message", "topic": "t", "position": "6-a", "data": 1})
        return "answered"

    async with (
        serving_topics(Script(answer)) as server,
        server.client() as topics,
        topics.subscribe("t", buffer=1) as subscription,
    ):
        await topics.call("any")
        server.rooms.connections[0].abort()
        while not any(fields["type"] == "unsubscribe" for fields in server.rooms.got):
            await topics.publish("t", 1)
        assert (await subscription.receive()).data == 1
        with pytest.raises(QueueFull):
            await subscription.receive()
        await topics.publish("t", 1)
        kinds = [fields["type"] for fields in server.rooms.got if "subscribe" in fields["type"]]
        assert kinds == ["subscribe", "subscribe", "unsubscribe"]


@pytest.mark.parametrize(
    "user",
    [{"name": "u", "meta": 0}, {"name": "u" * 1000, "meta": 0}, {"name": "u", "meta": ["x" * 1000]}],
    ids=["users", "names", "values"],
)
async def test_present_users_that_take_too_much_memory(user: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that makes users up ends the subscription, and does not fill the memory."""
    most = 10_000
    monkeypatch.setattr(subscription_module, "MAX_PRESENT_BYTES", most)

    def answer(conn: Connection, fields: dict[str, Any]) -> None:
        if fields["type"] == "call":
            send(conn, {"type": "presence", "topic": "t", **fields["params"]})

    async with (
        serving_topics(Script(answer)) as server,
        server.client() as topics,
        topics.subscribe("t", presence=True) as subscription,
    ):
        for number in range(100):  # users who change, or leave, take no more than before
            name = f"{user['name']}{number}"
            await topics.call("change", {"joined": {name: user["meta"]}})
            await topics.call("change", {"changed": {name: user["meta"]}})
            await topics.call("change", {"left": [name, "nobody"]})
        assert subscription.present == {}
        assert subscription._present_bytes == 0
        for number in range(most // 400):
            await topics.call("change", {"joined": {f"{user['name']}{number}": user["meta"]}})
            if subscription._queue.has_ended:
                break
        with pytest.raises(QueueFull, match="take more than 10,000 bytes"):
            await subscription.receive()
        taken = sum(len(key) + len(repr(meta)) for key, meta in subscription.present.items())
        assert 0 < taken < most
        assert topics.state == "open"
