"""No reader of JSON, MessagePack or PHP data fails by deep nesting, or reserves memory for what is announced."""

from __future__ import annotations

import base64
import json
import sys
import tracemalloc
from collections.abc import Callable

import pytest
from support.tokens import ISSUER

from pywsapp import InvalidCredentials, PywsappError, Refuse, Request
from pywsapp._process.health_port import _parsed as parsed_report
from pywsapp.auth.jwks import Jwks, _BadKeySet, _parsed, keys_of
from pywsapp.auth.jwt import JwtAuthenticator, SharedSecret
from pywsapp.auth.tickets import MemoryTicketStore, TicketIssuer, _key
from pywsapp.brokers.envelope import decode_envelope
from pywsapp.codecs import MessagePackCodec
from pywsapp.exceptions import InvalidMessage, SessionError
from pywsapp.routing.endpoints import _message
from pywsapp.sessions.flask import FlaskSessionStore
from pywsapp.sessions.flask_session import FlaskRedisStore
from pywsapp.sessions.json_data import decode_object
from pywsapp.sessions.php_format import parse_php_session
from pywsapp.topics.presence.events import parse_change

pytestmark = pytest.mark.once
DEPTHS = [50, 400, 900, 2000, 100_000]


def nested(depth: int, inside: str = "1", *, objects: bool = False) -> str:
    return '{"a":' * depth + inside + "}" * depth if objects else "[" * depth + inside + "]" * depth


def envelope(value: str) -> bytes:
    return b'{"v":1,"topic":"t","event":{"presence":"state","n":1,"all":{"ana":[1,1,%b]}}}' % value.encode()


def read_presence(value: str) -> object:
    event = decode_envelope(envelope(value), "t").event
    assert event is not None
    change = parse_change(event)
    return None if change is None else json.dumps(change.entries)


def read_keys(value: str) -> object:
    try:
        return keys_of(_parsed(b'{"keys":[{"kty":"RSA","n":%b}]}' % value.encode()))
    except _BadKeySet:
        return None


def read_report(value: str) -> object:
    with pytest.raises(ValueError):  # noqa: PT011 - of json or of ours
        parsed_report(b"[1,%b,1,1]" % value.encode())
    return None


def read_session(value: str) -> object:
    try:
        return decode_object(f'{{"data":{value}}}')
    except ValueError:
        return None


