"""The rules for every broker, as checks that run against a `Broker`.

    async def test_my_broker():
        await check_broker(lambda: MyBroker("my://localhost"))

With pytest, each check can be a test of its own:

    @pytest.mark.parametrize("check", BROKER_CHECKS.values(), ids=BROKER_CHECKS)
    async def test_my_broker(check):
        await check(lambda: MyBroker("my://localhost"))

Each check uses topics of its own, so the server may have other users. The checks run on any event loop that the broker
supports. The checks of the history pass for a broker without one (`Broker.keeps_history`).
"""

from __future__ import annotations

from contextlib import suppress

import anyio

from pywsapp.brokers.base import Outgoing
from pywsapp.testing.broker_history import HISTORY_CHECKS
from pywsapp.testing.broker_peers import PATIENCE, Check, MakeBroker, expect_nothing_else, peers, unique_topic
from pywsapp.testing.checks import recorder, run_checks
from pywsapp.topics.names import MAX_NAME_BYTES

#: Every check by its name, in the order of `check_broker`.
BROKER_CHECKS: dict[str, Check] = {}
_check = recorder(BROKER_CHECKS)


async def check_broker(make: MakeBroker) -> None:
    """Run all checks against a broker. This takes some seconds.

    Args:
        make: returns a Broker. It is called several times, and all its brokers must reach each other.

    Raises:
        AssertionError: the broker breaks a rule, or raises something else. The text begins with the rule.
    """
    await run_checks(BROKER_CHECKS, make, "the broker")


# -- publishing and subscribing --------------------------------------------------------------------------------------


@_check
async def every_subscriber_receives_a_message_exactly_once(make: MakeBroker) -> None:
    topic = unique_topic()
    async with peers(make, 3) as (one, two, three):
        for peer in (one, two, three):
            await peer.connection.subscribe([topic])
        await one.publish(topic, b"hello")
        for peer in (two, three):
            await peer.expect([(topic, b"hello")])
        await expect_nothing_else(topic, one, two, three)


@_check
async def a_publisher_receives_its_own_message_at_most_once(make: MakeBroker) -> None:
    topic = unique_topic()
    async with peers(make, 2) as (one, two):
        await one.connection.subscribe([topic])
        await one.publish(topic, b"hello")
        await two.publish(topic, b"the end")
        while (topic, b"the end", None) not in one.received:
            await one.wait_for(len(one.received) + 1)
        times = one.received.count((topic, b"hello", None))
        assert times <= 1, f"its own message arrived {times} times"


@_check
async def messages_from_before_a_subscription_do_not_arrive(make: MakeBroker) -> None:
    topic = unique_topic()
    async with peers(make, 2) as (one, two):
        await one.publish(topic, b"early")
        await two.connection.subscribe([topic])
        await expect_nothing_else(topic, one, two)


@_check
async def messages_of_other_topics_do_not_arrive(make: MakeBroker) -> None:
    base = unique_topic()
    others = [f"{base}x", f"{base}:x", base[:-1], base.upper(), base.replace(":", ".")]
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([base])
        for other in others:
            await one.publish(other, b"for another topic")
        await one.publish(base, b"for this topic")
        await two.expect([(base, b"for this topic")])


@_check
async def messages_of_a_publisher_arrive_in_its_order(make: MakeBroker) -> None:
    topic = unique_topic()
    messages = [b"%d" % number for number in range(1000)]
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([topic])
        for start in range(0, 1000, 250):
            await one.publish(topic, *messages[start : start + 250])
        await two.expect([(topic, message) for message in messages])


@_check
async def one_batch_can_have_messages_for_several_topics(make: MakeBroker) -> None:
    first, second = unique_topic("a"), unique_topic("b")
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([first, second])
        await one.connection.publish([Outgoing(first, b"1"), Outgoing(second, b"2"), Outgoing(first, b"3")])
        await two.wait_for(3)
        assert [data for topic, data, _ in two.received if topic == first] == [b"1", b"3"], (
            "the messages of a topic are not in order"
        )
        assert [data for topic, data, _ in two.received if topic == second] == [b"2"], "a message is missing"


