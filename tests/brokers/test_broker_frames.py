"""What nats-py and aiormq parse: messages that other programs have published, whole or in parts."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import ProtocolError
from pamqp import commands, frame, header

from pywsapp.brokers.amqp_frames import decodable_content
from pywsapp.brokers.nats import _MessageParser

SUBJECTS = st.binary(min_size=1, max_size=20).filter(lambda subject: not set(subject) & set(b" \t\r\n"))


class Client:
    """What the parser of nats-py calls."""

    def __init__(self) -> None:
        self._subs = {7: object()}
        self.calls: list[str] = []

    async def _process_ping(self) -> None:
        self.calls.append("ping")

    async def _process_err(self, text: str) -> None:
        self.calls.append(text)


def parse(*parts: bytes) -> tuple[list[tuple[bytes, bytes]], list[str]]:
    """Return the messages, and what was passed on to nats-py."""
    client: Any = Client()
    found: list[tuple[bytes, bytes]] = []
    parser = _MessageParser(client, lambda *message: found.append(message))

    for part in parts:
        with pytest.raises(StopIteration):  # it awaits nothing but the client
            parser.parse(part).send(None)
    return found, client.calls


@given(st.lists(st.tuples(SUBJECTS, SUBJECTS | st.none(), st.binary(max_size=30) | st.none(), st.binary())), st.data())
def test_any_message_is_parsed_however_it_is_cut(
    messages: list[tuple[bytes, bytes | None, bytes | None, bytes]], data: st.DataObject
) -> None:
    sent, expected = b"PING\r\n", []
    for subject, reply, headers, content in messages:
        words = [subject, b"7"] + ([] if reply is None else [reply])
        if headers is not None:
            words.append(b"%d" % len(headers))
        words.append(b"%d" % (len(headers or b"") + len(content)))
        name = b"MSG " if headers is None else b"HMSG "
        sent += name + b" ".join(words) + b"\r\n" + (headers or b"") + content + b"\r\n"
        expected.append((subject, content))
    sent += b"-ERR 'Stale Connection'\r\n"
    cut = data.draw(st.integers(0, len(sent)))
    assert parse(sent[:cut], sent[cut:]) == (expected, ["ping", "'stale connection'"])


def test_messages_of_other_subscriptions_are_dropped() -> None:
    assert parse(b"MSG a 8 1\r\nx\r\nMSG b 7 1\r\ny\r\n") == ([(b"b", b"y")], [])


@pytest.mark.parametrize(
    "line",
    [b"MSG a 7", b"MSG a 7 x", b"MSG a 7 -1", b"MSG", b"MSG a b 1", b"HMSG a 7 5 4", b"HMSG a 7 -1 4", b"hello", b""],
)
def test_what_no_server_sends_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse(line + b"\r\nx\r\n")


NAMES = st.binary(max_size=255)


@given(NAMES, NAMES, st.text(max_size=40), st.integers(0, 2**63 - 1))
def test_any_delivery_can_be_decoded(exchange: bytes, key: bytes, tag: str, number: int) -> None:
    method = struct.pack(">HH", 60, 60) + bytes([len(tag.encode())]) + tag.encode() + struct.pack(">QB", number, 0)
    method += bytes([len(exchange)]) + exchange + bytes([len(key)]) + key
    content = decodable_content(1, method)
    assert len(content) == len(method)
    _, _, found = frame.unmarshal(struct.pack(">BHI", 1, 3, len(content)) + content + b"\xce")
    assert isinstance(found, commands.Basic.Deliver)
    assert (found.consumer_tag, found.delivery_tag) == (tag, number)
    for name, decoded in ((exchange, found.exchange), (key, found.routing_key)):
        assert decoded is not None
        assert decoded == name.decode() if _is_text(name) else "?" in decoded


def _is_text(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


@given(st.integers(0, 2**63), st.binary(min_size=2, max_size=200))
def test_any_properties_can_be_decoded(size: int, properties: bytes) -> None:
    content = decodable_content(2, struct.pack(">HHQ", 60, 0, size) + properties)
    assert len(content) == 12 + len(properties)
    _, _, found = frame.unmarshal(struct.pack(">BHI", 2, 3, len(content)) + content + b"\xce")
    assert isinstance(found, header.ContentHeader)
    assert found.body_size == size


@given(st.integers(0, 9), st.binary(max_size=40) | st.binary(max_size=30).map(lambda rest: b"\0\x3c\0\x3c" + rest))
def test_no_content_changes_its_length(frame_type: int, content: bytes) -> None:
    changed = decodable_content(frame_type, content)
    assert len(changed) == len(content)
    if frame_type not in (1, 2):
        assert changed == content