READERS: dict[str, Callable[[str], object]] = {
    "an envelope": lambda value: decode_envelope(envelope(value), "t"),
    "presence": read_presence,
    "a message of the publish endpoint": lambda value: _message(b'{"topic":"t","text":%b}' % value.encode()),
    "keys": read_keys,
    "a report of a worker": read_report,
    "a session": read_session,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("objects", [False, True], ids=["arrays", "objects"])
def test_nested_json_is_read_or_refused(name: str, objects: bool) -> None:
    for depth in DEPTHS:
        for value in (nested(depth, objects=objects), nested(depth, objects=objects)[: depth + 3]):
            try:
                READERS[name](value)
            except PywsappError:
                continue


def part(data: str) -> str:
    return base64.urlsafe_b64encode(data.encode()).decode().rstrip("=")


@pytest.mark.anyio
@pytest.mark.parametrize("where", ["header", "claims"])
async def test_nested_tokens_are_refused(where: str) -> None:
    authenticator = JwtAuthenticator({ISSUER: SharedSecret("s" * 32)}, audience="chat")
    for depth in (50, 400, 900, 2500):
        for objects in (False, True):
            value = f'{{"alg":"HS256","iss":"{ISSUER}","x":{nested(depth, objects=objects and depth < 900)}}}'
            plain = f'{{"alg":"HS256","iss":"{ISSUER}"}}'
            header, claims = (value, plain) if where == "header" else (plain, value)
            with pytest.raises(InvalidCredentials):
                await authenticator.verify(f"{part(header)}.{part(claims)}.{part('x' * 32)}")


@pytest.mark.anyio
@pytest.mark.parametrize(
    "data",
    [
        *(nested(depth).encode() for depth in DEPTHS),
        b"",
        b"{}",
        b"null",
        b"\xff",
        b'["ana", "soon", null, null]',
        b'["ana", NaN, null, null]',
        b'["ana", true, null, null]',
        b'["ana", null, 7, null]',
        b'["ana", null, null, ["https://a.example"]]',
        b"[null, null, null, null]",
        b'["ana", null, null]',
    ],
    ids=lambda data: f"{len(data)} bytes, {data[:20]!r}",
)
async def test_what_is_no_ticket_in_the_store_is_refused(data: bytes) -> None:
    store = MemoryTicketStore()
    await store.put(_key("x" * 32), data, 30)
    with pytest.raises(Refuse) as caught:
        await TicketIssuer(store).redeem("x" * 32, Request())
    assert caught.value.status == 503


@pytest.mark.anyio
async def test_nested_tagged_json_is_read_or_no_session() -> None:
    store = FlaskSessionStore("k" * 16)
    signer = store._serializer.make_signer(store._serializer.salt)
    for depth in (50, 400, 700, 1500):
        for value in (nested(depth), nested(depth, objects=True), '{" t":' * depth + "[]" + "}" * depth):
            token = signer.sign(part(f'{{"a":{value}}}')).decode()
            try:
                assert await store.load(token) is not None
            except SessionError:
                assert depth > 50


#: The heads of arrays, maps, strings and extensions of 2 ** 32 - 1 items or bytes, and of 2 ** 16 - 1.
CLAIMS = [
    *(bytes((kind,)) + b"\xff\xff\xff\xff" for kind in (0xDD, 0xDF, 0xDB, 0xC6)),
    b"\xc9\xff\xff\xff\xff\x01",
    *(bytes((kind,)) + b"\xff\xff" for kind in (0xDC, 0xDE, 0xDA, 0xC5)),
]


@pytest.mark.anyio
@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.hex())
async def test_messagepack_reserves_nothing_for_what_is_announced(claim: bytes) -> None:
    codec = MessagePackCodec()
    readers: list[Callable[[bytes], object]] = [
        *FlaskRedisStore("redis://localhost")._decoders,
        codec.decode,
        codec.decoder(list[int]),
    ]
    for data in (claim, b"\x81\xa1a" + claim, b"\x91" * 500 + claim):
        for read in readers:
            assert peak_of_refusing(read, data) < 1_000_000


def test_messagepack_reserves_little_for_each_level() -> None:
    # msgspec reserves at most 16 items of an array. How deep it reads depends on Python: 10,000 levels on 3.13.
    levels, limit = 12_000, 1_000_000 if sys.version_info < (3, 13) else 2_400_000
    for read in [*FlaskRedisStore("redis://localhost")._decoders, MessagePackCodec().decode]:
        assert peak_of_refusing(read, b"\xdd\xff\xff\xff\xff" * levels) < limit


def peak_of_refusing(read: Callable[[bytes], object], data: bytes) -> int:
    """Return how many bytes were in use at most while a reader refused the data."""
    tracemalloc.start()
    try:
        # what `load` of a session expects, and what a typed handler expects
        with pytest.raises((ValueError, RecursionError, InvalidMessage)):
            read(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        b"a|a:4294967295:{",
        b"a|a:20000:{" + b"i:0;a:20000:{" * 60,
        b'a|s:4294967295:"',
        b'a|O:1:"A":4294967295:{',
        b'a|C:1:"A":4294967295:{',
        b'a|O:4294967295:"A":1:{',
    ],
)
def test_php_data_reserves_nothing_for_what_is_announced(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(PywsappError):
            parse_php_session(data)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.anyio
async def test_nested_keys_of_a_program_are_refused() -> None:
    with pytest.raises(Refuse):
        await Jwks(lambda: {"keys": [json.loads(nested(800))]}).find(None, "RS256")
