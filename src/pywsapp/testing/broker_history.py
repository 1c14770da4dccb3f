"""The rules for the histories of a broker; they pass for a broker without one (`Broker.keeps_history`)."""

from __future__ import annotations

import secrets

import anyio

from pywsapp.brokers.base import Keep, Outgoing, Position
from pywsapp.testing.broker_peers import PATIENCE, Check, MakeBroker, peers, unique_topic
from pywsapp.testing.checks import recorder

#: Every check of histories by its name.
HISTORY_CHECKS: dict[str, Check] = {}
_check = recorder(HISTORY_CHECKS)


@_check
async def a_history_numbers_messages_and_keeps_the_last_ones(make: MakeBroker) -> None:
    if not make().keeps_history:
        return
    topic, process = unique_topic(), secrets.token_hex(4)
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([topic])
        outgoing = [Outgoing(topic, b"%d" % n, Keep((process, n), 5, 60)) for n in range(1, 9)]
        await one.connection.publish(outgoing)
        await two.expect([(topic, b"%d" % n) for n in range(1, 9)])
        epoch = (await one.connection.read_history(topic, None)).position.epoch
        whole = await one.connection.read_history(topic, Position(epoch, 3))
        assert whole.position == (epoch, 8), f"the position after 8 messages is {whole.position}"
        assert list(whole.messages) == [(n, b"%d" % n) for n in range(4, 9)], (
            "read_history does not return all messages after a position"
        )
        assert whole.complete, "all messages after the position are kept, but `complete` is False"
        part = await one.connection.read_history(topic, Position(epoch, 2))
        assert not part.complete, "a message after the position is not kept any more, but `complete` is True"
        assert [offset for offset, _ in part.messages] == [4, 5, 6, 7, 8], (
            "read_history does not return the kept messages"
        )
        nothing = await one.connection.read_history(topic, whole.position)
        assert nothing.complete, "nothing was published after the position, but `complete` is False"
        assert not nothing.messages, "nothing was published after the position, but there are messages"
        for unknown in (Position("0000", 3), Position(epoch, 9)):
            assert not (await one.connection.read_history(topic, unknown)).complete, (
                f"the history never had the position {unknown}, but `complete` is True"
            )


@_check
async def the_position_of_a_topic_without_messages_is_before_its_first_message(make: MakeBroker) -> None:
    if not make().keeps_history:
        return
    topic, process = unique_topic(), secrets.token_hex(4)
    async with peers(make) as (one,):
        start = (await one.connection.read_history(topic, None)).position
        assert start.offset == 0, f"the offset of a new topic is {start.offset}, not 0"
        for number, expected in enumerate(([], [1], [1, 2], [2, 3])):
            if number:
                await one.connection.publish([Outgoing(topic, b"x", Keep((process, number), 2, 60))])
            kept = await one.connection.read_history(topic, start)
            found = [offset for offset, _ in kept.messages], kept.complete
            assert found == (expected, number < 3), f"after {number} messages the start of a topic has {found}"


@_check
async def a_history_can_be_read_in_parts(make: MakeBroker) -> None:
    if not make().keeps_history:
        return
    topic, process = unique_topic(), secrets.token_hex(4)
    async with peers(make) as (one,):
        keep = [Keep((process, n), 4, 60) for n in range(1, 6)]
        await one.connection.publish([Outgoing(topic, b"%d" % n * 10, keep[n - 1]) for n in range(1, 6)])
        epoch = (await one.connection.read_history(topic, None)).position.epoch
        for since, max_bytes, expected in ((1, 15, [2, 3]), (1, 20, [2, 3]), (2, 1, [3]), (4, 1000, [5]), (5, 1, [])):
            part = await one.connection.read_history(topic, Position(epoch, since), max_bytes)
            offsets = [offset for offset, _ in part.messages]
            assert offsets == expected, f"{max_bytes} bytes after offset {since} are {offsets}, not {expected}"
            assert part.position == (epoch, 5), f"the position of a part is {part.position}, not that of the history"
            assert part.complete, "no message is missing before the end of the part, but `complete` is False"
        part = await one.connection.read_history(topic, Position(epoch, 0), 15)
        assert not part.complete, "a message before the part is not kept any more, but `complete` is True"


