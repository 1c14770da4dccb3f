"""Any bytes are an envelope or refused; an envelope is encoded and decoded as the same, signed or not."""

from __future__ import annotations

from dataclasses import replace

from harness import fuzz, instrumented

with instrumented():
    from pywsapp.brokers.base import Position
    from pywsapp.brokers.envelope import Envelope, EnvelopeError, decode_envelope, encode_envelope
    from pywsapp.exceptions import TopicError
    from pywsapp.topics.registry import TopicRegistry

TOPIC = "room:42"
KEY = b"a key"
REGISTRY = TopicRegistry()
REGISTRY.listeners.add(TOPIC, lambda topic, message: None)


def read(data: bytes, key: bytes | None = None) -> Envelope | None:
    envelope, fault = None, ""
    try:
        envelope = decode_envelope(data, TOPIC, () if key is None else (key,))
    except EnvelopeError as exc:
        fault = str(exc)
    assert len(fault) < 300, "the text is logged, so it must be short"
    return envelope


def check_position(text: str) -> None:
    try:
        position = Position.parse(text)
    except TopicError:
        return
    assert Position.parse(str(position)) == position
    assert 0 <= position.offset < 2**53, "other languages count in doubles"


def one_input(data: bytes) -> None:
    """Decode one input."""
    check_position(data.decode("utf-8", "surrogateescape"))
    REGISTRY.receive(TOPIC, data, None)
    assert read(data, KEY) is None, "a signature was guessed"
    envelope = read(data)
    if envelope is None:
        return
    assert envelope.topic == TOPIC
    assert (envelope.message is None) != (envelope.event is None)
    for key in (None, KEY):
        if key is not None:
            envelope = replace(envelope, origin=envelope.origin or "x", number=1)
        again = encode_envelope(envelope, key)
        assert repr(read(again, key)) == repr(envelope), "NaN is not equal to itself"


def seeds() -> list[bytes]:
    envelopes = [
        Envelope(TOPIC, "hello", "b9f0c1d2"),
        Envelope(TOPIC, "", "x"),
        Envelope(TOPIC, "Zürich \0 \N{GRINNING FACE}"),
        Envelope(TOPIC, b"\x00\xff\xfe"),
        Envelope(TOPIC, None, "x", {"join": [1, 2.5, None, True, {"a": {}}]}),
        Envelope("room:43", "for others"),
    ]
    others = [
        b'{"v": 1, "topic": "room:42", "text": "a", "base64": "YQ=="}',
        b'{"v": 2, "topic": "room:42", "text": "a"}',
        b'{"v": 1, "topic": "room:42", "text": "\\ud83d"}',
        b'{"v": 1, "topic": "room:42", "from": "\\udc00", "text": "\\ud83d\\ude00"}',
        b'{"v": 1, "topic": "room:42", "event": {"\\ud83d": NaN}, "other": 1}',
        b'{"v": ' + b"[" * 400 + b"]" * 400 + b"}",
        b'{"v": 1, "topic": "room:42", "event": {"a": ' + b"9" * 5000 + b"}}",
        b'{"v": 1, "topic": "room:42", "base64": "Y!Q="}',
        "{}".encode("utf-16"),
        b"17-5f3c",
        b"0-a",
        b"00017-5f3c",
    ]
    return [*(encode_envelope(envelope) for envelope in envelopes), encode_envelope(envelopes[0], KEY)[1:], *others]


if __name__ == "__main__":
    fuzz(one_input, seeds())
