"""Programs that can write to a broker and send it anything: no connection is lost, and good messages still arrive.

The tests of `decode_envelope`, of signed topics, presence and users have what single envelopes can contain. Here the
same goes through real servers and their client libraries, with names and properties that these libraries cannot decode.
"""

from __future__ import annotations

import functools
import logging
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import anyio
import anyio.to_thread
import pytest
from support.hostile_publishers import send_to_nats, short_text, table, to_nats, to_rabbitmq, to_redis
from support.outages import NO_PINGS, relay_stats
from support.services import Nats, Rabbit, Redis, nats_server
from support.topic_rooms import Rooms, expect, running

from pywsapp.brokers.base import Broker
from pywsapp.brokers.envelope import Envelope, EnvelopeNumbers, encode_envelope
from pywsapp.brokers.nats import NatsBroker
from pywsapp.brokers.rabbitmq import RabbitBroker
from pywsapp.brokers.redis.broker import RedisBroker

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

KEY = b"a key that all processes share"
NUMBERS = EnvelopeNumbers()
TOPIC = "room:1"
#: Flags of properties of AMQP.
_CONTENT_TYPE, _HEADERS, _TIMESTAMP = 0x8000, 0x2000, 0x40
_LAST_TIME = struct.pack(">Q", 2**63 - 1)
#: An integer that Python converts to seconds of a date, and a key with bytes that are not UTF-8.
PROPERTIES = [
    struct.pack(">HQ", _TIMESTAMP, 2**63 - 1),
    struct.pack(">H", _CONTENT_TYPE) + short_text(b"\xff\xff"),
    struct.pack(">H", _HEADERS) + table(short_text(b"\xff\xff"), b"t\1"),
    struct.pack(">H", _HEADERS) + table(short_text(b"a"), b"T", _LAST_TIME),
    struct.pack(">H", _HEADERS)
    + functools.reduce(lambda inner, _: table(short_text(b"a"), b"F", inner), range(2000), table()),
]
NATS_OPERATIONS = [
    b"PUB pywsapp.room.\xff\xfe 5\r\nhello\r\n",
    b"PUB pywsapp.room.a\x0bb 5\r\nhello\r\n",
    b"PUB pywsapp.room.a\x0c7 5\r\nhello\r\n",
    b"PUB pywsapp.room.\0 5\r\nhello\r\n",
    b"PUB pywsapp.room.1 \xff 5\r\nhello\r\n",
    b"PUB pywsapp.room.1 a\x0bb 5\r\nhello\r\n",
    b"HPUB pywsapp.room.1 4 9\r\nNATShello\r\n",
    b"HPUB pywsapp.room.1 30 35\r\nNATS/1.0\r\n" + b"\xff" * 16 + b"\r\n\r\nhello\r\n",
    b"HPUB pywsapp.room.1 20 25\r\nNATS/1.0 \xff\xff\xff\xff\xff\xff\xff\r\n\r\nhello\r\n",
]


def signed(text: str, number: int | None = None, topic: str = TOPIC) -> bytes:
    return encode_envelope(Envelope(topic, text, "friend", number=number or next(NUMBERS)), KEY)


GOOD = signed("good")
FORGED = encode_envelope(Envelope(TOPIC, "forged", "friend", number=2**52))
ENVELOPES = [
    b"",
    b"\0",
    b"\0 0-a {}",
    b"\0" + b"9" * 100 + b"-a {}",
    b"\xff" * 100,
    GOOD[:-5],
    GOOD[5:],
    GOOD[:65] + FORGED,
    FORGED,
    b"[" * 100_000,
    b'{"v":1,"topic":"room:1","text":"' + b"x" * 500_000 + b'"}',
    encode_envelope(Envelope(TOPIC, "forged", "friend", number=2**52), b"another key"),
    signed("forged", topic="room:2"),
]
RESERVED: list[tuple[str, dict[str, Any]]] = [
    ("$pywsapp:alive", {"presence": "bye", "of": "friend"}),
    ("$pywsapp:users", {"users": "disconnect", "key": "ana", "code": 4000, "reason": ""}),
    ("$pywsapp:users", {"users": "send", "key": "ana", "text": "forged"}),
]


def messages() -> list[tuple[bytes, bytes]]:
    """Return hostile messages with their topics, one replayed, and a good message at the end."""
    once = signed("once")
    hostile = [(TOPIC.encode(), data) for data in (*ENVELOPES, once, once, once)]
    hostile += [(b"room:" + name, b"{}") for name in (b"\xc2\x80", b"x" * 150, b"1:a")]
    for topic, event in RESERVED:
        hostile.append((topic.encode(), encode_envelope(Envelope(topic, None, "friend", event))))
    return [*hostile, (TOPIC.encode(), signed("last"))]


@pytest.fixture(scope="module")
def nats() -> Iterator[Nats]:
    with nats_server() as server:
        yield server


async def check(broker: Broker, attack: Any, received: Sequence[str], caplog: pytest.LogCaptureFixture) -> None:
    """Attack a broker while an app uses it."""
    rooms = Rooms(broker, broker_key=KEY, options=NO_PINGS)
    heard: list[Any] = []
    rooms.app.on_broadcast("room:*")(lambda topic, message: heard.append(message))
    rooms.app.on_presence("room:*")(lambda topic, diff: None)
    with caplog.at_level(logging.INFO):
        async with running(rooms) as clients:
            client, conn = await rooms.connect(clients, TOPIC)
            connects = relay_stats(rooms.app).connects
            await anyio.to_thread.run_sync(attack)
            await expect(client, *received)
            assert heard == list(received)
            assert conn.is_open
            stats = rooms.app.topics.stats
            assert relay_stats(rooms.app).connected
            assert relay_stats(rooms.app).connects == connects == 1
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert stats.dropped >= 5
    assert len(warnings) <= stats.dropped.bit_length(), "at 1, 2, 4, 8, ..."
    assert all(record.exc_info is None and len(record.getMessage()) < 500 for record in warnings)


async def test_redis(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    names = [b"room:\xff\xfe", b"room:" + b"x" * 100_000, b"room:\r\n", b"room:"]

    def attack() -> None:
        to_redis(redis, *((name, b"{}") for name in names), *messages())

    await check(RedisBroker(redis.url), attack, ["once", "last"], caplog)


async def test_nats(nats: Nats, caplog: pytest.LogCaptureFixture) -> None:
    def attack() -> None:
        send_to_nats(nats, *NATS_OPERATIONS)
        to_nats(nats, *messages())

    await check(NatsBroker(nats.url), attack, ["once", "last"], caplog)


async def test_rabbitmq(rabbit: Rabbit, caplog: pytest.LogCaptureFixture) -> None:
    def attack() -> None:
        to_rabbitmq(rabbit, (b"room:\xff\xfe", b"{}"))
        for properties in PROPERTIES:
            to_rabbitmq(rabbit, (b"room:1", b"{}"), properties=properties)
        to_rabbitmq(rabbit, *messages())

    await check(RabbitBroker(rabbit.url), attack, ["once", "last"], caplog)
