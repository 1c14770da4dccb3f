"""The PROXY protocol: both versions as specified, wherever the bytes are cut; everything else is refused."""

from __future__ import annotations

import itertools
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywsapp._protocol.proxy_protocol import MAX_SIZE, ProxyHeader, ProxyHeaderBuffer
from pywsapp.exceptions import ProtocolError

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL, PROXY = 0x20, 0x21
TCP4, TCP6, UNIX, UDP4 = 0x11, 0x21, 0x31, 0x12

PORTS = st.integers(0, 65535)


def binary(command: int, kind: int, body: bytes) -> bytes:
    return SIGNATURE + bytes([command, kind]) + len(body).to_bytes(2, "big") + body


def addresses(source: IPv4Address | IPv6Address, target: IPv4Address | IPv6Address, ports: tuple[int, int]) -> bytes:
    return source.packed + target.packed + b"".join(port.to_bytes(2, "big") for port in ports)


def field(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(2, "big") + value


V4 = addresses(IPv4Address("192.0.2.1"), IPv4Address("198.51.100.7"), (56324, 443))
TLS = field(0x20, b"\x01\0\0\0\0" + field(0x21, b"TLSv1.3"))
NO_TLS = field(0x20, b"\x06\0\0\0\0")


def read(data: bytes) -> tuple[ProxyHeader | None, bytes]:
    buffer = ProxyHeaderBuffer()
    return buffer.receive(data), buffer.rest


def parsed(data: bytes) -> ProxyHeader:
    """Parse a complete header, in one piece and byte by byte."""
    header, rest = read(data)
    assert header is not None
    assert rest == b""
    buffer = ProxyHeaderBuffer()
    given_back = [buffer.receive(data[at : at + 1]) for at in range(len(data))]
    assert given_back == [None] * (len(data) - 1) + [header]
    return header


def refused(data: bytes) -> str:
    with pytest.raises(ProtocolError) as caught:
        read(data)
    return str(caught.value)


# -- version 1 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "address"),
    [
        (b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n", "192.0.2.1"),
        (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255"),
        (b"PROXY TCP6 2001:DB8:0::1 2001:db8::2 0 1\r\n", "2001:db8::1"),
        (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 1\r\n", "192.0.2.1"),
        (b"PROXY UNKNOWN\r\n", ""),
        (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", ""),
        (b"PROXY UNKNOWN " + b"\xff" * 91 + b"\r\n", ""),
    ],
)
def test_a_line(line: bytes, address: str) -> None:
    assert parsed(line) == ProxyHeader(address)


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY\r\n",
        b"PROXY \r\n",
        b"PROXY TCP4\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 56324\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443 \r\n",
        b"PROXY TCP4  192.0.2.1 198.51.100.7 56324 443\r\n",
        b"PROXY TCP4 192.0.2.999 198.51.100.7 56324 443\r\n",
        b"PROXY TCP4 192.0.2.01 198.51.100.7 56324 443\r\n",
        b"PROXY TCP4 ::1 ::1 56324 443\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.7 56324 443\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 56324 443\r\n",
        b"PROXY UDP4 192.0.2.1 198.51.100.7 56324 443\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 65536 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 1 -1\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 01 1\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 1_0 1\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 \u0661 1\r\n".encode(),
        b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\n\r\n",
        b"proxy UNKNOWN\r\n",
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01",
    ],
)
def test_malformed_lines_are_refused(line: bytes) -> None:
    assert "PROXY" in refused(line)


def test_a_line_has_at_most_107_bytes() -> None:
    longest = b"PROXY UNKNOWN ".ljust(105, b"x") + b"\r\n"
    assert parsed(longest) == ProxyHeader()
    assert "without an end" in refused(longest[:-2] + b"x\r\n")
    assert read(longest[:-1])[0] is None
    assert "without an end" in refused(longest[:-2] + b"xx")


# -- version 2 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (binary(PROXY, TCP4, V4), ProxyHeader("192.0.2.1")),
        (binary(PROXY, TCP4, V4 + TLS), ProxyHeader("192.0.2.1", secure=True)),
        (binary(PROXY, TCP4, V4 + NO_TLS), ProxyHeader("192.0.2.1")),
        (binary(PROXY, TCP4, V4 + field(4, b"") + TLS + field(0xEA, bytes(50))), ProxyHeader("192.0.2.1", secure=True)),
        (binary(PROXY, TCP4, V4 + field(4, b"\xff" * 300) + TLS), ProxyHeader("192.0.2.1", secure=True)),
        (binary(PROXY, UNIX, bytes(216) + TLS), ProxyHeader(secure=True)),
        (binary(PROXY, 0, b""), ProxyHeader()),
        (binary(PROXY, 0, b"whatever"), ProxyHeader()),
        (binary(LOCAL, 0, b""), ProxyHeader(relayed=False)),
        (binary(LOCAL, TCP4, V4 + TLS), ProxyHeader(relayed=False)),
        (binary(LOCAL, 0xFF, b"junk"), ProxyHeader(relayed=False)),
        (binary(PROXY, TCP4, V4 + field(4, bytes(MAX_SIZE - 16 - 12 - 3))), ProxyHeader("192.0.2.1")),
    ],
)
def test_a_binary_header(header: bytes, expected: ProxyHeader) -> None:
    assert parsed(header) == expected


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (binary(0x11, TCP4, V4), "another version"),
        (binary(0x22, TCP4, V4), "another command"),
        (binary(PROXY, UDP4, V4), "not a stream"),
        (binary(PROXY, 0x41, V4), "not a stream"),
        (binary(PROXY, TCP4, V4[:-1]), "too short"),
        (binary(PROXY, TCP6, V4), "too short"),
        (binary(PROXY, UNIX, bytes(215)), "too short"),
        (binary(PROXY, TCP4, V4 + b"\x20"), "incomplete field"),
        (binary(PROXY, TCP4, V4 + b"\x20\0"), "incomplete field"),
        (binary(PROXY, TCP4, V4 + b"\x04\0\x02x"), "incomplete field"),
        (binary(PROXY, TCP4, V4 + TLS[:-1]), "incomplete field"),
        (binary(PROXY, TCP4, V4 + field(0x20, b"\x01\0\0\0")), "too short"),
        (binary(PROXY, TCP4, bytes(MAX_SIZE - 15)), "too long"),
        (binary(LOCAL, TCP4, bytes(MAX_SIZE)), "too long"),
        (SIGNATURE[:-1] + b"\r", "no PROXY header"),
    ],
)
def test_malformed_binary_headers_are_refused(header: bytes, why: str) -> None:
    assert why in refused(header)


