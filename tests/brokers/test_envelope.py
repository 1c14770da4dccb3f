"""Envelopes are decoded as they were encoded, and anything else is refused."""

from __future__ import annotations

import hmac
import json
import sys
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywsapp.brokers.base import Position
from pywsapp.brokers.envelope import (
    MAX_ORIGIN,
    Envelope,
    EnvelopeError,
    EnvelopeNumbers,
    decode_envelope,
    encode_envelope,
    keys_of,
)
from pywsapp.exceptions import ConfigurationError, TopicError

KEY = b"a shared key"
TOPIC = "room:42"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
ORIGINS = st.text(st.characters(exclude_categories=["Cs"]), max_size=MAX_ORIGIN)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=10,
)
ENVELOPES = st.one_of(
    st.builds(Envelope, TEXTS, st.one_of(TEXTS, st.binary()), ORIGINS),
    st.builds(Envelope, TEXTS, st.none(), ORIGINS, st.dictionaries(st.text(), JSON)),
)


def fault_of(data: bytes, *keys: bytes) -> str:
    try:
        decode_envelope(data, TOPIC, keys)
    except EnvelopeError as exc:
        return str(exc)
    return ""


@given(ENVELOPES, st.one_of(st.none(), st.binary(min_size=1)))
def test_an_envelope_is_decoded_as_it_was_encoded(envelope: Envelope, key: bytes | None) -> None:
    keys = () if key is None else (key,)
    if keys:
        envelope = replace(envelope, origin=envelope.origin or "x", number=next(EnvelopeNumbers()))
    data = encode_envelope(envelope, key)
    assert decode_envelope(data, envelope.topic, keys) == envelope
    with pytest.raises(EnvelopeError):
        decode_envelope(data, envelope.topic + "x", keys)
    with pytest.raises(EnvelopeError):
        decode_envelope(data, envelope.topic, [b"another key"])
    if key is not None:
        with pytest.raises(EnvelopeError):
            decode_envelope(data, envelope.topic)


def test_the_format_is_the_documented_one() -> None:
    assert json.loads(encode_envelope(Envelope(TOPIC, "hello", "b9f0c1d2"))) == {
        "v": 1,
        "topic": "room:42",
        "from": "b9f0c1d2",
        "text": "hello",
    }
    assert json.loads(encode_envelope(Envelope(TOPIC, b"hello"))) == {"v": 1, "topic": "room:42", "base64": "aGVsbG8="}
    assert json.loads(encode_envelope(Envelope(TOPIC, None, "x", {}))) == {
        "v": 1,
        "topic": "room:42",
        "from": "x",
        "event": {},
    }
    signed = encode_envelope(Envelope(TOPIC, "hello", "b9f0c1d2", number=17), KEY)
    assert signed[64:65] == b" "
    assert signed[:64].decode() == hmac.new(KEY, signed[65:], "sha256").hexdigest()
    assert json.loads(signed[65:]) == {"v": 1, "topic": "room:42", "from": "b9f0c1d2", "n": 17, "text": "hello"}
    event = encode_envelope(Envelope(TOPIC, None, "x", {"a": 1}, number=17), KEY)
    assert json.loads(event[65:]) == {"v": 1, "topic": "room:42", "from": "x", "n": 17, "event": {"a": 1}}


@given(st.binary(), st.sampled_from([(), (KEY,), (b"another", KEY)]))
def test_any_bytes_are_an_envelope_or_refused(data: bytes, keys: tuple[bytes, ...]) -> None:
    assert len(fault_of(data, *keys)) < 300


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "v": st.one_of(st.just(1), JSON),
            "topic": st.one_of(st.just(TOPIC), JSON),
            "from": JSON,
            "text": JSON,
            "base64": JSON,
            "event": JSON,
            "more": JSON,
        },
    )
)
def test_any_json_is_an_envelope_or_refused(fields: dict[str, Any]) -> None:
    data = json.dumps(fields).encode()
    fault = fault_of(data)
    assert len(fault) < 300
    if not fault:
        envelope = decode_envelope(data, TOPIC)
        assert fields["v"] == 1
        assert envelope.topic == fields["topic"] == TOPIC
        assert envelope.origin == fields.get("from", "")


def test_each_flipped_bit_of_a_signed_envelope_is_refused() -> None:
    data = encode_envelope(Envelope(TOPIC, "hello", "b9f0c1d2", number=1), KEY)
    for at in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            with pytest.raises(EnvelopeError, match="the signature is missing or wrong"):
                decode_envelope(bytes(changed), TOPIC, [KEY])


