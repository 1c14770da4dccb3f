"""Histories in Redis: they behave like those in memory, and detect that they can have lost messages."""

from __future__ import annotations

import re
import secrets

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.crc import key_slot
from support.services import Redis, redis_server
from support.serving import GUARD

from pywsapp.brokers.base import BrokerConnection, Keep, Kept, Outgoing, Position
from pywsapp.brokers.redis import broker_from_url
from pywsapp.brokers.redis.history import MAX_PUBLISHERS, UNUSED_SECONDS, decode_payload, payload_of
from pywsapp.brokers.redis.names import RedisNames
from pywsapp.brokers.relay import Relay
from pywsapp.exceptions import TopicError
from pywsapp.testing.broker_peers import peers, unique_topic
from pywsapp.topics.history.memory_store import REMEMBERED, MemoryHistory
from pywsapp.topics.names import RESERVED, check_name


def keys(topic: str) -> tuple[str, str]:
    return f"pywsapp:{{{topic}}}:messages", f"pywsapp:{{{topic}}}:meta"


# -- payloads and names ----------------------------------------------------------------------------------------------


@given(st.binary())
def test_a_payload_without_a_position_can_be_decoded(data: bytes) -> None:
    assert decode_payload(payload_of(data)) == (data, None)


@given(st.from_regex(r"[0-9a-f]{8}", fullmatch=True), st.integers(1, 10**15 - 1), st.binary())  # 15 digits at most
def test_a_payload_with_a_position_can_be_decoded(epoch: str, offset: int, data: bytes) -> None:
    position = Position(epoch, offset)
    assert decode_payload(b"\0%s %s" % (str(position).encode(), data)) == (data, position)


@given(st.from_regex(rb"\0[0-9]{0,3}-?[0-9a-f]{0,70}[ -]?.{0,3}", fullmatch=True))
def test_decoding_any_payload_raises_nothing(payload: bytes) -> None:
    data, position = decode_payload(payload)
    assert payload.endswith(data)
    if position is not None:
        head = payload.removesuffix(data)
        assert (int(head[1:].partition(b"-")[0]), head[-1:]) == (position.offset, b" ")


def is_name(text: str) -> bool:
    try:
        check_name(text)
    except TopicError:
        return False
    return True


topic_names = st.one_of(st.text(min_size=1), st.text("{}\\ab:", min_size=1)).filter(is_name)


@given(topic_names, topic_names, st.booleans())
def test_names_are_distinct_and_reversible(one: str, other: str, sharded: bool) -> None:
    names = RedisNames("pywsapp:", sharded=sharded)
    assert names.topic(names.channel(one)) == one
    assert (
        (names.channel(one) == names.channel(other))
        == (one == other)
        == (names.key_prefix(one) == names.key_prefix(other))
    )


@given(topic_names)
def test_the_channel_and_the_keys_of_a_topic_are_in_one_slot(topic: str) -> None:
    names = RedisNames("pywsapp:", sharded=True)
    found = [names.channel(topic), *(f"{names.key_prefix(topic)}:{end}".encode() for end in ("messages", "meta"))]
    assert len({key_slot(name) for name in found}) == 1


# -- compared with the history in memory -----------------------------------------------------------------------------

publishing = st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.integers(1, 4), st.binary(max_size=3))
reading = st.one_of(st.none(), st.integers(0, 12))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(publishing, reading), max_size=25))
def test_it_behaves_like_the_history_in_memory(
    redis: Redis, steps: list[tuple[str, int, int, bytes] | int | None]
) -> None:
    async def compare() -> None:
        topic, memory = unique_topic(), MemoryHistory(lambda: 0.0)
        async with peers(lambda: broker_from_url(redis.url)) as (peer,):
            starts = memory.read(topic, None).position, (await peer.connection.read_history(topic, None)).position
            for step in steps:
                if isinstance(step, tuple):
                    publisher, count, size, data = step
                    keep = Keep((publisher, count), size, 60)
                    memory.append(topic, data, keep)
                    await peer.connection.publish([Outgoing(topic, data, keep)])
                    continue
                heres = memory.read(topic, None).position, (await peer.connection.read_history(topic, None)).position
                sinces = [starts] if step is None else [tuple(here._replace(offset=step) for here in heres), starts]
                for since_here, since_there in [(None, None), *sinces]:
                    expected = memory.read(topic, since_here)
                    found = await peer.connection.read_history(topic, since_there)
                    assert found == Kept(Position(found.position.epoch, expected.position.offset), *expected[1:])
                    assert found.position.epoch == heres[1].epoch or not found.position.offset

    anyio.run(compare)


# -- on a real server ------------------------------------------------------------------------------------------------


def outgoing(topic: str, first: int, last: int, publisher: str = "me", seconds: float = 60) -> list[Outgoing]:
    return [Outgoing(topic, b"%d" % number, Keep((publisher, number), 100, seconds)) for number in range(first, last)]


