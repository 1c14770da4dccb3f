"""What outlives a process keeps its form, so that two versions of pywsapp work side by side during an upgrade.

`docs/howto/upgrade-without-downtime.md` promises that. The texts were written by version 0.1.0. A later version must
read them, and must write what 0.1.0 reads. Do not change one to make a test pass; `CONTRIBUTING.md`, under Versions
side by side, says how a form changes. The forms of presence are in `tests/topics/test_presence_traffic.py`.
"""

from __future__ import annotations

import hashlib

import pytest

from pywsapp._messages.objects import ObjectText
from pywsapp._protocol.http import parse_request
from pywsapp.auth import SignedUrls
from pywsapp.brokers.base import Position
from pywsapp.brokers.envelope import Envelope, decode_envelope, encode_envelope
from pywsapp.sessions import Stored
from pywsapp.sessions.key_value import KeyValueStore
from pywsapp.sessions.signed_cookie import SignedCookieStore

KEY = b"a shared key"
ENVELOPES = {
    "text": (b'{"v":1,"topic":"room:42","from":"p1","text":"hello"}', Envelope("room:42", "hello", "p1")),
    "binary": (b'{"v":1,"topic":"room:42","from":"p1","base64":"AP8="}', Envelope("room:42", b"\x00\xff", "p1")),
    "id": (b'{"v":1,"topic":"room:42","id":"order-7","text":"hello"}', Envelope("room:42", "hello", id="order-7")),
    "object": (b'{"v":1,"topic":"room:42","object":true,"text":"[1]"}', Envelope("room:42", ObjectText("[1]"))),
    "event": (
        b'{"v":1,"topic":"room:42","from":"p1","event":{"presence":"ask"}}',
        Envelope("room:42", None, "p1", {"presence": "ask"}),
    ),
}
SIGNED = (
    b"155da82a1136cf454665cd8b9be98110fd01d574a15375f8ad3837ed353028b7 "
    b'{"v":1,"topic":"room:42","from":"p1","n":5,"id":"order-7","text":"hello"}'
)
COOKIE = "eyJleHBpcmVzIjoyMjA5NjAwLCJkYXRhIjp7InVzZXIiOiJhbmEiLCJuIjozfX0=.KE8MiWMpLa30qUVEQ2QqVtWDBgFDnCs6SvB8cTZco_E"
SIGNED_URL = "/rooms/42?color=red&user=ana&expires=1767225660&signature=KAghBbS8jWDgJotCl_fTYrQG_GjlqzcYg5oAcwLJcqo"
TOKEN = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"


@pytest.mark.parametrize("name", ENVELOPES)
def test_envelopes(name: str) -> None:
    data, envelope = ENVELOPES[name]
    assert decode_envelope(data, "room:42") == envelope
    assert encode_envelope(envelope) == data


def test_fields_of_later_versions_are_ignored() -> None:
    data = b'{"v":1,"topic":"room:42","from":"p1","later":{"a":1},"text":"hello"}'
    assert decode_envelope(data, "room:42") == Envelope("room:42", "hello", "p1")


def test_signed_envelopes() -> None:
    envelope = Envelope("room:42", "hello", "p1", id="order-7", number=5)
    assert decode_envelope(SIGNED, "room:42", [KEY]) == envelope
    assert encode_envelope(envelope, KEY) == SIGNED


def test_positions() -> None:
    assert Position.parse("17-5f3c") == Position("5f3c", 17)
    assert str(Position("5f3c", 17)) == "17-5f3c"


class Cookies(SignedCookieStore):
    def now(self) -> float:
        return 1_000_000.0


@pytest.mark.anyio
async def test_sessions_in_cookies() -> None:
    store = Cookies("a secret of at least 16 bytes")
    assert await store.load(COOKIE) == Stored({"user": "ana", "n": 3}, 2_209_600)
    assert await store.save(None, Stored({"user": "ana", "n": 3}, 0)) == COOKIE


class Values(KeyValueStore):
    """Keeps the values of keys in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, bytes] = {}

    async def read(self, key: str, renew_seconds: int | None) -> bytes | None:
        return self.values.get(key)

    async def write(self, key: str, value: bytes, seconds: int, *, create: bool) -> bool:
        self.values[key] = value
        return True

    async def remove(self, key: str) -> None:
        self.values.pop(key, None)


@pytest.mark.anyio
async def test_sessions_on_servers() -> None:
    store = Values()
    key = hashlib.sha256(TOKEN.encode()).hexdigest()
    store.values[key] = b'{"data":{"user":"ana"}}'
    assert await store.load(TOKEN) == Stored({"user": "ana"}, None)
    await store.save(TOKEN, Stored({"user": "ben"}, None))
    assert store.values == {key: b'{"data":{"user":"ben"}}'}


def test_signed_urls() -> None:
    urls = SignedUrls("0123456789abcdef", clock=lambda: 1_767_225_600.0)
    assert urls.sign("/rooms/42?color=red", user="ana", seconds=60) == SIGNED_URL
    head = f"GET {SIGNED_URL} HTTP/1.1\r\nHost: localhost".encode()
    found = urls(parse_request(head, max_headers=10, scheme="http", remote_address=""))
    assert found is not None
    assert found.user == "ana"
