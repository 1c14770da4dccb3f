"""permessage-deflate: messages arrive unchanged and within their limit, or not at all."""

from __future__ import annotations

import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.protocol_peer import MIB, NO_TAKEOVER, TAKEOVER
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection
from wsproto.extensions import PerMessageDeflate as WsprotoDeflate

from pywsapp._protocol.deflate import DeflateParameters, PerMessageDeflate, compress_shared
from pywsapp.exceptions import ProtocolError
from pywsapp.options import Deflate

TAIL = b"\x00\x00\xff\xff"
HELLO = bytes.fromhex("f248cdc9c90700")
HELLO_ENDED = bytes.fromhex("f348cdc9c9070000")  # RFC 7692 section 7.2.3.4


def receiver(parameters: DeflateParameters = TAKEOVER) -> PerMessageDeflate:
    return PerMessageDeflate(parameters, Deflate(), client=False)


def deflated(payload: bytes) -> bytes:
    """Compress a message with zlib itself."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def failure(deflate: PerMessageDeflate, data: bytes, limit: int = MIB, *, final: bool = True) -> int:
    with pytest.raises(ProtocolError) as caught:
        deflate.decompress(data, limit, final)
    assert caught.value.reason
    return caught.value.code


def wsproto_reader(extension: WsprotoDeflate) -> Connection:
    """Return a wsproto connection in the client role, which reads unmasked frames."""
    extension.finalize("permessage-deflate")
    return Connection(ConnectionType.CLIENT, extensions=[extension])


def binary_frame(payload: bytes) -> bytes:
    size = len(payload)
    assert size < 65536
    return b"\xc2" + (bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")) + payload


# -- messages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fragments", "expected"),
    [
        ([HELLO], b"Hello"),
        ([HELLO[:3], HELLO[3:]], b"Hello"),
        ([bytes.fromhex("000500faff48656c6c6f00")], b"Hello"),
        ([HELLO_ENDED], b"Hello"),
        ([HELLO_ENDED[:-1], HELLO_ENDED[-1:]], b"Hello"),
        ([bytes.fromhex("f248050000"), bytes.fromhex("00ffffcac9c90700")], b"Hello"),
        ([b"\x00"], b""),
        ([b"\x02\x00"], b""),
    ],
)
@pytest.mark.parametrize("parameters", [TAKEOVER, NO_TAKEOVER], ids=["takeover", "no takeover"])
def test_examples_of_rfc_7692(fragments: list[bytes], expected: bytes, parameters: DeflateParameters) -> None:
    for deflate in (receiver(parameters), PerMessageDeflate(parameters, Deflate(), client=True)):
        for _ in range(3):
            pieces = [deflate.decompress(data, 100, data is fragments[-1]) for data in fragments]
            assert b"".join(pieces) == expected


def test_a_message_can_refer_to_an_earlier_one() -> None:
    second = bytes.fromhex("f200110000")  # RFC 7692 section 7.2.3.2
    deflate = receiver()
    assert deflate.decompress(HELLO, 5, True) == b"Hello"
    assert deflate.decompress(second, 5, True) == b"Hello"
    deflate = receiver(NO_TAKEOVER)
    assert deflate.decompress(HELLO, 5, True) == b"Hello"
    assert failure(deflate, second) == 1007


@pytest.mark.parametrize("client", [True, False])
@pytest.mark.parametrize("no_takeover", [True, False])
def test_compress(client: bool, no_takeover: bool) -> None:
    mine = DeflateParameters(no_takeover and not client, no_takeover and client, 15, 15)
    deflate = PerMessageDeflate(mine, Deflate(), client=client)
    first, second = deflate.compress(b"Hello" * 10), deflate.compress(b"Hello" * 10)
    assert not first.endswith(TAIL)
    assert zlib.decompress(first + TAIL + b"\x03\x00", -15) == b"Hello" * 10
    assert (first == second) == no_takeover
    deflate.reset()
    assert deflate.compress(b"Hello" * 10) == first


@pytest.mark.parametrize("no_takeover", [True, False])
def test_an_empty_message_is_one_byte(no_takeover: bool) -> None:
    deflate = PerMessageDeflate(DeflateParameters(no_takeover, no_takeover, 15, 15), Deflate(), client=False)
    for _ in range(3):
        assert deflate.compress(b"") == b"\x00"
        deflate.compress(b"something")
    assert compress_shared(b"", 15, Deflate()) == b"\x00"


class Counted:
    """A compressor that counts how many of it were made, and can fail.

    Attributes:
        fails: whether the next compression raises.
        made: how many compressors were made; set it to 0 before a test.
    """

    fails = False
    made = 0

    def __init__(self, level: int, wbits: int, mem_level: int) -> None:
        Counted.made += 1
        self._zlib = zlib.compressobj(level, zlib.DEFLATED, wbits, mem_level)

    def compress(self, data: bytes) -> bytes:
        compressed = self._zlib.compress(data)
        if Counted.fails:
            raise MemoryError
        return compressed

    def flush(self, mode: int) -> bytes:
        return self._zlib.flush(mode)


def test_one_compressor_serves_all_shared_messages_of_a_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counted, "made", 0)
    config = Deflate(compressor=Counted)
    messages = [compress_shared(b"Hello" * 10, 15, config) for _ in range(5)]
    assert set(messages) == {deflated_in_full(b"Hello" * 10)}
    assert Counted.made == 1
    compress_shared(b"Hello", 9, config)
    compress_shared(b"Hello", 15, Deflate(compressor=Counted, level=1))
    compress_shared(b"Hello", 15, Deflate(compressor=Counted, mem_level=1))
    assert Counted.made == 4


def test_a_shared_compressor_that_failed_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counted, "made", 0)
    config = Deflate(compressor=Counted, level=2)
    expected = compress_shared(b"Hello" * 10, 15, config)
    monkeypatch.setattr(Counted, "fails", True)
    with pytest.raises(MemoryError):
        compress_shared(b"broken off", 15, config)
    monkeypatch.setattr(Counted, "fails", False)
    assert compress_shared(b"Hello" * 10, 15, config) == expected
    assert Counted.made == 2


def deflated_in_full(payload: bytes) -> bytes:
    compressor = zlib.compressobj(Deflate().level, zlib.DEFLATED, -15, Deflate().mem_level)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_FULL_FLUSH))[:-4]


def test_the_agreed_window_is_respected() -> None:
    payload = bytes(zlib.crc32(bytes([index % 256, index // 256])) % 256 for index in range(2000)) * 3
    sizes = {}
    for bits in range(9, 16):
        parameters = DeflateParameters(True, True, bits, 15)
        data = PerMessageDeflate(parameters, Deflate(), client=False).compress(payload)
        assert data == compress_shared(payload, bits, Deflate())
        assert zlib.decompressobj(-bits).decompress(data + TAIL) == payload
        sizes[bits] = len(data)
    assert sizes[9] > 2 * sizes[15]


def test_nothing_is_allocated_before_the_first_message() -> None:
    tracemalloc.start()
    try:
        connections = [receiver() for _ in range(100)]
        idle = tracemalloc.get_traced_memory()[0]
        connections[0].compress(b"a")
        busy = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert idle / 100 < 300
    assert busy - idle > 10_000


def test_wsproto_a5_connections_do_not_share_a_window() -> None:
    shared = WsprotoDeflate()
    readers = [wsproto_reader(shared), wsproto_reader(shared)]
    senders = [PerMessageDeflate(TAKEOVER, Deflate(), client=False) for _ in range(2)]
    texts = [b"hello hello hello", b"other other other"]
    for reader, sender, text in zip(readers, senders, texts, strict=True):
        reader.receive_data(binary_frame(sender.compress(text)))
        assert [event.data for event in reader.events() if isinstance(event, BytesMessage)] == [text]
    readers[0].receive_data(binary_frame(senders[0].compress(texts[0])))
    assert [event.data for event in readers[0].events() if isinstance(event, BytesMessage)] != [texts[0]]  # leaks

    pairs = [(PerMessageDeflate(TAKEOVER, Deflate(), client=False), receiver(), text) for text in texts]
    for _ in range(3):
        for sender, ours, text in pairs:
            assert ours.decompress(sender.compress(text), 100, True) == text


# -- limits ------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(
    payload=st.tuples(st.binary(min_size=1, max_size=30), st.integers(0, 4000)).map(lambda pair: pair[0] * pair[1]),
    no_takeover=st.booleans(),
    cuts=st.integers(1, 20),
)
def test_limit_is_exact(payload: bytes, no_takeover: bool, cuts: int) -> None:
    data = deflated(payload) if payload else b"\x00"
    step = max(1, len(data) // cuts)
    parameters = NO_TAKEOVER if no_takeover else TAKEOVER

    def inflate(limit: int) -> bytes:
        deflate = receiver(parameters)
        inflated = b""
        for start in range(0, len(data), step):
            final = start + step >= len(data)
            inflated += deflate.decompress(data[start : start + step], limit - len(inflated), final)
        return inflated

    assert inflate(len(payload)) == payload
    assert inflate(len(payload) + 1) == payload
    with pytest.raises(ProtocolError) as caught:
        inflate(len(payload) - 1)
    assert caught.value.code == 1009


@pytest.mark.parametrize("limit", [0, -1, -2])
def test_nothing_more_is_allowed(limit: int) -> None:
    assert failure(receiver(), HELLO, limit) == 1009
    assert failure(receiver(), HELLO_ENDED, limit) == 1009
    if limit == 0:
        assert receiver().decompress(b"\x00", limit, True) == b""


def test_wsproto_a2_a_bomb_costs_no_more_than_the_limit() -> None:
    bomb = deflated(bytes(60 * MIB))
    reader = wsproto_reader(WsprotoDeflate())
    reader.receive_data(binary_frame(bomb))
    assert sum(len(event.data) for event in reader.events() if isinstance(event, BytesMessage)) == 60 * MIB
    for limit, final in ((MIB, True), (MIB, False), (0, True), (-1, True)):
        deflate = receiver()
        tracemalloc.start()
        try:
            assert failure(deflate, bomb, limit, final=final) == 1009
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 3 * MIB


def test_a_bomb_of_many_streams() -> None:
    ended = bytes.fromhex("f348cdc9c90700")  # "Hello", a complete stream
    deflate = receiver()
    assert deflate.decompress(ended * 32, 1000, True) == b"Hello" * 32
    assert deflate.decompress(ended * 32, 1000, True) == b"Hello" * 32  # each message counts from zero
    assert failure(deflate, ended * 33) == 1009
    deflate = receiver()
    for _ in range(32):
        assert deflate.decompress(ended, 1000, False) == b"Hello"
    assert failure(deflate, ended, final=False) == 1009
    assert failure(receiver(), ended * 200_000) == 1009


# -- streams that end, break off or are invalid ------------------------------------------------------------------------


def test_wsproto_d4_a_stream_may_end_inside_a_message() -> None:
    reader = wsproto_reader(WsprotoDeflate())
    reader.receive_data(binary_frame(HELLO_ENDED) + binary_frame(HELLO))
    assert [event.code for event in reader.events() if isinstance(event, CloseConnection)] == [1007]
    for parameters in (TAKEOVER, NO_TAKEOVER):
        deflate = receiver(parameters)
        for data in (HELLO_ENDED, HELLO, HELLO_ENDED, HELLO_ENDED, HELLO):
            assert deflate.decompress(data, 5, True) == b"Hello"


@pytest.mark.parametrize("cut", range(len(HELLO_ENDED) + len(HELLO) + 1))
@pytest.mark.parametrize("parameters", [TAKEOVER, NO_TAKEOVER], ids=["takeover", "no takeover"])
def test_an_ended_stream_at_any_cut(parameters: DeflateParameters, cut: int) -> None:
    deflate = receiver(parameters)
    data = HELLO_ENDED[:-1] + HELLO
    for _ in range(2):
        assert deflate.decompress(data[:cut], 10, False) + deflate.decompress(data[cut:], 10, True) == b"HelloHello"


def test_a_stream_that_begins_like_the_tail() -> None:
    text = bytes(0xFF00)  # the length of a stored block, which makes it begin with 00 00 ff ff
    deflate = receiver()
    pieces = [HELLO_ENDED[:-1], TAIL, b"\x00" + text + b"\x00"]
    assert b"".join(deflate.decompress(data, MIB, data is pieces[-1]) for data in pieces) == b"Hello" + text


@pytest.mark.parametrize("parameters", [TAKEOVER, NO_TAKEOVER], ids=["takeover", "no takeover"])
def test_an_ended_stream_without_the_byte_after_it(parameters: DeflateParameters) -> None:
    deflate = receiver(parameters)
    for _ in range(2):
        assert deflate.decompress(HELLO_ENDED[:-1], 5, True) == b"Hello"
        assert deflate.decompress(HELLO_ENDED[:-1], 5, False) + deflate.decompress(b"", 0, True) == b"Hello"
    assert deflate.decompress(HELLO, 5, True) == b"Hello"


@pytest.mark.parametrize(
    "data",
    [b"\x07", b"Hello", b"\xff" * 10, HELLO[:-2], HELLO[:3], b"", HELLO + b"\x05", HELLO_ENDED[:-1] + b"\x06"],
)
@pytest.mark.parametrize("parameters", [TAKEOVER, NO_TAKEOVER], ids=["takeover", "no takeover"])
def test_invalid_messages(data: bytes, parameters: DeflateParameters) -> None:
    assert failure(receiver(parameters), data) == 1007


@pytest.mark.parametrize(
    "data", ["5c2e", "e8ff", "5bf47b"], ids=["continues", "outputs more and continues", "outputs more"]
)
@pytest.mark.parametrize("parameters", [TAKEOVER, NO_TAKEOVER], ids=["takeover", "no takeover"])
def test_incomplete_messages(data: str, parameters: DeflateParameters) -> None:
    assert failure(receiver(parameters), bytes.fromhex(data)) == 1007


@pytest.mark.parametrize("parameters", [TAKEOVER, NO_TAKEOVER], ids=["takeover", "no takeover"])
def test_a_message_cut_short_is_noticed_at_once(parameters: DeflateParameters) -> None:
    text = b"The quick brown fox jumps over the lazy dog, and the lazy dog sleeps on."
    data = deflated(text)
    for size in range(len(data) - 1):
        assert failure(receiver(parameters), data[:size]) == 1007


@settings(deadline=None, max_examples=300)
@given(
    data=st.one_of(
        st.binary(max_size=60),
        st.tuples(st.binary(max_size=60), st.binary(max_size=3)).map(lambda p: deflated(p[0]) + p[1]),
    ),
    cut=st.integers(0, 70),
    limit=st.integers(0, 80),
    no_takeover=st.booleans(),
)
def test_any_bytes_give_a_message_or_a_protocol_error(data: bytes, cut: int, limit: int, no_takeover: bool) -> None:
    def outcome(*chunks: bytes) -> object:
        deflate = receiver(NO_TAKEOVER if no_takeover else TAKEOVER)
        inflated = b""
        try:
            for index, chunk in enumerate(chunks):
                inflated += deflate.decompress(chunk, limit - len(inflated), index == len(chunks) - 1)
        except ProtocolError as exc:
            return exc.code
        assert len(inflated) <= limit
        return inflated

    whole, parts = outcome(data), outcome(data[:cut], data[cut:])
    # The cut can decide which of two faults is found first, but not whether there is one.
    assert parts == whole or {whole, parts} <= {1007, 1009}
