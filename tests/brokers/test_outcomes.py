"""A message that fails has for certain not been published, or its outcome is said to be unknown."""

from __future__ import annotations

import functools
from collections.abc import Awaitable

import anyio
import pytest
from support.serving import GUARD
from support.topic_bench import Bench, Inbox, failing, kept, relaying, taken, until

from pywsapp.brokers import relay as relay_module
from pywsapp.brokers.base import MIB, PartlyRefused
from pywsapp.brokers.relay import MAX_PENDING_BYTES, MAX_TRIES, Relay
from pywsapp.exceptions import BrokerUnavailable, OutcomeUnknown

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "FIRST_PAUSE_SECONDS", 0.002)
    monkeypatch.setattr(relay_module, "LONGEST_PAUSE_SECONDS", 0.02)


async def kind_of(acknowledgement: Awaitable[None]) -> type[BrokerUnavailable]:
    with anyio.fail_after(GUARD), pytest.raises(BrokerUnavailable) as caught:
        await acknowledgement
    return caught.type


async def test_only_what_was_on_its_way_is_unknown() -> None:
    broker, inbox = Bench(), Inbox()
    relay = Relay(broker, inbox)
    relay.subscribe("t")
    async with relaying(relay):
        broker.after["publish"] = anyio.Event().wait
        on_its_way = relay.publish("t", b"1")
        await until(lambda: inbox.data == [b"1"])
        queued = relay.publish("t", b"2")
        broker.after.clear()
        broker.available = False
        broker.disconnect()
        assert await kind_of(on_its_way) is OutcomeUnknown
        assert await kind_of(queued) is BrokerUnavailable
        assert await kind_of(relay.publish("t", b"3")) is BrokerUnavailable
        broker.available = True
        await until(lambda: relay.connection)
        await taken(relay.publish("t", b"4"))
        assert inbox.data == [b"1", b"4"]


async def test_a_kept_message_that_is_given_up_is_unknown() -> None:
    broker = Bench()
    relay = Relay(broker, Inbox())
    async with relaying(relay):
        broker.before["publish"] = failing(OSError("broken"))
        assert await kind_of(relay.publish("t", b"x", kept(1))) is OutcomeUnknown
        assert broker.calls.count("publish") == MAX_TRIES


@pytest.mark.parametrize("was_tried", [False, True])
async def test_a_message_that_waits_when_the_app_stops(was_tried: bool) -> None:
    broker = Bench()
    relay = Relay(broker, Inbox())
    async with relaying(relay):
        broker.available = False
        if was_tried:
            broker.before["publish"] = failing(OSError("broken"))
        else:
            broker.disconnect()
            await until(lambda: relay.connection is None)
        acknowledgement = relay.publish("t", b"x", kept(1))
        await until(lambda: relay.connection is None)
    assert await kind_of(acknowledgement) is (OutcomeUnknown if was_tried else BrokerUnavailable)


@pytest.mark.parametrize(("is_certain", "before"), [(True, 0), (True, 1), (False, 0)])
async def test_a_refused_message(is_certain: bool, before: int) -> None:
    broker = Bench()
    relay = Relay(broker, Inbox())

    async def refuse() -> None:
        if broker.calls.count("publish") <= before:
            raise OSError("broken")
        raise PartlyRefused({0: "no"}, is_certain=is_certain)

    async with relaying(relay):
        broker.before["publish"] = refuse
        is_known = is_certain and not before
        assert await kind_of(relay.publish("t", b"x", kept(1))) is (BrokerUnavailable if is_known else OutcomeUnknown)
        assert relay.stats[2:4] == (0, 1)


async def test_a_queued_message_can_be_withdrawn() -> None:
    broker, inbox = Bench(), Inbox()
    relay = Relay(broker, inbox)
    relay.subscribe("t")
    async with relaying(relay):
        broker.available = False
        broker.disconnect()
        await until(lambda: relay.connection is None)
        withdrawn = [relay.publish("t", bytes(4 * MIB), kept(number)) for number in range(4)]
        for acknowledgement in withdrawn:
            relay.withdraw(acknowledgement, "too late")
            assert await kind_of(acknowledgement) is BrokerUnavailable
        stays = [relay.publish("t", bytes(4 * MIB), kept(number)) for number in range(4, 8)]
        broker.available = True
        for acknowledgement in stays:
            await taken(acknowledgement)
        assert len(inbox.data) == 4
        relay.withdraw(stays[0], "too late")
        await taken(stays[0])  # it was published
        assert relay.stats[2:6] == (4, 4, 4, 0)


async def test_a_message_that_is_withdrawn_on_its_way_is_not_repeated() -> None:
    broker, inbox = Bench(), Inbox()
    relay = Relay(broker, inbox)
    relay.subscribe("t")
    async with relaying(relay):
        gate = anyio.Event()
        broker.before["publish"] = gate.wait
        acknowledgement = relay.publish("t", b"1", kept(1))
        await until(lambda: "publish" in broker.calls)
        relay.withdraw(acknowledgement, "too late")
        assert await kind_of(acknowledgement) is OutcomeUnknown
        broker.before.clear()
        broker.disconnect()
        await until(lambda: relay.stats.connects == 2)
        await taken(relay.publish("t", b"2", kept(2)))
        assert inbox.data == [b"2"]


def _has_connected(relay: Relay, times: int) -> bool:
    return relay.stats.connects == times


# -- the bytes of waiting messages -----------------------------------------------------------------------------------


async def test_messages_that_fail_with_their_connection_free_the_queue() -> None:
    broker = Bench()
    relay = Relay(broker, Inbox())
    async with relaying(relay):
        for connects in range(1, 4):
            broker.before["publish"] = anyio.Event().wait
            queued = [relay.publish("t", bytes(4 * MIB)) for _ in range(4)]
            await until(lambda: "publish" in broker.calls)
            broker.before.clear()
            broker.disconnect()
            kinds = [await kind_of(acknowledgement) for acknowledgement in queued]
            assert kinds == [OutcomeUnknown, *[BrokerUnavailable] * 3]  # a message of 4 MiB is a batch of its own
            assert relay.stats.pending == 0
            await until(functools.partial(_has_connected, relay, connects + 1))
            broker.calls.clear()
        assert MAX_PENDING_BYTES == 16 * MIB
        await taken(relay.publish("t", bytes(MAX_PENDING_BYTES)))
        assert (relay.stats.published, relay.stats.failed) == (1, 12)


async def test_kept_messages_count_as_often_as_they_wait() -> None:
    broker = Bench()
    relay = Relay(broker, Inbox())
    async with relaying(relay):
        broker.before["publish"] = failing(OSError("broken"), MAX_TRIES - 1)
        queued = [relay.publish("t", bytes(4 * MIB), kept(number)) for number in range(4)]
        await until(lambda: relay.stats.connects == MAX_TRIES)
        for acknowledgement in queued:
            await taken(acknowledgement)
        broker.available = False
        broker.disconnect()
        await until(lambda: relay.connection is None)
        relay.publish("t", bytes(16 * MIB), kept(5))
        assert await kind_of(relay.publish("t", b"x", kept(6))) is BrokerUnavailable, "the queue is full again"
