"""Compression with ISA-L."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywsapp._protocol.deflate import DeflateParameters, PerMessageDeflate, compress_shared
from pywsapp._protocol.prepared import PreparedMessage
from pywsapp._protocol.websocket import WebSocket
from pywsapp.exceptions import ConfigurationError
from pywsapp.isal import compressor
from pywsapp.options import Deflate, Options

TAIL = b"\x00\x00\xff\xff"
PAYLOADS = st.one_of(st.binary(max_size=3000), st.text(max_size=300).map(lambda text: text.encode() * 40))


@pytest.mark.parametrize("level", range(10))
@pytest.mark.parametrize("bits", range(9, 16))
def test_references_stay_within_the_window(level: int, bits: int) -> None:
    """A distance beyond the agreed window would be an error at the peer."""
    config = Deflate(level=level, compressor=compressor)
    block = bytes(range(256)) * 3
    payload = b"".join(block + b"%d" % number * 500 for number in range(40))
    for _ in range(2):  # the second one must not refer to the first one
        compressed = compress_shared(payload, bits, config)
        assert zlib.decompressobj(-bits).decompress(compressed + TAIL) == payload
    assert level == 0 or len(compressed) < len(payload) / 4


@given(st.lists(PAYLOADS, max_size=5), st.booleans(), st.integers(9, 15), st.integers(1, 9))
def test_any_messages_can_be_decompressed(payloads: list[bytes], no_takeover: bool, bits: int, mem_level: int) -> None:
    config = Deflate(compressor=compressor, mem_level=mem_level)
    parameters = DeflateParameters(no_takeover, no_takeover, bits, bits)
    sender = PerMessageDeflate(parameters, config, client=False)
    reader = PerMessageDeflate(parameters, config, client=True)
    for payload in payloads:
        assert reader.decompress(sender.compress(payload), len(payload), True) == payload


@pytest.mark.parametrize("no_takeover", [True, False])
def test_a_connection_uses_it(no_takeover: bool) -> None:
    deflate = Deflate(compressor=compressor, server_no_context_takeover=no_takeover)
    parameters = DeflateParameters(no_takeover, True, 12, 12)
    server = WebSocket(client=False, options=Options(deflate=deflate), deflate=parameters)
    client = WebSocket(client=True, options=Options(deflate=Deflate()), deflate=parameters)
    sent: list[str | PreparedMessage] = ["long enough " * 100, PreparedMessage("for many " * 200), "once more " * 150]
    wire = b"".join([server.encode(message) for message in sent])
    assert len(wire) < 250
    assert client.receive(wire) == ["long enough " * 100, "for many " * 200, "once more " * 150]


def test_a_compressor_that_is_not_a_function_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Deflate\.compressor must be a function or None, not 'isal'"):
        Deflate(compressor="isal")  # type: ignore[arg-type]