@given(st.data())
def test_a_changed_signed_envelope_is_refused(data: st.DataObject) -> None:
    signed = encode_envelope(Envelope(TOPIC, "hello", "x", number=1), KEY)
    start = data.draw(st.integers(0, len(signed)))
    end = data.draw(st.integers(start, len(signed)))
    changed = signed[:start] + data.draw(st.binary(max_size=3)) + signed[end:]
    if changed != signed:
        with pytest.raises(EnvelopeError):
            decode_envelope(changed, TOPIC, [KEY])


# -- publishers, numbers and keys --------------------------------------------------------------------------------------


def signed(fields: dict[str, Any], key: bytes = KEY) -> bytes:
    data = json.dumps({"v": 1, "topic": TOPIC, "from": "x", "n": 1, "text": "hello"} | fields).encode()
    return hmac.new(key, data, "sha256").hexdigest().encode() + b" " + data


@pytest.mark.parametrize(
    "fields",
    [{"from": ""}, *({"n": junk} for junk in (None, 0, -1, 1.5, "1", True, 2**53, 10**400, [1]))],
    ids=map(str, range(10)),
)
def test_a_signed_envelope_needs_its_publisher_and_a_number(fields: dict[str, Any]) -> None:
    assert fault_of(signed({}), KEY) == ""
    assert fault_of(signed({"n": 2**53 - 1}), KEY) == ""
    assert "from` and a number" in fault_of(signed(fields), KEY)


def test_the_number_means_nothing_without_a_key() -> None:
    assert decode_envelope(written(n="junk"), TOPIC).number == 0


def test_every_accepted_key_is_tried() -> None:
    keys = [b"new", b"old", b"older"]
    for key in keys:
        assert fault_of(signed({}, key), *keys) == ""
    assert "signature" in fault_of(signed({}, b"another"), *keys)


def test_keys_are_text_or_bytes_one_or_several() -> None:
    assert keys_of(None) == ()
    assert keys_of("a") == keys_of(b"a") == keys_of(["a"]) == (b"a",)
    assert keys_of(["new", b"old"]) == (b"new", b"old")
    for junk in ("", b"", [], ["a", ""], [b""]):
        with pytest.raises(ConfigurationError, match="the broker's key is empty"):
            keys_of(junk)


def test_numbers_grow_also_when_the_clock_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10**18]
    monkeypatch.setattr(time, "time_ns", lambda: now[0])
    numbers = EnvelopeNumbers()
    assert [next(numbers) for _ in range(3)] == [10**15, 10**15 + 1, 10**15 + 2]
    now[0] -= 10**12
    assert next(numbers) == 10**15 + 3
    now[0] += 10**13
    assert next(numbers) == numbers.last == 10**15 + 9 * 10**9


def written(**fields: Any) -> bytes:
    return json.dumps({"v": 1, "topic": TOPIC, "text": "hello"} | fields).encode()


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "not JSON"),
        (b"hello", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"\xef\xbb\xbf{}", "version"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{}", "its version is None"),
        (written(v=2), "its version is 2, not 1"),
        (written(v="1"), "its version is '1', not 1"),
        (written(v="1" * 100_000), "its version is"),
        (written(v=10**4000), "its version is"),
        (written(topic="room:43"), "it belongs to another topic"),
        (written(topic=None), "it belongs to another topic"),
        (written(**{"from": 5}), "its `from` is not a text"),
        (written(**{"from": None}), "its `from` is not a text"),
        (written(**{"from": "x" * 201}), "its `from` is not a text of at most 200 characters"),
        (written(base64="YQ=="), "not have exactly one of text, base64 and event"),
        (written(event={}), "not have exactly one of text, base64 and event"),
        (b'{"v": 1, "topic": "room:42"}', "not have exactly one of text, base64 and event"),
        (written(text=None), "its text is not text"),
        (written(text=["a"]), "its text is not text"),
        (written(text="\ud83d"), "its text has half of a surrogate pair"),
        (b'{"v": 1, "topic": "room:42", "base64": "YQ"}', "its base64 cannot be decoded"),
        (b'{"v": 1, "topic": "room:42", "base64": "Y Q=="}', "its base64 cannot be decoded"),
        ('{"v": 1, "topic": "room:42", "base64": "ä"}'.encode(), "its base64 cannot be decoded"),
        (b'{"v": 1, "topic": "room:42", "base64": 5}', "its base64 is not text"),
        (b'{"v": 1, "topic": "room:42", "event": []}', "its event is not an object"),
        (b'{"v": 1, "topic": "room:42", "event": "x"}', "its event is not an object"),
        (b'{"v": 1, "topic": "room:42", "event": {"a": ' + b"9" * 100_000 + b"}}", "not JSON|is not int"),
        (b'{"v": 1, "topic": "room:42", "event": ' + b'{"a":' * 100_000, "not JSON"),
        (b'{"v": 1, "topic": "room:42", "text": "a"} {}', "not JSON"),
    ],
)
def test_invalid_envelopes_are_refused(data: bytes, fault: str) -> None:
    with pytest.raises(EnvelopeError, match=fault) as info:
        decode_envelope(data, TOPIC)
    assert len(str(info.value)) < 300, "it is logged"