@pytest.mark.anyio
async def test_a_restart_begins_a_new_epoch() -> None:
    topic = unique_topic()
    with redis_server("--appendonly", "yes", "--appendfsync", "always") as redis:
        async with peers(lambda: broker_from_url(redis.url)) as (peer,):
            await peer.connection.publish(outgoing(topic, 1, 4))
            before = (await peer.connection.read_history(topic, None)).position
        redis.kill()
        redis.start()
        async with peers(lambda: broker_from_url(redis.url), 2) as (peer, other):
            kept = await peer.connection.read_history(topic, before)
            after = kept.position
            assert after.epoch != before.epoch
            assert kept == Kept(Position(after.epoch, 3), (), False)
            await other.connection.publish(outgoing(topic, 3, 5))  # it has message 3 already
            new = ((4, b"4"),)
            assert await other.connection.read_history(topic, before) == Kept(Position(after.epoch, 4), new, False)
            assert await other.connection.read_history(topic, after) == Kept(Position(after.epoch, 4), new, True)
            all_of_it = await other.connection.read_history(topic, Position(after.epoch, 0))
            assert [data for _, data in all_of_it.messages] == [b"1", b"2", b"3", b"4"]


@pytest.mark.anyio
async def test_a_durable_server_continues_the_epoch_after_a_restart() -> None:
    topic = unique_topic()
    with redis_server("--appendonly", "yes", "--appendfsync", "always") as redis:
        async with peers(lambda: broker_from_url(f"{redis.url}?durable=1")) as (peer,):
            await peer.connection.publish(outgoing(topic, 1, 4))
            before = (await peer.connection.read_history(topic, None)).position
        redis.kill()
        redis.start()
        async with peers(lambda: broker_from_url(f"{redis.url}?durable=1")) as (peer,):
            await peer.connection.publish(outgoing(topic, 4, 5))
            kept = await peer.connection.read_history(topic, before)
            assert kept == Kept(Position(before.epoch, 4), ((4, b"4"),), True)


@pytest.mark.anyio
async def test_each_message_is_kept_once_over_restarts() -> None:
    topic, number, restarts = unique_topic(), 0, 4
    connected = anyio.Event()

    async def note_connect(connection: BrokerConnection) -> None:
        connected.set()

    def publish(messages: int) -> None:
        nonlocal number
        for _ in range(messages):
            number += 1
            relay.publish(topic, b"%d" % number, Keep(("me", number), 10_000, 60))

    with redis_server("--appendonly", "yes", "--appendfsync", "always") as redis:
        relay = Relay(broker_from_url(redis.url), lambda *message: None, on_connect=note_connect)
        async with anyio.create_task_group() as tasks:
            await tasks.start(relay.run)
            for turns in range(restarts):
                connected = anyio.Event()
                publish(1000)
                for _ in range(3 * turns):  # stop before, during or after the sending of batches
                    await anyio.lowlevel.checkpoint()
                redis.kill()
                redis.start()
                publish(500)
                with anyio.fail_after(GUARD):
                    await connected.wait()
            with anyio.fail_after(GUARD):
                await relay.flush()
            assert relay.stats.connects == restarts + 1
            assert relay.stats.failed == 0
            tasks.cancel_scope.cancel()
        async with peers(lambda: broker_from_url(redis.url)) as (reader,):
            position = (await reader.connection.read_history(topic, None)).position
            kept = await reader.connection.read_history(topic, Position(position.epoch, 0))
    assert kept.messages == tuple((count, b"%d" % count) for count in range(1, number + 1))


#: Places in what Redis has written of the last message, where a kill can end it: see `redis.history`.
CUTS = [b"XADD", b"HSET", b"PEXPIREAT", b"EXEC"]


@pytest.mark.anyio
@pytest.mark.parametrize("place", CUTS, ids=[place.decode() for place in CUTS])
async def test_a_kill_while_the_server_writes_repeats_and_loses_nothing(place: bytes) -> None:
    topic = unique_topic()
    with redis_server("--appendonly", "yes", "--appendfsync", "always") as redis:

        async def publish(publisher: str, number: int) -> None:
            async with peers(lambda: broker_from_url(redis.url)) as (peer,):
                data = f"{publisher} {number}".encode()
                await peer.connection.publish([Outgoing(topic, data, Keep((publisher, number), 100, 60))])

        for number in (1, 2, 3):
            await publish("me", number)
        redis.kill()
        (file,) = redis.directory.glob("appendonlydir/*.incr.aof")
        written = file.read_bytes()
        file.write_bytes(written[: written.index(place, written.rindex(b"MULTI")) + 2])
        redis.start()
        await publish("you", 1)  # gets the offset of the message that the kill has cut
        for number in (2, 3, 3):
            redis.kill()
            redis.start()
            await publish("me", number)
        async with peers(lambda: broker_from_url(redis.url)) as (peer,):
            epoch = (await peer.connection.read_history(topic, None)).position.epoch
            for max_bytes in (None, 1000):
                kept = await peer.connection.read_history(topic, Position(epoch, 0), max_bytes)
                assert kept.messages == ((1, b"me 1"), (2, b"me 2"), (3, b"you 1"), (4, b"me 3"))
            assert (await peer.connection.read_history(topic, Position(epoch, 2), 1)).messages == ((3, b"you 1"),)