def test_a_header_that_is_too_long_is_refused_by_its_length() -> None:
    assert "too long" in refused(binary(PROXY, TCP4, bytes(MAX_SIZE))[:16])


# -- any ---------------------------------------------------------------------------------------------------------------


@st.composite
def headers(draw: st.DrawFn) -> tuple[bytes, str, bool]:
    """Return a header in any form, its address, and whether it states TLS."""
    version: Literal[4, 6] = draw(st.sampled_from([4, 6]))
    source, target = draw(st.ip_addresses(v=version)), draw(st.ip_addresses(v=version))
    ports = draw(PORTS), draw(PORTS)
    address = str(getattr(source, "ipv4_mapped", None) or source)
    if draw(st.booleans()):
        return f"PROXY TCP{version} {source} {target} {ports[0]} {ports[1]}\r\n".encode(), address, False
    secure = draw(st.booleans())
    others = st.binary(max_size=40).map(lambda value: field(4, value))
    fields = [*draw(st.lists(others, max_size=3)), *([TLS] if secure else [])]
    body = addresses(source, target, ports) + b"".join(draw(st.permutations(fields)))
    return binary(PROXY, TCP4 if version == 4 else TCP6, body), address, secure


@given(headers(), st.binary(max_size=50), st.lists(st.integers(0, 400), max_size=6))
def test_any_header_at_any_cuts_with_any_bytes_after_it(
    header: tuple[bytes, str, bool], after: bytes, cuts: list[int]
) -> None:
    data, address, secure = header
    stream = data + after
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    buffer, found, rest = ProxyHeaderBuffer(), None, b""
    for start, end in itertools.pairwise(edges):
        if found is None:
            found = buffer.receive(stream[start:end])
            rest = buffer.rest
        else:
            rest += stream[start:end]
    assert found == ProxyHeader(address, secure=secure)
    assert rest == after


@given(st.binary(max_size=300), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11\0"]))
def test_any_bytes_are_a_header_or_incomplete_or_refused(data: bytes, before: bytes) -> None:
    buffer = ProxyHeaderBuffer()
    try:
        header = buffer.receive(before + data)
    except ProtocolError:
        return
    assert header is None or (before + data).endswith(buffer.rest)
