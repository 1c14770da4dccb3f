"""Any bytes are one PROXY header or one refusal, the same wherever they are cut; no byte after the header is lost."""

from __future__ import annotations

from ipaddress import ip_address

from harness import fuzz, instrumented, pieces

with instrumented():
    from pywsapp._protocol.proxy_protocol import MAX_SIZE, ProxyHeader, ProxyHeaderBuffer
    from pywsapp.exceptions import ProtocolError

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
ADDRESSES = {
    0x11: bytes([192, 0, 2, 1, 198, 51, 100, 7, 0xDC, 4, 1, 0xBB]),
    0x21: bytes.fromhex("20010db8000000000000000000000001" * 2) + bytes([0xDC, 4, 1, 0xBB]),
    0x31: b"/run/client".ljust(108, b"\0") + b"/run/server".ljust(108, b"\0"),
    0x00: b"",
}
TLS_FIELD = b"\x20\x00\x0f\x07\0\0\0\0\x21\0\x07TLSv1.3"


def read(parts: list[bytes]) -> tuple[ProxyHeader, bytes] | None:
    """Return a header and the bytes after it, or None if the header is not complete.

    Raises:
        ProtocolError: the bytes are not a header.
    """
    buffer = ProxyHeaderBuffer()
    for number, part in enumerate(parts):
        header = buffer.receive(part)
        if header is not None:
            return header, buffer.rest + b"".join(parts[number + 1 :])
    return None


def outcome(parts: list[bytes]) -> tuple[ProxyHeader, bytes] | str | None:
    try:
        return read(parts)
    except ProtocolError as exc:
        return str(exc)


def one_input(data: bytes) -> None:
    """Run one input: three bytes of cuts, and a stream."""
    stream = data[3:]
    whole, cut = outcome([stream]), outcome(list(pieces(stream, data[:3])))
    assert isinstance(whole, str) == isinstance(cut, str)
    if isinstance(whole, str) or whole is None:
        if whole is None:
            assert cut is None
            assert len(stream) < MAX_SIZE
        return
    assert whole == cut
    header, rest = whole
    size = len(stream) - len(rest)
    assert stream.endswith(rest)
    assert stream.startswith(SIGNATURE) or (size <= 107 and stream[:size].endswith(b"\r\n"))
    assert size <= MAX_SIZE
    if header.address:
        assert str(ip_address(header.address)) == header.address
        assert header.relayed


def seeds() -> list[bytes]:
    lines = [
        b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\nGET / HTTP/1.1\r\n",
        b"PROXY TCP6 2001:db8::1 ::ffff:198.51.100.7 0 65535\r\n",
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN " + b"f" * 93 + b"\r\n",
        b"PROXY TCP4 " + b"1" * 200,
        b"GET / HTTP/1.1\r\n\r\n",
    ]
    binary = [
        SIGNATURE + bytes([command, kind]) + (len(body)).to_bytes(2, "big") + body + b"after"
        for command in (0x20, 0x21)
        for kind, addresses in ADDRESSES.items()
        for body in ([addresses, addresses + b"\x04\0\0" + TLS_FIELD] if addresses else [b""])
    ]
    return [cuts + stream for cuts in (b"\1\0\0", b"\5\3\7") for stream in lines + binary]


if __name__ == "__main__":
    fuzz(one_input, seeds())