@_check
async def messages_that_a_history_keeps_arrive_with_their_positions(make: MakeBroker) -> None:
    if not make().keeps_history:
        return
    topic, process = unique_topic(), secrets.token_hex(4)
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([topic])
        await one.connection.publish([Outgoing(topic, b"x", Keep((process, n), 10, 60)) for n in range(1, 4)])
        await two.expect([(topic, b"x")] * 3)
        await one.connection.publish([Outgoing(topic, b"y", Keep((process, n), 10, 60)) for n in range(4, 6)])
        await one.publish(topic, b"plain")
        await two.wait_for(3)
        positions = [position for _, _, position in two.received]
        epoch = (await one.connection.read_history(topic, None)).position.epoch
        assert positions == [(epoch, 4), (epoch, 5), None], f"the positions are {positions}"


@_check
async def messages_that_a_history_keeps_also_arrive_at_their_publisher_in_order(make: MakeBroker) -> None:
    if not make().keeps_history:
        return
    topic = unique_topic()
    async with peers(make, 2) as (one, two):
        await one.connection.subscribe([topic])
        for number in (1, 2, 3):
            for peer, letter in ((one, b"one"), (two, b"two")):
                keep = Keep((letter.decode(), number), 10, 60)
                await peer.connection.publish([Outgoing(topic, b"%s %d" % (letter, number), keep)])
        await one.wait_for(6)
        epoch = (await one.connection.read_history(topic, None)).position.epoch
        texts = [b"one 1", b"two 1", b"one 2", b"two 2", b"one 3", b"two 3"]
        expected = [(topic, data, Position(epoch, offset)) for offset, data in enumerate(texts, 1)]
        assert one.received == expected, f"received {one.received} instead of {expected}"


@_check
async def a_history_ignores_a_message_that_it_has_already(make: MakeBroker) -> None:
    if not make().keeps_history:
        return
    topic, process, other = unique_topic(), secrets.token_hex(4), secrets.token_hex(4)
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([topic])
        for name, number in ((process, 1), (process, 2), (process, 2), (process, 1), (other, 1), (process, 3)):
            await one.connection.publish([Outgoing(topic, b"%d" % number, Keep((name, number), 10, 60))])
        await two.expect([(topic, b"1"), (topic, b"2"), (topic, b"1"), (topic, b"3")])
        assert (await one.connection.read_history(topic, None)).position.offset == 4, "a repeated message got an offset"


@_check
async def a_history_keeps_a_message_with_an_id_of_its_own_once(make: MakeBroker) -> None:
    if not make().keeps_history:
        return
    topic, one_id, other_id, process = unique_topic(), *(secrets.token_hex(4) for _ in range(3))
    async with peers(make, 2) as (one, two):
        await two.connection.subscribe([topic])
        for name, number in ((one_id, 0), (process, 1), (other_id, 0), (one_id, 0), (process, 2), (other_id, 0)):
            await one.connection.publish([Outgoing(topic, b"%d" % number, Keep((name, number), 10, 60))])
        await two.expect([(topic, b"0"), (topic, b"1"), (topic, b"0"), (topic, b"2")])
        assert (await one.connection.read_history(topic, None)).position.offset == 4, "a repeated message got an offset"


@_check
async def the_messages_of_a_history_expire(make: MakeBroker) -> None:
    if not make().keeps_history:
        return
    topic, process = unique_topic(), secrets.token_hex(4)
    async with peers(make) as (one,):
        await one.connection.publish([Outgoing(topic, b"%d" % n, Keep((process, n), 10, 0.3)) for n in (1, 2, 3)])
        position = (await one.connection.read_history(topic, None)).position
        deadline = anyio.current_time() + PATIENCE
        while (await one.connection.read_history(topic, Position(position.epoch, 1))).messages:
            assert anyio.current_time() < deadline, "the messages do not expire"
        kept = await one.connection.read_history(topic, Position(position.epoch, 1))
        assert not kept.complete, "messages after the position have expired, but `complete` is True"
        assert (await one.connection.read_history(topic, position)).complete, (
            "nothing was published after the position, but `complete` is False"
        )
