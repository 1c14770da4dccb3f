"""What programs that can write to the broker can send about users: only what a process could have sent is applied."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.topic_bench import Bench, until
from support.topic_rooms import expect, running
from support.user_rooms import Members

from pywsapp import AsyncPublisher, TopicError
from pywsapp.auth import Authenticated
from pywsapp.brokers.base import Position
from pywsapp.brokers.envelope import Envelope, EnvelopeError, EnvelopeNumbers, encode_envelope
from pywsapp.topics.users.events import (
    USERS_TOPIC,
    Answer,
    Ask,
    Disconnect,
    Parsed,
    Reauthorize,
    Send,
    event_of,
    parse_event,
)

pytestmark = pytest.mark.anyio

KEY = b"a key that all processes share"
NUMBERS = EnvelopeNumbers()
SEND = {"users": "send", "key": "ana", "text": "hello"}
DISCONNECT = {"users": "disconnect", "key": "ana", "code": 4401, "reason": "why"}

NAMES = ['a"b', "a\\b", "a\nb", "é", "\u2028", "😀", "x" * 5000, "\ud800", "a:*b"]

INVALID: list[dict[str, Any]] = [
    {},
    {"users": None},
    {"users": ["send"]},
    {"users": "ban", "key": "ana"},
    {"presence": "bye"},
    {**SEND, "key": ""},
    {**SEND, "key": 7},
    {**SEND, "text": 7},
    {**SEND, "text": None},
    {**SEND, "text": "half a surrogate pair: \ud800"},
    {**SEND, "base64": "eA=="},
    {"users": "send", "key": "ana"},
    {"users": "send", "key": "ana", "base64": "x"},
    {"users": "send", "key": "ana", "base64": "é"},
    {"users": "send", "key": "ana", "base64": 7},
    {"users": "send", "text": "x"},
    {**DISCONNECT, "code": 1005},
    {**DISCONNECT, "code": "4401"},
    {**DISCONNECT, "code": True},
    {**DISCONNECT, "code": 4401.0},
    {**DISCONNECT, "reason": "x" * 124},
    {**DISCONNECT, "reason": None},
    {**DISCONNECT, "reason": "\ud800"},
    {**DISCONNECT, "key": ["ana"]},
    {"users": "reauthorize"},
    {"users": "reauthorize", "key": ""},
    {"users": "reauthorize", "key": None},
    {"users": "ask", "key": "ana"},
    {"users": "ask", "key": "ana", "number": 0},
    {"users": "ask", "key": "ana", "number": 2**53 + 1},
    {"users": "ask", "number": 1},
    {"users": "answer", "to": "x", "number": 1, "connections": 0},
    {"users": "answer", "to": "x", "number": 1, "connections": 10**6 + 1},
    {"users": "answer", "to": "x", "number": True, "connections": 1},
    {"users": "answer", "to": None, "number": 1, "connections": 1},
]


@pytest.mark.parametrize("number", range(len(INVALID)))
def test_invalid_events(number: int) -> None:
    with pytest.raises(EnvelopeError):
        parse_event(INVALID[number])


@given(
    st.one_of(
        st.builds(Send, st.text(min_size=1), st.text() | st.binary()),
        st.builds(Disconnect, st.text(min_size=1), st.integers(3000, 4999), st.text(max_size=30)),
        st.builds(Reauthorize, st.text(min_size=1)),
        st.builds(Ask, st.text(min_size=1), st.integers(1, 2**53)),
        st.builds(Answer, st.text(min_size=1), st.integers(1, 2**53), st.integers(1, 10**6)),
    )
)
def test_what_a_process_sends_is_understood(parsed: Parsed) -> None:
    assert parse_event(event_of(parsed)) == parsed


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
FIELDS = st.sampled_from(["key", "text", "base64", "code", "reason", "number", "connections", "to"])


@given(st.sampled_from(["send", "disconnect", "reauthorize", "ask", "answer", "x"]), st.dictionaries(FIELDS, JSON))
def test_any_event_is_parsed_or_refused(kind: str, fields: dict[str, Any]) -> None:
    try:
        parsed = parse_event({"users": kind, **fields})
    except EnvelopeError:
        return
    assert parse_event(event_of(parsed)) == parsed


def deliver(broker: Bench, data: bytes, position: Position | None = None, topic: str = USERS_TOPIC) -> None:
    for connection in list(broker.connections):
        connection.deliver(topic, data, position)


def envelope(event: Any, key: bytes | None = None, number: int | None = None, **fields: Any) -> bytes:
    number = 0 if key is None else number or next(NUMBERS)
    return encode_envelope(Envelope(USERS_TOPIC, None, "another", event, number=number, **fields), key)


async def test_hostile_envelopes_are_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    broker = Bench()
    members = Members(broker)
    hostile = [
        *(envelope(event) for event in INVALID),
        b"",
        b"{}",
        b"[" * 100_000,
        b"\x80" * 100,
        encode_envelope(Envelope(USERS_TOPIC, "the message of an application", "another")),
        encode_envelope(Envelope("t", None, "another", SEND)),
    ]
    async with running(members) as clients:
        client, conn = await members.enter(clients)
        for number, data in enumerate(hostile, 1):
            deliver(broker, data)
            deliver(broker, data, Position("a", number))
            assert members.app.topics.stats.dropped == 2 * number
        deliver(broker, envelope({"users": "ask", "key": "ana", "number": 1}))
        deliver(
            broker, envelope({"users": "answer", "to": members.app.topics.codec.origin, "number": 9, "connections": 1})
        )
        deliver(broker, envelope(SEND), topic="$pywsapp:alive")  # nobody listens there
        assert members.app.topics.stats.dropped == 2 * len(hostile)
        deliver(broker, envelope(SEND))
        await expect(client, "hello")
        assert conn.is_open
    assert not any(record.exc_info for record in caplog.records), "a traceback is for defects of the library"


async def test_with_a_key_only_processes_that_have_it_are_heard() -> None:
    broker = Bench()
    members = Members(broker, broker_key=KEY)
    good = envelope({**SEND, "text": "signed"}, KEY)
    async with running(members) as clients:
        client, conn = await members.enter(clients)
        deliver(broker, good)
        await expect(client, "signed")
        for data in (envelope(SEND), envelope(DISCONNECT), envelope(DISCONNECT, b"another key"), good):
            deliver(broker, data)
        assert members.app.topics.stats.dropped == 4, "the last one was received before"
        assert conn.is_open
        deliver(broker, envelope(DISCONNECT, KEY))
        assert not conn.is_open
        assert (conn.close_code, conn.close_reason) == (4401, "why")


async def test_messages_for_users_of_other_processes_are_not_decoded() -> None:
    broker = Bench()
    members = Members(broker, broker_key=KEY)
    async with running(members) as clients:
        await members.enter(clients)
        assert members.user().connections
        for name, dropped in (("ben", 0), ("ana", 1), ("ben", 1), ("anai", 1), ("an", 1), ("", 2), ('ana"', 3)):
            deliver(broker, envelope({**SEND, "key": name}, b"another key"))
            assert members.app.topics.stats.dropped == dropped, name


@pytest.mark.parametrize("number", range(len(NAMES)))
async def test_any_text_can_be_a_key(number: int) -> None:
    broker, key = Bench(), NAMES[number]
    one, two = (Members(broker, authenticate=lambda request: Authenticated("x", subject=key)) for _ in range(2))
    async with running(one, two) as clients:
        client, _ = await two.enter(clients)
        for text in ("first", "second"):
            await one.user(key).send(text)
            await expect(client, text)
        assert await one.user(key).count(seconds=0.1) == 1
        await one.user(key).disconnect()
        assert await client.close() == 3503


async def test_answers_to_no_question_are_ignored() -> None:
    broker = Bench()
    members = Members(broker)
    async with running(members) as clients:
        await members.enter(clients)
        service, origin = members.app.topics.users, members.app.topics.codec.origin
        answers = service._answers[7] = {}
        for sender in range(1100):
            event = {"users": "answer", "to": origin, "number": 7, "connections": 2}
            deliver(broker, encode_envelope(Envelope(USERS_TOPIC, None, f"process {sender}", event)))
            deliver(
                broker,
                encode_envelope(
                    Envelope(USERS_TOPIC, None, f"process {sender}", {**event, "to": "x", "connections": 9})
                ),
            )
            deliver(broker, encode_envelope(Envelope(USERS_TOPIC, None, f"process {sender}", {**event, "number": 8})))
        assert len(answers) == 1000
        assert set(answers.values()) == {2}
        assert list(service._answers) == [7]


async def test_listeners_and_components_do_not_get_them() -> None:
    broker = Bench()
    one, two = Members(broker), Members(broker)
    heard: list[Any] = []
    for members in (one, two):
        members.app.on_broadcast("*")(lambda topic, message: heard.append(message))
        members.app.on_presence("*")(lambda topic, diff: heard.append(diff))
    async with running(one, two) as clients:
        client, conn = await two.enter(clients)
        await one.user().send("x")
        assert await one.user().count() == 1
        await expect(client, "x")
        assert conn.topics == ()
        await one.user().disconnect()
        assert await client.close() == 3503
        await two.until_called("close")
        assert two.names() == ["open", "close"]
        assert heard == []


async def test_clients_and_publishers_cannot_send_them() -> None:
    broker = Bench()
    one, two = Members(broker), Members(broker)
    async with running(one, two) as clients:
        client, conn = await one.enter(clients, "ben")
        for command in (f"join {USERS_TOPIC}", f"leave {USERS_TOPIC}", f"say {USERS_TOPIC} hello"):
            await client.send(command)
        await one.until(lambda: len(one.said("error")) == 3)
        assert all("reserved" in call[1] for call in one.said("error"))
        with pytest.raises(TopicError, match="reserved"):
            conn.subscribe(USERS_TOPIC)
        async with AsyncPublisher(broker) as publisher:
            with pytest.raises(TopicError, match="reserved"):
                await publisher.publish(USERS_TOPIC, "x")
        assert broker.batches == []


async def test_binary_messages_travel_as_base64() -> None:
    broker = Bench()
    one, two = Members(broker), Members(broker)
    async with running(one, two) as clients:
        client, _ = await two.enter(clients)
        await one.user().send(bytes(range(256)))
        await expect(client, bytes(range(256)))
        await until(lambda: broker.batches)
        assert base64.b64encode(bytes(range(256))) in broker.batches[0][0].data
