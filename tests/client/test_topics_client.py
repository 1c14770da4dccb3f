"""What a client of topics does while its connection is open."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from support.serving import GUARD
from support.topics_server import Rooms, serving_topics
from support.waiting import until_blocked

from pywsapp import (
    CallError,
    CallTimeout,
    ConfigurationError,
    ConnectionClosed,
    InvalidMessage,
    PresenceDiff,
    QueueFull,
    TopicsClient,
    connect_topics,
)
from pywsapp.codecs import CborCodec, Codec, JsonCodec, MessagePackCodec

pytestmark = pytest.mark.anyio
both_codecs = pytest.mark.parametrize("codec", [JsonCodec(), MessagePackCodec()], ids=["json", "msgpack"])


async def settled(topics: TopicsClient) -> None:
    """Wait until the client has handled everything that the server has sent so far."""
    await topics.call("add", {"a": 1, "b": 1})


@both_codecs
async def test_the_way_of_a_message(codec: Codec) -> None:
    async with serving_topics() as server, server.client(codec=codec) as ana, server.client() as ben:
        assert (ana.state, ana.reason, ana.user) == ("open", None, None)
        assert ana.id not in (None, ben.id)
        async with ana.subscribe("room:1") as subscription:
            for data in ("text", 5, 1.5, True, [1, "2", None], {}, {"n": {"é": None}}, b"\0\xff"):
                await ben.publish("room:1", data)
                message = await subscription.receive(timeout=GUARD)
                assert (message.topic, message.data) == ("room:1", data)
                assert message.position == subscription.position
        with pytest.raises(ConnectionClosed, match="the subscription to 'room:1' is over"):
            await subscription.receive()
        assert [one async for one in subscription] == []
    assert (ana.state, ana.reason) == ("closed", None)


async def test_a_topic_without_a_history_has_no_positions() -> None:
    async with serving_topics() as server, server.client() as topics, topics.subscribe("news") as subscription:
        await topics.publish("news", 1)
        assert (await subscription.receive()).position is None
        assert subscription.position is None


async def test_calls_and_what_is_sent_to_this_client_alone() -> None:
    async with serving_topics() as server, server.client() as topics, server.client() as other:
        assert await topics.call("add", {"a": 1, "b": 2}) == 3
        assert await topics.call("add", {"a": 1, "b": 2}, result_type=int) == 3
        with pytest.raises(InvalidMessage, match=r"\$\.result"):
            await topics.call("add", {"a": 1, "b": 2}, result_type=str)
        for method, params, code in (("add", {"a": "x"}, "invalid_params"), ("subtract", None, "unknown_method")):
            with pytest.raises(CallError) as failed:
                await topics.call(method, params)
            assert failed.value.code == code
        async with topics.messages() as messages, other.messages() as others:
            await topics.call("greet")
            assert await anext(messages) == {"hello": "you"}
        assert [message async for message in others] == []


async def test_what_the_server_refuses() -> None:
    async with serving_topics() as server, server.client() as topics:
        with pytest.raises(CallError, match="say something else") as failed:
            await topics.publish("news", "refuse")
        assert failed.value.code == "impolite"
        for topic, options, code in (
            ("closed:1", {}, "not_allowed"),
            ("", {}, "invalid_topic"),
            ("news", {"presence": True}, "no_presence"),
            ("news", {"since": None}, "no_history"),
            ("room:1", {"since": "nonsense"}, "invalid_position"),
            ("room:1", {"filter": {"price": [1]}}, "filter_not_allowed"),
        ):
            with pytest.raises(CallError) as failed:
                async with topics.subscribe(topic, **options):
                    pass
            assert failed.value.code == code
        async with topics.subscribe("room:1"):  # it can be subscribed after a refusal
            pass


async def test_the_server_ends_a_subscription() -> None:
    async with serving_topics() as server, server.client() as topics, topics.subscribe("room:1") as subscription:
        await topics.publish("room:1", 1)
        server.app.topic("room:1").remove(next(iter(server.rooms.connections)))
        assert (await subscription.receive()).data == 1
        for _ in range(2):
            with pytest.raises(CallError) as ended:
                await subscription.receive()
            assert ended.value.code == "not_allowed"
        assert not subscription.is_subscribed


async def test_a_topic_can_be_left_and_subscribed_again_at_once() -> None:
    async with serving_topics() as server, server.client() as topics:
        for _ in range(20):
            async with topics.subscribe("room:1", since=None):
                pass
        async with topics.subscribe("room:1") as subscription:
            await topics.publish("room:1", "once")
            await settled(topics)
            assert (await subscription.receive()).data == "once"
            with pytest.raises(TimeoutError):
                await subscription.receive(timeout=0)


async def test_the_server_filters_and_keeps_only_the_newest() -> None:
    async with (
        serving_topics() as server,
        server.client() as topics,
        topics.subscribe("room:1", filter={"kind": ["tea", 1]}, newest="kind") as subscription,
    ):
        for kind in ("tea", "milk", 1, True):
            await topics.publish("room:1", {"kind": kind})
        assert [(await subscription.receive()).data for _ in range(2)] == [{"kind": "tea"}, {"kind": 1}]
        await settled(topics)
        with pytest.raises(TimeoutError):
            await subscription.receive(timeout=0)


# -- presence ----------------------------------------------------------------------------------------------------------


async def test_presence() -> None:
    async with serving_topics() as server, server.client() as ana, server.client() as ben:
        async with ana.subscribe("room:1", presence=True, track={"name": "Ana"}) as subscription:
            assert (ana.id, ben.id) != (None, None)
            changes = subscription.presence_changes()
            assert await anext(changes) == PresenceDiff(joined={ana.id: {"name": "Ana"}})  # type: ignore[dict-item]
            async with ben.subscribe("room:1", track="Ben") as of_ben:
                assert await anext(changes) == PresenceDiff(joined={ben.id: "Ben"})  # type: ignore[dict-item]
                assert subscription.present == {ana.id: {"name": "Ana"}, ben.id: "Ben"}
                await of_ben.track("Benjamin")
                assert await anext(changes) == PresenceDiff(changed={ben.id: ("Ben", "Benjamin")})  # type: ignore[dict-item]
                await of_ben.untrack()
                assert await anext(changes) == PresenceDiff(left={ben.id: "Benjamin"})  # type: ignore[dict-item]
            with pytest.raises(TypeError):
                subscription.present["cy"] = 1  # type: ignore[index]
        assert [change async for change in changes] == []
        async with ana.subscribe("room:2") as subscription:
            with pytest.raises(ConfigurationError, match="presence=True"):
                await anext(subscription.presence_changes())


async def test_a_change_of_meta_that_the_server_refuses_is_forgotten() -> None:
    async with (
        serving_topics() as server,
        server.client() as topics,
        topics.subscribe("room:1", presence=True, track=1) as subscription,
    ):
        with pytest.raises(CallError):
            await subscription.track("x" * 5000)
        server.rooms.drop_all()
        await topics.publish("room:1", 1)
        await subscription.receive()
        await settled(topics)
        assert list(subscription.present.values()) == [1]


# -- bounds and mistakes -----------------------------------------------------------------------------------------------


async def test_a_slow_program_gets_a_clear_error_and_can_go_on_from_its_position() -> None:
    async with serving_topics() as server, server.client() as topics:
        async with topics.subscribe("room:1", buffer=3) as subscription:
            for number in range(1, 7):
                await topics.publish("room:1", number)
            await settled(topics)
            assert [(await subscription.receive()).data for _ in range(3)] == [1, 2, 3]
            with pytest.raises(QueueFull, match="too slow"):
                await subscription.receive()
        async with topics.subscribe("room:1", since=subscription.position) as subscription:
            assert [(await subscription.receive()).data for _ in range(3)] == [4, 5, 6]


async def test_a_position_is_that_of_what_the_program_has_taken() -> None:
    async with serving_topics() as server, server.client() as topics:
        async with topics.subscribe("room:1") as subscription:
            positions = [subscription.position]
            for number in range(3):
                await topics.publish("room:1", number)
            await settled(topics)
            assert subscription.position == positions[0]
            messages = [await subscription.receive() for _ in range(2)]
            assert subscription.position == messages[1].position
        async with topics.subscribe("room:1", since=subscription.position) as again:
            assert (await again.receive()).data == 2


async def test_too_many_requests_wait() -> None:
    outcomes: list[str] = []

    async with serving_topics() as server, server.client(max_queue=2, max_queue_bytes=1000) as topics:

        async def publish(data: str) -> None:
            try:
                await topics.publish("room:1", data)
            except QueueFull as exc:
                outcomes.append(str(exc))
            else:
                outcomes.append("published")

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(publish, "x")
        assert outcomes == ["2 requests wait for the server already"] * 3 + ["published"] * 2
        await publish("x" * 1000)
        assert "has no space: 0 of 1000 bytes wait already" in outcomes[-1]


async def test_there_is_no_reply_in_time() -> None:
    released = anyio.Event()

    class Slow(Rooms):
        async def on_publish(self, conn: Any, topic: Any, message: Any) -> Any:
            await released.wait()

    async with serving_topics(Slow()) as server, server.client() as topics:
        with pytest.raises(CallTimeout, match=r"within 0\.05 seconds"):
            await topics.publish("room:1", 1, timeout=0.05)
        assert topics._driver._client.requests._waiting == topics._driver._current._replies == {}  # type: ignore[union-attr]
        released.set()


async def test_typed_data() -> None:
    @dataclass
    class Order:
        kind: str
        count: int = 1

    async with (
        serving_topics() as server,
        server.client() as topics,
        topics.subscribe("room:1", message_type=Order) as subscription,
    ):
        await topics.publish("room:1", Order("tea", 2))
        assert (await subscription.receive()).data == Order("tea", 2)
        await topics.publish("room:1", {"kind": 1})
        await topics.publish("room:1", {"kind": "milk"})
        with pytest.raises(InvalidMessage, match=r"\$\.data\.kind"):
            await subscription.receive()
        assert (await subscription.receive()).data == Order("milk")


async def test_mistakes() -> None:
    for arguments, text in (
        ({"codec": CborCodec()}, "codec must be JsonCodec"),
        ({"codec": JsonCodec}, "codec must be JsonCodec"),
        ({"subprotocols": ["a"]}, "a subprotocol of its own"),
        ({"token": 5}, "token must be"),
        ({"max_queue": 0}, "max_queue must be"),
        ({"backoff": 5}, "backoff must be"),
    ):
        with pytest.raises(ConfigurationError, match=text):
            connect_topics("ws://localhost/live", **arguments)
    with pytest.raises(ConfigurationError, match="URL"):
        connect_topics("http://localhost/live")
    unused = connect_topics("ws://localhost/live")
    with pytest.raises(ConfigurationError, match="async with connect_topics"):
        await unused.publish("a", 1)
    async with serving_topics() as server, server.client() as topics:
        with pytest.raises(ConfigurationError, match="cannot be None"):
            await topics.publish("room:1", None)
        with pytest.raises(TypeError):
            await topics.publish("room:1", object())
        with pytest.raises(TypeError):
            topics.subscribe("room:1", track=object())
        with pytest.raises(ConfigurationError, match="whole number"):
            topics.subscribe("room:1", buffer=0)
        async with topics.subscribe("room:1") as subscription:
            with pytest.raises(ConfigurationError, match="has a subscription to 'room:1' already"):
                async with topics.subscribe("room:1"):
                    pass
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anext, subscription)
                await until_blocked()
                with pytest.raises(ConfigurationError, match="two tasks receive"):
                    await subscription.receive()
                await topics.publish("room:1", 1)
        with pytest.raises(ConfigurationError, match="was used before"):
            await topics.__aenter__()


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_an_exception_of_the_block_is_raised_as_it_is() -> None:
    async with serving_topics() as server:
        with pytest.raises(ZeroDivisionError):
            async with server.client() as topics, topics.subscribe("room:1"):
                1 / 0  # noqa: B018
        assert topics.state == "closed"
        await until_blocked()
        assert server.rooms.connections == set()


async def test_a_cancelled_block_aborts_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with serving_topics() as server:
        topics = server.client()
        with anyio.move_on_after(0.05):
            async with topics, topics.subscribe("room:1"):
                await anyio.sleep_forever()
        assert topics.state == "closed"
    assert caplog.records == []


async def test_the_end_of_the_client_ends_what_waits_in_other_tasks() -> None:
    ended: list[str] = []
    subscribed = anyio.Event()

    async def receive(topics: TopicsClient) -> None:
        async with topics.subscribe("room:1", presence=True) as subscription:
            subscribed.set()
            async for _ in subscription:
                pass
            async for _ in subscription.presence_changes():
                pass
            ended.append("subscription")

    async def follow(topics: TopicsClient) -> None:
        ended.extend([state async for state in topics.states()])

    async with serving_topics() as server, anyio.create_task_group() as tasks:
        async with server.client() as topics:
            tasks.start_soon(receive, topics)
            tasks.start_soon(follow, topics)
            await subscribed.wait()
            await until_blocked()
        await until_blocked()
        assert sorted(ended) == ["closed", "open", "subscription"]
        for attempt in (topics.publish("room:1", 1), topics.call("add"), topics.subscribe("a").__aenter__()):
            with pytest.raises(ConnectionClosed, match="the client is closed"):
                await attempt
