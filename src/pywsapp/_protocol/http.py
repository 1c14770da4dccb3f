"""The head of an HTTP/1.1 message: finding its end, parsing it strictly, writing it.

A WebSocket begins as one HTTP request (RFC 6455 section 4), and a proxy or cache in front of the server reads the same
bytes. This module refuses, and never repairs, everything that two readers could understand differently: a bare CR or
LF, a control character, a folded field, a space before the colon, a second Host, two lengths (RFC 9112 sections 2.2, 5
and 6.3), a path with `..`, which some proxies resolve before they look for a rule and pass on as it came (RFC 3986
section 5.2.4). Request smuggling exploits such differences.

The work is bounded before it begins. `HeadBuffer` holds at most `max_size` bytes and one read, and searches each byte
once. A head is then parsed in a few linear passes, whatever the peer sends. A count proves that every control character
belongs to a CRLF. One pattern parses the first line, and one finds *all* fields, which must start right after a CRLF;
fewer fields than lines mean that a line is not a field. No pattern has two neighbouring parts that match the same
character, so none backtracks more than once over its input. Only a head that failed is examined line by line, to say
what is wrong with it.

Values are latin-1 (a byte is a character), as HTTP defines them. Only the path is percent-decoded, as UTF-8.

An open connection keeps its request. Parts that many requests share (the method, the version, the host and its port)
are one object for all of them.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from pywsapp._http_text import BODYLESS_STATUSES, phrase
from pywsapp.exceptions import ConfigurationError, HandshakeError, Refuse
from pywsapp.http import Headers, Request, _new_headers

#: The characters of a token (RFC 9110 section 5.6.2), for use inside the brackets of a pattern.
TOKEN_CHARS = r"!#$%&'*+\-.^_`|~0-9A-Za-z"
TOKEN = re.compile(rf"[{TOKEN_CHARS}]+")

_END = b"\r\n\r\n"
_TLS_START = b"\x16\x03"  # a handshake record of SSL 3.0 to TLS 1.3 (RFC 8446 section 5.1)
_MAX_BLANK_LINES = 4  # some clients send a CRLF too many after a body (RFC 9112 section 2.2)
_TOKEN_BYTES = frozenset(byte for byte in range(128) if TOKEN.fullmatch(chr(byte)))

_VALUE_CHARS = r"\t\x20-\x7e\x80-\xff"
_VALUE = re.compile(rf"[{_VALUE_CHARS}]*")
_REQUEST_LINE = re.compile(
    rf"([{TOKEN_CHARS}]+) (/[!-\"$->@-~]*)(?:\?([!-\"$-~]*))? HTTP/1\.([01])(?=\r\n|\Z)"  # no "#", no "?" in the path
)
_STATUS_LINE = re.compile(rf"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([{_VALUE_CHARS}]*))?(?=\r\n|\Z)")
_VERSION = re.compile(r"HTTP/[0-9]\.[0-9]")
_FIELD = re.compile(rf"\r\n([{TOKEN_CHARS}]+):[ \t]*([^\r]*)")
_TEXT_BYTES = bytes(byte for byte in range(256) if _VALUE.fullmatch(chr(byte)))
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST = re.compile(r"(?:([0-9A-Za-z_-]+(?:\.[0-9A-Za-z_-]+)*\.?)|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{0,5}))?")
_DOT_SEGMENTS = frozenset((".", ".."))
_MAX_LENGTH_DIGITS = 18  # always fits a signed 64-bit integer; Python refuses to convert thousands of digits
_MAX_HOST = 255  # the limit of a domain name (RFC 1035 section 2.3.4)
_KEPT_HOSTS = 256  # parsed Host fields; a peer can choose them
_VERSIONS = {"0": (1, 0), "1": (1, 1)}

#: A second field of these names is an attack or a mistake: readers differ in which of the two they use.
_SINGLE = ("Host", "Origin", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Content-Length")
_FRAMING = re.compile(r"content-length|transfer-encoding", re.IGNORECASE)


class HeadBuffer:
    """The buffer of the head of a message, until the head is complete (Ratchet's HttpRequestParser).

    Attributes:
        rest: the bytes that arrived after the head; empty until the head is complete.

    Args:
        max_size: bytes that the head may have, without its final empty line.
    """

    __slots__ = ("_blank_lines", "_buffer", "_max_size", "rest")

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._buffer = bytearray()
        self._blank_lines = 0
        self.rest = b""

    @property
    def received(self) -> int:
        """Bytes of a head that is not complete."""
        return len(self._buffer)

    def receive(self, data: bytes) -> bytes | None:
        """Add bytes of the peer; call it until it returns a head or raises.

        Returns:
            the head without its final CRLFCRLF once it is complete, else None.

        Raises:
            Refuse: 400 if the bytes cannot be a message, 414 if the first line is longer than the limit, 431 if the
                head is.
        """
        searched = len(self._buffer)
        buffer: bytes | bytearray = data
        if searched:
            self._buffer += data
            buffer = self._buffer
        if buffer and buffer[0] not in _TOKEN_BYTES:
            buffer = self._skip_blank_lines(buffer)
            searched = 0
        end = buffer.find(_END, max(0, searched - 3))
        # The last three bytes may be the beginning of the end.
        if end > self._max_size or (end < 0 and len(buffer) >= self._max_size + len(_END)):
            raise self._too_long(buffer)
        if end < 0:
            if buffer is not self._buffer:
                self._buffer = bytearray(buffer)
            return None
        self.rest = bytes(buffer[end + len(_END) :])
        self._buffer = bytearray()
        return bytes(buffer[:end])

    def _skip_blank_lines(self, buffer: bytes | bytearray) -> bytes | bytearray:
        start = 0
        while buffer.startswith(b"\r\n", start):
            start += 2
            self._blank_lines += 1
            if self._blank_lines > _MAX_BLANK_LINES:
                raise Refuse(400, body="too many empty lines before the first line")
        first = buffer[start : start + 2]
        if first and first != b"\r" and first[0] not in _TOKEN_BYTES:
            if first == _TLS_START:
                raise Refuse(400, body="this is TLS, and the port serves plain HTTP")
            raise Refuse(400, body="this is not HTTP")
        return buffer[start:] if start else buffer

    def _too_long(self, buffer: bytes | bytearray) -> Refuse:
        if buffer.find(b"\r\n", 0, self._max_size + 2) < 0:
            return Refuse(414, body=f"the first line is longer than {self._max_size} bytes")
        return Refuse(431, body=f"the head is longer than {self._max_size} bytes")


class ResponseHead(NamedTuple):
    """The head of a response."""

    status: int
    reason: str
    headers: Headers
    http_version: tuple[int, int]


def parse_request(head: bytes, *, max_headers: int, scheme: str, remote_address: str) -> Request:
    """Parse the head of a request (Ratchet's HttpRequestParser and the first half of its RequestVerifier).

    Args:
        head: the result of a `HeadBuffer`.
        max_headers: header fields that the request may have.
        scheme: `"http"`, or `"https"` over TLS.
        remote_address: the peer's IP address.

    Raises:
        Refuse: 400 for a malformed head, 431 for too many fields, 505 for a version other than HTTP/1.0 and HTTP/1.1.
    """
    text = head.decode("latin-1")
    line = _REQUEST_LINE.match(text)
    if line is None:
        raise _bad_request_line(text.partition("\r\n")[0])
    method, path, query, minor = line.groups()
    lines = head.count(b"\r\n")
    if lines > max_headers:
        raise Refuse(431, body=f"more than {max_headers} header fields")
    try:
        headers = _parse_fields(head, text, lines)
        fields = headers._index
        if len(fields) != lines:
            _check_single(headers.multi_items())
        if "content-length" in fields or "transfer-encoding" in fields:
            _check_body(method, fields)
        host, port = "", None
        if "host" in fields:
            host, port = parse_host(fields["host"])
        elif minor == "1":
            raise ValueError("the Host field is missing")
        if "%" in path:
            path = _decode_path(path)
        if "/." in path and not _DOT_SEGMENTS.isdisjoint(path.split("/")):
            raise ValueError("the path has a segment . or .., which clients resolve before they send it")
    except ValueError as exc:
        raise Refuse(400, body=str(exc)) from None
    return Request(
        method=sys.intern(method),
        path=path,
        query_string=query or "",
        headers=headers,
        http_version=_VERSIONS[minor],
        scheme=scheme,
        host=host,
        port=port,
        remote_address=remote_address,
        subprotocols=list_elements(headers, "sec-websocket-protocol") if "sec-websocket-protocol" in fields else (),
    )


def parse_response(head: bytes, *, max_headers: int) -> ResponseHead:
    """Parse the head of a response.

    Args:
        head: the result of a `HeadBuffer`.
        max_headers: header fields that the response may have.

    Raises:
        HandshakeError: the head is malformed, or has too many fields.
    """
    text = head.decode("latin-1")
    line = _STATUS_LINE.match(text)
    if line is None:
        raise HandshakeError("the server's response does not begin with a status line of HTTP/1.1 or HTTP/1.0")
    lines = head.count(b"\r\n")
    if lines > max_headers:
        raise HandshakeError(f"the server's response has more than {max_headers} header fields")
    try:
        headers = _parse_fields(head, text, lines)
    except ValueError as exc:
        raise HandshakeError(f"the server's response is malformed: {exc}") from None
    minor, status, reason = line.groups()
    return ResponseHead(int(status), reason or "", headers, _VERSIONS[minor])


def encode_response(
    status: int,
    headers: Iterable[tuple[str, str]],
    body: bytes | None,
    *,
    content_length: int | None,
    date: str | None = None,
) -> bytes:
    """Return a response after which the connection is closed.

    Args:
        status: the HTTP status.
        headers: further header fields. A Connection field among them (a 426 has one) is sent in addition to `close`.
        body: the content; None returns the head alone, for HEAD or for content that is sent later.
        content_length: bytes of the content when `body` is None; None omits the field.
        date: the value of the Date field.

    Raises:
        ConfigurationError: a header field is malformed, or this function sets it.
    """
    lines = [
        f"HTTP/1.1 {status} {phrase(status)}\r\n",
        *encode_fields(headers, reserved=_FRAMING),
        "Connection: close\r\n",
    ]
    if date is not None:
        lines += encode_fields([("Date", date)])
    if status in BODYLESS_STATUSES:  # such a response has no content, and with a length some clients would wait for it
        body = None
    elif body is not None:
        content_length = len(body)
    if content_length is not None and status not in BODYLESS_STATUSES:
        lines.append(f"Content-Length: {content_length}\r\n")
    lines.append("\r\n")
    return "".join(lines).encode("latin-1") + (body or b"")


def encode_fields(headers: Iterable[tuple[str, str]], *, reserved: re.Pattern[str] | None = None) -> list[str]:
    """Return header fields as lines; no value can start another line.

    Args:
        headers: names and values.
        reserved: matches the names that only the library sets.

    Raises:
        ConfigurationError: a field is malformed or reserved. The message names it, and does not show the value, which
            can be a secret.
    """
    lines = []
    for name, value in headers:
        try:
            valid_name, valid_value = TOKEN.fullmatch(name), _VALUE.fullmatch(value)
        except TypeError:
            raise ConfigurationError(f"the header field {name!r} and its value must be a str") from None
        if valid_name is None:
            raise ConfigurationError(f"{name!r} is not a valid name of a header field")
        if valid_value is None:
            raise ConfigurationError(f"the value of the header field {name} must be latin-1 text of one line")
        if reserved is not None and reserved.fullmatch(name) is not None:
            raise ConfigurationError(f"the header field {name} is set by the library; leave it out")
        lines.append(f"{name}: {value}\r\n")
    return lines


@lru_cache(_KEPT_HOSTS)
def parse_host(value: str) -> tuple[str, int | None]:
    """Parse the value of a Host field (RFC 9112 section 3.2).

    Returns:
        the name or address in lower case, without brackets, and the port or None.

    Raises:
        ValueError: the value is empty or malformed.
    """
    match = _HOST.fullmatch(value) if len(value) <= _MAX_HOST + 6 else None
    if match is None:
        raise ValueError("the Host field is empty or malformed")
    name, address, digits = match.groups()
    if address is not None:
        try:
            ipaddress.IPv6Address(address)
        except ValueError:
            raise ValueError("the Host field has a malformed IPv6 address") from None
    port = int(digits) if digits else None
    if port is not None and port > 65535:
        raise ValueError("the Host field has a port above 65535")
    return (address or name).lower(), port


def list_elements(headers: Headers, name: str) -> tuple[str, ...]:
    """Return the non-empty elements of a comma-separated field, from all its lines (RFC 9110 section 5.6.1)."""
    values = headers.getlist(name)
    return tuple(element for value in values for part in value.split(",") if (element := part.strip(" \t")))


def has_element(headers: Headers, name: str, element: str) -> bool:
    """Return whether a comma-separated field contains an element; the case is ignored, `element` must be lower case."""
    for value in headers.getlist(name):
        value = value.lower()
        if value == element or any(part.strip(" \t") == element for part in value.split(",")):
            return True
    return False


def _parse_fields(head: bytes, text: str, lines: int) -> Headers:
    if len(head.translate(None, _TEXT_BYTES)) != 2 * lines:
        raise ValueError("there is a control character, or a bare CR or LF")
    fields = _FIELD.findall(text)
    if len(fields) != lines:
        raise ValueError(_field_fault(text))
    # Only space and tab: a plain str.rstrip() would also remove the no-break space of latin-1.
    return _new_headers([(name.lower(), value.rstrip(" \t")) for name, value in fields])


def _field_fault(text: str) -> str:
    line = next(line for line in text.split("\r\n")[1:] if _FIELD.fullmatch(f"\r\n{line}") is None)
    name, colon, _ = line.partition(":")
    if line.startswith((" ", "\t")):
        return "a header field is folded over several lines"
    if not colon:
        return "a header field has no colon"
    if name.endswith((" ", "\t")):
        return "a header field has a space before its colon"
    return "a header field has a malformed name"


def _bad_request_line(line: str) -> Refuse:
    parts = line.split(" ")
    if len(parts) != 3:
        return Refuse(400, body="the request line is malformed")
    method, target, version = parts
    if _VERSION.fullmatch(version) is None:
        return Refuse(400, body="the HTTP version is malformed")
    if version not in ("HTTP/1.0", "HTTP/1.1"):
        return Refuse(505, body="only HTTP/1.1 is supported")
    if TOKEN.fullmatch(method) is None:
        return Refuse(400, body="the method is malformed")
    if not target.startswith("/"):
        return Refuse(400, body="the request target must be a path that begins with a slash")
    if "#" in target:
        return Refuse(400, body="the request target must not have a fragment")
    return Refuse(400, body="the request target must be visible ASCII characters only")


def _check_single(items: tuple[tuple[str, str], ...]) -> None:
    names = [name for name, _ in items]
    for name in _SINGLE:
        if names.count(name.lower()) > 1:
            raise ValueError(f"there is more than one {name} field")


def _check_body(method: str, fields: dict[str, str]) -> None:
    length = fields.get("content-length", "0")
    if not (length.isascii() and length.isdigit() and len(length) <= _MAX_LENGTH_DIGITS):
        raise ValueError("the Content-Length field is malformed")
    if "transfer-encoding" in fields and "content-length" in fields:
        raise ValueError("Content-Length and Transfer-Encoding exclude each other")
    if method.upper() in ("GET", "HEAD") and ("transfer-encoding" in fields or length.strip("0")):
        raise ValueError("a GET or HEAD request must not have a body")


def _decode_path(path: str) -> str:
    if _BAD_ESCAPE.search(path) is not None:
        raise ValueError("the path has a malformed percent-encoding")
    try:
        decoded = unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        raise ValueError("the path is not UTF-8 after percent-decoding") from None
    if "\0" in decoded:
        raise ValueError("the path has a NUL character")
    return decoded
