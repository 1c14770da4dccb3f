"""The server's half of the opening handshake (RFC 6455 section 4.2).

A request has been read by `pywsapp._protocol.http`; here it is checked for being a WebSocket handshake, and answered.
Each fault has the status that tells the client what to do about it: 405 another method, 426 another protocol or
version (with the one that is spoken), 400 mend the request. Nothing is remembered between the calls.
"""

from __future__ import annotations

import hashlib
import re
from binascii import b2a_base64
from collections.abc import Iterable, Sequence

from pywsapp._protocol.deflate import DeflateParameters, negotiate
from pywsapp._protocol.extensions import Offer, parse_extensions
from pywsapp._protocol.http import TOKEN, encode_fields, has_element
from pywsapp.exceptions import ConfigurationError, Refuse
from pywsapp.http import Headers, Request
from pywsapp.options import Deflate

#: The fields of a handshake that only the library may set, in either role.
RESERVED = re.compile(r"upgrade|connection|content-length|transfer-encoding|sec-websocket-.*", re.IGNORECASE)

_HANDSHAKE_FIELDS = frozenset(
    {
        "connection",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-version",
        "upgrade",
    }
)
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_VERSION = "13"
#: The header fields of a 426 response (RFC 9110 section 15.5.22, RFC 6455 section 4.4).
UPGRADE_HEADERS = (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", _VERSION))
# 22 digits and two "=" always decode to 16 bytes. The four bits that the last digit has too many are not looked at:
# RFC 4648 section 3.5 leaves it open, and only the text enters the answer.
_KEY = re.compile(r"[0-9A-Za-z+/]{22}==")


def is_upgrade(request: Request) -> bool:
    """Tell whether a request asks for `Upgrade: websocket`, rightly or not."""
    return has_element(request.headers, "upgrade", "websocket")


def check_upgrade(request: Request) -> None:
    """Check that a request is a WebSocket handshake (RFC 6455 section 4.2.1; Ratchet's RequestVerifier).

    Raises:
        Refuse: 405 not GET, 426 no upgrade or not version 13, 400 anything else that is wrong.
    """
    if request.method.upper() != "GET":
        raise Refuse(405, [("Allow", "GET")], "a WebSocket handshake is a GET request")
    if request.http_version < (1, 1):
        raise Refuse(400, body="a WebSocket handshake needs HTTP/1.1")
    headers = request.headers
    for name, value in headers.multi_items():
        if name in _HANDSHAKE_FIELDS and not value.isascii():
            raise Refuse(400, body=f"the field {name} is not ASCII")
    if not has_element(headers, "upgrade", "websocket"):
        raise Refuse(426, UPGRADE_HEADERS, "the Upgrade field must ask for websocket")
    if not has_element(headers, "connection", "upgrade"):
        raise Refuse(400, body="the Connection field must list upgrade")
    if headers.getlist("sec-websocket-version") != [_VERSION]:
        raise Refuse(426, UPGRADE_HEADERS, f"Sec-WebSocket-Version must be {_VERSION}")
    keys = headers.getlist("sec-websocket-key")
    if len(keys) != 1 or _KEY.fullmatch(keys[0]) is None:
        raise Refuse(400, body="Sec-WebSocket-Key must be 16 bytes in base64, once")
    if "sec-websocket-protocol" in headers:
        _check_subprotocols(request.subprotocols)
    _offers(headers)


def choose_subprotocol(request: Request, supported: Sequence[str], *, required: bool) -> str | None:
    """Choose the subprotocol that both sides speak (RFC 6455 section 4.2.2; Ratchet's ServerNegotiator).

    Args:
        request: the handshake.
        supported: what the server speaks, the preferred one first.
        required: refuse when there is none in common (Ratchet's strict check). A client that asks for none and a
            server that has none agree.

    Raises:
        Refuse: 426 with the server's list.
    """
    for subprotocol in supported:
        if subprotocol in request.subprotocols:
            return subprotocol
    if required and (supported or request.subprotocols):
        spoken = [("Sec-WebSocket-Protocol", ", ".join(supported))] if supported else []
        raise Refuse(426, [*spoken, *UPGRADE_HEADERS], "none of the requested subprotocols is supported")
    return None


def accept(
    request: Request, *, subprotocol: str | None, deflate: Deflate | None, headers: Iterable[tuple[str, str]] = ()
) -> tuple[bytes, DeflateParameters | None]:
    """Write the answer that accepts a handshake which `check_upgrade` let pass (RFC 6455 section 4.2.2).

    Args:
        request: the handshake.
        subprotocol: one of those the client offered, or None.
        deflate: how permessage-deflate may be used; None declines it.
        headers: further fields.

    Returns:
        The bytes of the response, and the compression that is in force behind them.

    Raises:
        ConfigurationError: the client did not offer the subprotocol, or a field is malformed or the library's own.
    """
    lines = [
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_token(request.headers['sec-websocket-key'])}\r\n"
    ]
    if subprotocol is not None:
        if subprotocol not in request.subprotocols:
            raise ConfigurationError(f"the client did not offer the subprotocol {subprotocol!r}")
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}\r\n")
    parameters = None
    if deflate is not None and (agreed := negotiate(_offers(request.headers), deflate)) is not None:
        answer, parameters = agreed
        lines.append(f"Sec-WebSocket-Extensions: {answer}\r\n")
    lines += encode_fields(headers, reserved=RESERVED)
    lines.append("\r\n")
    return "".join(lines).encode("latin-1"), parameters


def accept_token(key: str) -> str:
    """Give the value of Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455 section 4.2.2 item 5.4)."""
    # SHA-1 proves no secret here, and machines in FIPS mode refuse it for that.
    digest = hashlib.sha1(key.encode("ascii") + _GUID, usedforsecurity=False).digest()
    return b2a_base64(digest, newline=False).decode("ascii")


def _offers(headers: Headers) -> list[Offer]:
    try:
        return parse_extensions(headers.getlist("sec-websocket-extensions"))
    except ValueError as exc:
        raise Refuse(400, body=f"Sec-WebSocket-Extensions is malformed: {exc}") from None


def _check_subprotocols(subprotocols: tuple[str, ...]) -> None:
    if not subprotocols or not all(TOKEN.fullmatch(subprotocol) for subprotocol in subprotocols):
        raise Refuse(400, body="Sec-WebSocket-Protocol is malformed")
    if len(set(subprotocols)) != len(subprotocols):
        raise Refuse(400, body="Sec-WebSocket-Protocol names a subprotocol twice")
