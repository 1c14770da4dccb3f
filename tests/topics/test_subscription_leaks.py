"""After any joins and leaves the broker has exactly the subscriptions of open connections, and none at the end.

The names differ in case, in the form of Unicode, or by one character only, so that a table that compares them in
another way than the broker leaves a subscription behind.
"""

from __future__ import annotations

import random

import pytest
from support.topic_bench import Bench, until
from support.topic_rooms import Rooms, running

pytestmark = pytest.mark.anyio

NAMES = ["room:1", "Room:1", "ROOM:1", "room:1.", "room:11", "caf\u00e9", "cafe\u0301", "CAF\u00c9", "ß", "ss"]


@pytest.mark.parametrize("seed", range(3))
async def test_any_joins_and_leaves_end_without_a_subscription(seed: int) -> None:
    generator, broker = random.Random(seed), Bench()
    rooms = Rooms(broker)
    async with running(rooms) as clients:
        conns = [(await rooms.connect(clients, None))[1] for _ in range(6)]
        wanted: dict[str, set[int]] = {name: set() for name in NAMES}
        for step in range(150):
            number, name = generator.randrange(len(conns)), generator.choice(NAMES)
            if number in wanted[name]:
                rooms.topic(name).remove(conns[number])
                wanted[name].discard(number)
            else:
                rooms.topic(name).add(conns[number])
                wanted[name].add(number)
            if step % 10 == 0:
                expected = {name for name, numbers in wanted.items() if numbers}
                await until(lambda: broker.subscribed == expected)  # noqa: B023 - it is called in this turn only
        for number, conn in enumerate(conns):
            if number % 2:
                conn.abort()
            else:
                for topic in conn.topics:
                    topic.remove(conn)
        await until(lambda: broker.subscribed == set())
        assert not rooms.app.topics.subscribed
        assert rooms.app.topics.relay is not None
        assert not rooms.app.topics.relay._wanted
