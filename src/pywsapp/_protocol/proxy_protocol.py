r"""The PROXY protocol, versions 1 and 2: what a load balancer states before it forwards the bytes of a connection.

HAProxy's document proxy-protocol.txt defines it. Before the first byte of the client, TLS included, the load balancer
sends one header with the client's address. Version 1 is a line of text:

    PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n          at most 107 bytes
    PROXY UNKNOWN\r\n                                          the client is unknown: use the connection's own address

Version 2 is binary:

    12 bytes    a signature that no other protocol begins with
     1 byte     version 2, and the command: LOCAL (the load balancer's own connection, a health check) or PROXY
     1 byte     the family (unspecified, IPv4, IPv6, Unix) and the transport
     2 bytes    the length of the rest
                both addresses and both ports: 12 bytes for IPv4, 36 for IPv6, 216 for Unix
                type-length-value fields; one of them describes the TLS connection that ends at the load balancer

A connection with a malformed header is unusable, because the bytes after it would count as the client's. The header
cannot be optional either: a client could then write one itself.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from pywsapp._addresses import unmapped
from pywsapp.close_codes import CloseCode
from pywsapp.exceptions import ProtocolError

#: The largest header that is accepted, in bytes. Addresses and TLS take a few hundred, a client certificate some more.
MAX_SIZE = 4096

_MAX_LINE = 107
_LINE = b"PROXY "
_KINDS: dict[str, Callable[[str], IPv4Address | IPv6Address]] = {"TCP4": IPv4Address, "TCP6": IPv6Address}
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED = len(_SIGNATURE) + 4
_LOCAL, _PROXY = 0x20, 0x21
_STREAM = {0x11: 4, 0x21: 16, 0x31: 108}  # the family and TCP: bytes of an address
_UNSPECIFIED = 0x00
_SSL_FIELD = 0x20
_CLIENT_SSL = 0x01


class ProxyHeader(NamedTuple):
    """The statements of a load balancer about a connection.

    Attributes:
        address: the client's IP address in canonical spelling; `""` if the load balancer does not state it.
        secure: True if the client uses TLS to the load balancer.
        relayed: True if there is a client; False for the load balancer's own connection, a health check.
    """

    address: str = ""
    secure: bool = False
    relayed: bool = True


class ProxyHeaderBuffer:
    """The buffer of the header at the beginning of a connection, until the header is complete.

    Attributes:
        rest: the bytes that arrived after the header; empty until the header is complete.
    """

    __slots__ = ("_buffer", "rest")

    def __init__(self) -> None:
        self._buffer = b""
        self.rest = b""

    def receive(self, data: bytes) -> ProxyHeader | None:
        """Add bytes of the peer; call it until it returns a header or raises.

        Returns:
            the header once it is complete, else None.

        Raises:
            ProtocolError: the bytes are not a header. The caller must close the connection without an answer.
        """
        buffer = self._buffer = self._buffer + data
        line = buffer.startswith(_LINE[: len(buffer)])
        if not line and not buffer.startswith(_SIGNATURE[: len(buffer)]):
            raise _fault("no PROXY header")
        size = _size_of_line(buffer) if line else _size_of_binary(buffer)
        if size is None or len(buffer) < size:
            return None
        self._buffer, self.rest = b"", buffer[size:]
        return _parse_line(buffer[:size]) if line else _parse_binary(buffer[:size])


def _size_of_line(buffer: bytes) -> int | None:
    end = buffer.find(b"\r\n", 0, _MAX_LINE)
    if end >= 0:
        return end + 2
    if len(buffer) >= _MAX_LINE:
        raise _fault("a PROXY line without an end")
    return None


def _parse_line(line: bytes) -> ProxyHeader:
    words = line[:-2].split(b" ")
    if words[1] == b"UNKNOWN":  # the standard says to ignore the rest of the line
        return ProxyHeader()
    try:
        _, family, *addresses, source_port, target_port = line[:-2].decode("ascii").split(" ")
        source, _ = [_KINDS[family](address) for address in addresses]
        for port in (source_port, target_port):
            if str(int(port)) != port or not 0 <= int(port) <= 65535:
                raise ValueError(port)
    except (ValueError, KeyError):
        raise _fault("a malformed PROXY line") from None
    return ProxyHeader(_canonical(source))


def _size_of_binary(buffer: bytes) -> int | None:
    if len(buffer) < _FIXED:
        return None
    size = _FIXED + int.from_bytes(buffer[_FIXED - 2 : _FIXED], "big")
    if size > MAX_SIZE:
        raise _fault("a PROXY header that is too long")
    return size


def _parse_binary(header: bytes) -> ProxyHeader:
    command, kind = header[12], header[13]
    if command == _LOCAL:  # the standard says to ignore the rest
        return ProxyHeader(relayed=False)
    if command != _PROXY:
        raise _fault("a PROXY header of another version or with another command")
    if kind == _UNSPECIFIED:
        return ProxyHeader()
    size = _STREAM.get(kind)
    if size is None:
        raise _fault("a PROXY header for a connection that is not a stream")
    ports = 0 if kind == 0x31 else 4
    fields = _FIXED + 2 * size + ports
    if len(header) < fields:
        raise _fault("a PROXY header that is too short for its addresses")
    source = header[_FIXED : _FIXED + size]
    address = _canonical(IPv4Address(source) if size == 4 else IPv6Address(source)) if ports else ""
    return ProxyHeader(address, secure=_has_tls(header, fields))


def _has_tls(header: bytes, position: int) -> bool:
    """Return whether the type-length-value fields state that the client uses TLS."""
    secure = False
    while position < len(header):
        start = position + 3
        end = start + int.from_bytes(header[position + 1 : start], "big")
        if start > len(header) or end > len(header):
            raise _fault("a PROXY header with an incomplete field")
        if header[position] == _SSL_FIELD:
            if end - start < 5:  # a byte of flags, and four with the result of verifying the client's certificate
                raise _fault("a PROXY header with a TLS field that is too short")
            secure = bool(header[start] & _CLIENT_SSL)
        position = end
    return secure


def _canonical(address: IPv4Address | IPv6Address) -> str:
    if getattr(address, "scope_id", None):
        raise _fault("a PROXY header whose address has a zone")
    return str(unmapped(address))


def _fault(reason: str) -> ProtocolError:
    return ProtocolError(CloseCode.PROTOCOL_ERROR, reason)