@pytest.mark.parametrize(
    "before",
    ['{"v": ', '{"v": 1, "topic": ', '{"v": 1, "topic": "room:42", "from": ', '{"v": 1, "topic": "room:42", "text": '],
)
def test_deep_nesting_is_refused(before: str) -> None:
    for depth in [*range(1, sys.getrecursionlimit() + 50, 7), 100_000]:
        assert fault_of(f"{before}{'[' * depth}{']' * depth}}}".encode())
        assert fault_of(f"{before}{'[' * depth}".encode())


def test_the_origin_is_optional_and_unknown_fields_are_ignored() -> None:
    assert decode_envelope(written(), TOPIC) == Envelope(TOPIC, "hello", "")
    assert decode_envelope(written(**{"from": ""}), TOPIC) == Envelope(TOPIC, "hello", "")
    assert decode_envelope(written(time=5, trace={"id": []}), TOPIC) == Envelope(TOPIC, "hello", "")
    assert decode_envelope(written(text="\ud83d\ude00"), TOPIC).message == "😀"


def test_an_event_can_contain_half_a_surrogate_pair() -> None:
    # a client's JSON can say it, and where a name or a status of hers ends up is an event
    event = {"name": "\ud83d", "\udc00": [1]}
    assert decode_envelope(encode_envelope(Envelope(TOPIC, None, "x", event)), TOPIC).event == event


def test_decoding_takes_linear_time() -> None:
    data = encode_envelope(Envelope(TOPIC, "x" * 8_000_000, "x", number=1), KEY)
    began = time.process_time()
    decode_envelope(data, TOPIC, [KEY])
    with pytest.raises(EnvelopeError):
        decode_envelope(b'{"v":1,"topic":"room:42","text":"' + b"\\" * 8_000_000, TOPIC)
    assert time.process_time() - began < 2


# -- positions ---------------------------------------------------------------------------------------------------------


@given(st.from_regex(r"[0-9a-zA-Z]{1,32}", fullmatch=True), st.integers(0, 10**15 - 1))
def test_a_position_is_parsed_as_it_was_formatted(epoch: str, offset: int) -> None:
    assert Position.parse(str(Position(epoch, offset))) == (epoch, offset)


def nested(depth: int) -> Any:
    value: Any = "1-a"
    for _ in range(depth):
        value = [value]
    return value


JUNK = "|-|1|1-|-a|-1-a|+1-a|1-a-b|1-a b| 1-a|1_0-a|1.5-a|x-a|1-ä|٣-a|1-\n|1-\ud83d"
OTHER_JUNK = ["1" * 70 + "-a", "9" * 16 + "-a", "1-" + "a" * 70, None, 5, b"1-a", {"a": "b"}, 1.5, nested(5000)]


@pytest.mark.parametrize("junk", [*JUNK.split("|"), *OTHER_JUNK], ids=map(str, range(26)))
def test_invalid_positions_are_refused(junk: Any) -> None:
    with pytest.raises(TopicError, match="is not a position in a topic, such as '17-5f3c'") as info:
        Position.parse(junk)
    assert len(str(info.value)) < 500


@given(st.one_of(st.text(), st.text("0123456789-abc")))
def test_any_text_is_a_position_or_refused(text: str) -> None:
    try:
        position = Position.parse(text)
    except TopicError:
        return
    assert Position.parse(str(position)) == position


def test_a_position_covers_those_before_it_in_its_epoch() -> None:
    here = Position("a", 5)
    assert here.covers(here)
    assert here.covers(Position("a", 0))
    assert not here.covers(Position("a", 6))
    assert not here.covers(Position("b", 4))