@_check
async def a_topic_can_be_unsubscribed_and_subscribed_again(make: MakeBroker) -> None:
    topic, other = unique_topic(), unique_topic("other")
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([topic, other])
        await two.connection.unsubscribe([topic])
        await one.publish(topic, b"not subscribed")
        await expect_nothing_else(other, one, two)
        await two.connection.subscribe([topic])
        await one.publish(topic, b"subscribed")
        await two.expect([(topic, b"subscribed")])


@_check
async def hundreds_of_topics_can_be_subscribed_in_one_call(make: MakeBroker) -> None:
    base = unique_topic()
    topics = [f"{base}:{number}" for number in range(500)]
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe(topics)
        await one.connection.publish([Outgoing(topic, b"x") for topic in topics])
        await two.wait_for(len(topics))
        assert {topic for topic, _, _ in two.received} == set(topics), "messages of some topics are missing"
        await two.connection.unsubscribe(topics)


@_check
async def every_valid_topic_name_works(make: MakeBroker) -> None:
    base = unique_topic()
    names = [
        "#general",
        "c#",
        "a.b.c",
        "a:b.c",
        "a.b:c",
        "Zürich",
        "部屋:四十二",
        "[x]?",
        "$sys",
        "a>b",
        "100%",
        "a/b\\c",
    ]
    topics = [f"{base}:{name}" for name in names]
    topics.append(base + ":" + "x" * (MAX_NAME_BYTES - len(base) - 1))
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe(topics)
        for topic in topics:
            await one.publish(topic, topic.encode())
            await two.expect([(topic, topic.encode())])


@_check
async def every_byte_sequence_arrives_unchanged(make: MakeBroker) -> None:
    topic = unique_topic()
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([topic])
        messages = [b"", bytes(range(256)), b"\r\n$5\r\nhello\r\n"]
        await one.publish(topic, *messages)
        await two.expect([(topic, message) for message in messages])


@_check
async def a_message_of_max_size_bytes_arrives(make: MakeBroker) -> None:
    topic = unique_topic()
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([topic])
        message = b"x" * make().max_size
        await one.publish(topic, message)
        await two.expect([(topic, message)])


@_check
async def a_pattern_brings_each_matching_message_exactly_once(make: MakeBroker) -> None:
    base = unique_topic()
    below, deep, beside = f"{base}:a", f"{base}:b:c", f"{base}x:a"
    async with peers(make, 1, [f"{base}:*"]) as (two,), peers(make) as (one,):
        await two.connection.subscribe([below])
        await one.publish(below, b"1")
        await one.publish(beside, b"no")
        await one.publish(base, b"no")
        await one.publish(deep, b"2")
        await one.publish(below, b"3")
        await two.expect([(below, b"1"), (deep, b"2"), (below, b"3")])
        await two.connection.unsubscribe([below])
        await one.publish(below, b"4")
        await two.expect([(below, b"4")])


# -- the end of a connection -----------------------------------------------------------------------------------------


@_check
async def a_closed_connection_is_lost_and_receives_nothing(make: MakeBroker) -> None:
    topic = unique_topic()
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([topic])
        await two.connection.aclose()
        await two.connection.aclose()
        with anyio.move_on_after(PATIENCE) as scope, suppress(Exception):  # it may raise the reason
            await two.connection.wait_lost()
        assert not scope.cancelled_caught, "wait_lost does not return after aclose"
        try:
            with anyio.fail_after(PATIENCE):
                await two.publish(topic, b"x")
        except Exception:
            pass
        else:
            raise AssertionError("publish does not raise after aclose")
        await one.publish(topic, b"not subscribed")
        assert not two.received, "a message arrived after aclose"


BROKER_CHECKS.update(HISTORY_CHECKS)