@pytest.mark.anyio
@pytest.mark.parametrize("place", [b"HSET", b"PEXPIREAT"], ids=["HSET", "PEXPIREAT"])
async def test_a_kill_and_a_clock_that_goes_back_repeat_nothing(place: bytes) -> None:
    """What the kill has left of a message has a later time than the message that was published again."""
    topic = unique_topic()
    with redis_server("--appendonly", "yes", "--appendfsync", "always") as redis:

        async def publish(number: int) -> None:
            async with peers(lambda: broker_from_url(redis.url)) as (peer,):
                await peer.connection.publish([Outgoing(topic, b"%d" % number, Keep(("me", number), 100, 60))])

        for number in (1, 2, 3):
            await publish(number)
        redis.kill()
        (file,) = redis.directory.glob("appendonlydir/*.incr.aof")
        written = file.read_bytes()
        last = written.rindex(b"MULTI")
        part = written[last : written.index(place, last) + 2]
        later = re.sub(rb"\b(3-|3 )([0-9]{13})", lambda found: b"%b%d" % (found[1], int(found[2]) + 10_000), part)
        assert later != part
        file.write_bytes(written[:last] + later)
        redis.start()
        await publish(3)
        redis.kill()
        redis.start()
        await publish(3)
        await publish(4)
        async with peers(lambda: broker_from_url(redis.url)) as (peer,):
            epoch = (await peer.connection.read_history(topic, None)).position.epoch
            kept = await peer.connection.read_history(topic, Position(epoch, 0))
    assert kept.messages == ((1, b"1"), (2, b"2"), (3, b"3"), (4, b"4"))


@pytest.mark.anyio
async def test_keys_expire(redis: Redis) -> None:
    topic, other, reserved = unique_topic(), unique_topic(), f"{RESERVED}{unique_topic()}"
    async with peers(lambda: broker_from_url(redis.url)) as (peer,):
        await peer.connection.publish(outgoing(topic, 1, 3, seconds=50) + outgoing(reserved, 1, 2, seconds=50))
        await peer.connection.publish(outgoing(other, 1, 2, seconds=1000))
    metas = [(topic, UNUSED_SECONDS + 60), (reserved, 50 * REMEMBERED), (other, 1000 * REMEMBERED)]
    for key, seconds in [(keys(topic)[0], 50), *((keys(name)[1], seconds) for name, seconds in metas)]:
        assert (seconds - GUARD) * 1000 < int(redis.ask("PTTL", key)[1:]) <= seconds * 1000


@pytest.mark.anyio
async def test_reading_creates_nothing(redis: Redis) -> None:
    before = redis.ask("DBSIZE")
    async with peers(lambda: broker_from_url(redis.url)) as (peer,):
        for _ in range(20):
            topic = unique_topic()
            start = (await peer.connection.read_history(topic, None)).position
            assert str(Position.parse(str(start))) == str(start)
            again = await peer.connection.read_history(topic, start)
            assert again == Kept(again.position, (), True)
            assert not (await peer.connection.read_history(topic, Position("0000", 3))).complete
        assert redis.ask("DBSIZE") == before
        await peer.connection.publish(outgoing(topic, 1, 3))
        kept = await peer.connection.read_history(topic, start)
        assert (kept.messages, kept.complete) == (((1, b"1"), (2, b"2")), True)
        assert not (await peer.connection.read_history(topic, start._replace(offset=1))).complete


@pytest.mark.anyio
async def test_the_position_of_an_unused_topic_is_valid_for_a_limited_time(redis: Redis) -> None:
    topic = unique_topic()
    async with peers(lambda: broker_from_url(redis.url)) as (peer,):
        start = (await peer.connection.read_history(topic, None)).position
        moment, tag = start.epoch[1:].split("x")
        for age, is_complete in [(UNUSED_SECONDS - 2 * GUARD, True), (UNUSED_SECONDS, False), (-2 * GUARD, False)]:
            since = Position(f"z{int(moment) - age}x{tag}", 0)
            assert (await peer.connection.read_history(topic, since)).complete is is_complete
        await peer.connection.publish([Outgoing(topic, b"x", Keep(("me", 1), 100, 0.001))])
        with anyio.fail_after(GUARD):
            while (await peer.connection.read_history(topic, start)).messages:
                pass
        assert not (await peer.connection.read_history(topic, start)).complete


