"""The client's side of the opening handshake (RFC 6455 sections 4.1 and 4.2.2).

The client compares the response with its request. A token made of its random key proves that the response belongs to
this request and does not come from a cache, and the response must not contain anything that the client did not offer.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pywsapp._http_text import one_line
from pywsapp._protocol.deflate import DeflateParameters, accept_response, offer
from pywsapp._protocol.extensions import parse_extensions
from pywsapp._protocol.handshake import RESERVED, accept_token
from pywsapp._protocol.http import (
    TOKEN,
    HeadBuffer,
    ResponseHead,
    encode_fields,
    has_element,
    parse_host,
    parse_response,
)
from pywsapp.exceptions import ConfigurationError, HandshakeError, Refuse
from pywsapp.http import Headers
from pywsapp.options import Deflate

_RESERVED = re.compile(f"{RESERVED.pattern}|host", re.IGNORECASE)
_KEY_SIZE = 16
_MAX_INTERIM = 8  # responses such as 103 Early Hints before the final one
_SWITCHING_PROTOCOLS = 101


class Accepted(NamedTuple):
    """The agreed parameters and the headers of the response, and the bytes that arrived after it."""

    subprotocol: str | None
    deflate: DeflateParameters | None
    headers: Headers
    rest: bytes


class ClientHandshake:
    """One opening handshake: the request to send, and the check of the response.

    Mirrors ClientNegotiator and ResponseVerifier of rfc6455, Ratchet's library.

    Attributes:
        request: the bytes to send.

    Args:
        host: the value of the Host field.
        path: path and query, percent-encoded.
        subprotocols: the subprotocols to offer, the preferred one first.
        deflate: offer permessage-deflate with this configuration; None offers no compression.
        headers: further header fields.
        key: 16 random bytes.
        max_header_size: bytes that the head of a response may have.
        max_headers: header fields that a response may have.

    Raises:
        ConfigurationError: an argument is malformed, or a header field is reserved.
    """

    __slots__ = (
        "_buffer",
        "_deflate",
        "_interim",
        "_max_header_size",
        "_max_headers",
        "_subprotocols",
        "_token",
        "request",
    )

    def __init__(
        self,
        *,
        host: str,
        path: str = "/",
        subprotocols: Sequence[str] = (),
        deflate: Deflate | None = None,
        headers: Iterable[tuple[str, str]] = (),
        key: bytes,
        max_header_size: int,
        max_headers: int,
    ) -> None:
        _check_target(host, path)
        _check_subprotocols(subprotocols)
        if len(key) != _KEY_SIZE:
            raise ConfigurationError(f"the key must have {_KEY_SIZE} bytes, not {len(key)}")
        encoded_key = b64encode(key).decode("ascii")
        lines = [
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {encoded_key}\r\nSec-WebSocket-Version: 13\r\n"
        ]
        if subprotocols:
            lines.append(f"Sec-WebSocket-Protocol: {', '.join(subprotocols)}\r\n")
        if deflate is not None:
            lines.append(f"Sec-WebSocket-Extensions: {offer(deflate)}\r\n")
        lines += encode_fields(headers, reserved=_RESERVED)
        lines.append("\r\n")
        self.request = "".join(lines).encode("latin-1")
        self._token = accept_token(encoded_key)
        self._subprotocols = tuple(subprotocols)
        self._deflate = deflate
        self._max_header_size = max_header_size
        self._max_headers = max_headers
        self._interim = 0
        self._buffer = HeadBuffer(max_header_size)

    def receive(self, data: bytes) -> Accepted | None:
        """Handle bytes of the server's response; call it until it returns a result or raises.

        Returns:
            the result of the handshake once the response is complete, else None.

        Raises:
            HandshakeError: the server refused, or its response is not valid or too long.
        """
        while True:
            try:
                head = self._buffer.receive(data)
            except Refuse as exc:
                raise HandshakeError(f"the server's response cannot be read: {exc.body!s}") from None
            if head is None:
                return None
            response = parse_response(head, max_headers=self._max_headers)
            data = self._buffer.rest
            if response.status >= 200 or response.status == _SWITCHING_PROTOCOLS:
                return self._verify(response, data)
            self._interim += 1
            if self._interim > _MAX_INTERIM:
                raise HandshakeError(f"the server sent more than {_MAX_INTERIM} interim responses", response.status)
            self._buffer = HeadBuffer(self._max_header_size)

    def _verify(self, response: ResponseHead, rest: bytes) -> Accepted:
        headers = response.headers
        if response.status != _SWITCHING_PROTOCOLS:
            reason = one_line(response.reason)
            message = f"the server answered {response.status} {reason}".rstrip()
            raise HandshakeError(message, response.status, headers=headers, body=rest)
        if response.http_version < (1, 1):
            raise _wrong("is HTTP/1.0")
        if [value.lower() for value in headers.getlist("upgrade")] != ["websocket"]:
            raise _wrong("does not have the field Upgrade: websocket")
        if not has_element(headers, "connection", "upgrade"):
            raise _wrong("does not list upgrade in its Connection field")
        if headers.getlist("sec-websocket-accept") != [self._token]:
            raise _wrong("has no Sec-WebSocket-Accept that matches the key")
        return Accepted(self._verify_subprotocol(headers), self._verify_extensions(headers), headers, rest)

    def _verify_subprotocol(self, headers: Headers) -> str | None:
        chosen = headers.getlist("sec-websocket-protocol")
        if not chosen:
            return None
        if len(chosen) > 1 or chosen[0] not in self._subprotocols:
            raise _wrong("has a subprotocol that was not offered")
        return chosen[0]

    def _verify_extensions(self, headers: Headers) -> DeflateParameters | None:
        values = headers.getlist("sec-websocket-extensions")
        try:
            extensions = parse_extensions(values)
        except ValueError as exc:
            raise _wrong(f"has a malformed Sec-WebSocket-Extensions field: {exc}") from None
        if self._deflate is not None:
            return accept_response(extensions, self._deflate)
        if extensions:
            raise _wrong("has an extension that was not offered")
        return None


def _check_target(host: str, path: str) -> None:
    try:
        parse_host(host)
    except ValueError as exc:
        raise ConfigurationError(f"{host!r} cannot be sent: {exc}") from None
    if not path.startswith("/") or "#" in path or not all("!" <= character <= "~" for character in path):
        before, query, _ = path.partition("?")  # a query can have secrets
        raise ConfigurationError(
            f"the path {before + query!r} must begin with a slash and be percent-encoded like its query, "
            "without a fragment"
        )


def _check_subprotocols(subprotocols: Sequence[str]) -> None:
    if isinstance(subprotocols, str):
        raise ConfigurationError(f"subprotocols is a list: write [{subprotocols!r}]")
    for subprotocol in subprotocols:
        if TOKEN.fullmatch(subprotocol) is None:
            raise ConfigurationError(f"{subprotocol!r} is not a valid name of a subprotocol")
    if len(set(subprotocols)) != len(subprotocols):
        raise ConfigurationError("a subprotocol is offered twice")


def _wrong(what: str) -> HandshakeError:
    return HandshakeError(f"the server's response {what}", _SWITCHING_PROTOCOLS)