@pytest.mark.anyio
async def test_the_position_of_an_unused_topic_ends_when_keys_are_evicted_and_with_the_server() -> None:
    topic = unique_topic()
    with redis_server("--appendonly", "yes", "--appendfsync", "always") as redis:
        positions = []
        durable = f"{redis.url}?durable=1"
        for broker in (broker_from_url(redis.url), broker_from_url(durable)):
            connection = await broker.connect(lambda *message: None, [])
            positions.append((await connection.read_history(topic, None)).position)
            await connection.aclose()
        redis.kill()
        redis.start()
        async with peers(lambda: broker_from_url(redis.url)) as (peer,):
            assert not (await peer.connection.read_history(topic, positions[0])).complete
            start = (await peer.connection.read_history(topic, None)).position
        async with peers(lambda: broker_from_url(durable)) as (peer,):
            assert (await peer.connection.read_history(topic, positions[1])).complete
        async with peers(lambda: broker_from_url(redis.url)) as (peer,):
            await peer.connection.publish(outgoing(topic, 1, 2))
            assert (await peer.connection.read_history(topic, start)).complete
            assert redis.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-random") == "+OK"
            assert redis.ask("CONFIG", "SET", "maxmemory", "1") == "+OK"
            with anyio.fail_after(GUARD):
                while redis.ask("DBSIZE") != ":0":
                    await anyio.lowlevel.checkpoint()
            assert redis.ask("CONFIG", "SET", "maxmemory", "0") == "+OK"
            assert not (await peer.connection.read_history(topic, start)).complete


@pytest.mark.anyio
async def test_the_number_of_known_publishers_is_bounded(redis: Redis) -> None:
    topic = unique_topic()
    async with peers(lambda: broker_from_url(redis.url)) as (peer,):
        server = Outgoing(topic, b"x", Keep(("server", 1), 10, 60))
        many = [Outgoing(topic, b"x", Keep((f"p{number}", 1), 10, 60)) for number in range(1500)]
        ids = [Outgoing(topic, b"x", Keep((f"p{number}", 0), 10, 60)) for number in range(3000)]
        await peer.connection.publish([*many, server, *ids])
        assert int(redis.ask("HLEN", keys(topic)[1])[1:]) <= 2 * MAX_PUBLISHERS + 4
        # The latest publishers and ids are known, so these are ignored. Many ids do not displace publishers.
        await peer.connection.publish([*ids[-400:], *many[-400:], server])
        assert (await peer.connection.read_history(topic, None)).position.offset == 4501


@pytest.mark.anyio
async def test_the_server_can_flush_scripts_and_evict_keys(redis: Redis) -> None:
    topic = unique_topic()
    messages, meta = keys(topic)
    async with peers(lambda: broker_from_url(redis.url)) as (peer,):
        await peer.connection.publish(outgoing(topic, 1, 6))
        assert redis.ask("SCRIPT", "FLUSH") == "+OK"
        await peer.connection.publish(outgoing(topic, 6, 11))
        kept = await peer.connection.read_history(topic, None)
        assert kept.position.offset == 10
        assert redis.ask("DEL", messages) == ":1"
        assert not (await peer.connection.read_history(topic, Position(kept.position.epoch, 9))).complete
        assert redis.ask("DEL", meta) == ":1"
        await peer.connection.publish(outgoing(topic, 11, 12))
        assert not (await peer.connection.read_history(topic, kept.position)).complete


@pytest.mark.anyio
async def test_a_key_of_another_type_fails_for_its_topic_only(redis: Redis) -> None:
    topic, other = unique_topic(), unique_topic()
    assert redis.ask("SET", keys(topic)[1], "x") == "+OK"
    async with peers(lambda: broker_from_url(redis.url)) as (peer,):
        await peer.connection.subscribe([other])
        with pytest.raises(Exception, match="WRONGTYPE"):
            await peer.connection.publish([*outgoing(topic, 1, 2), Outgoing(other, b"x")])
        await peer.expect([(other, b"x")])
        await peer.publish(other, b"y")
        await peer.expect([(other, b"y")])


@pytest.mark.anyio
async def test_any_position_of_a_client_can_be_read(redis: Redis) -> None:
    topic = unique_topic()
    async with peers(lambda: broker_from_url(redis.url)) as (peer,):
        await peer.connection.publish(outgoing(topic, 1, 3))
        epoch = (await peer.connection.read_history(topic, None)).position.epoch
        for since in [Position(epoch, 10**50), Position(epoch, 2**53), Position(secrets.token_hex(20), 1)]:
            kept = await peer.connection.read_history(topic, since)
            assert (len(kept.messages), kept.complete) == (2, False)
