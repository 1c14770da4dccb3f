"""The server's side of the opening handshake (RFC 6455 section 4.2).

`pywsapp._protocol.http` has parsed the request. This module checks that it is a WebSocket handshake, and writes the
response. The status of a refusal says what the client must change: 405 for another method, 426 for another protocol or
version (with the supported one), and 400 for any other fault in the request. The functions keep no state.
"""

from __future__ import annotations

import hashlib
import re
from binascii import b2a_base64
from collections.abc import Iterable, Sequence

from pywsapp._protocol.deflate import DeflateParameters, negotiate
from pywsapp._protocol.extensions import Offer, parse_extensions
from pywsapp._protocol.http import TOKEN, encode_fields, has_element
from pywsapp._request_state import access_of
from pywsapp.exceptions import ConfigurationError, Refuse
from pywsapp.http import Headers, Request
from pywsapp.options import Deflate

#: The header fields of a handshake that only the library sets, in either role.
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
#: The Accept field of the GET request of a fallback, see `pywsapp._protocol.fallback`.
_ACCEPT = re.compile(r"text/event-stream[ \t]*;[ \t]*protocol=([!#$%&'*+.^_`|~0-9A-Za-z-]+)", re.IGNORECASE)
# 22 digits and two "=" always decode to 16 bytes. The last digit has four bits too many, which are not checked: RFC
# 4648 section 3.5 allows that, and only the text of the key is used.
_KEY = re.compile(r"[0-9A-Za-z+/]{22}==")


def is_upgrade(request: Request) -> bool:
    """Return whether a request asks for `Upgrade: websocket`, in a valid handshake or not."""
    return has_element(request.headers, "upgrade", "websocket")


def protocol_asked_for(request: Request) -> str | None:
    """Return the subprotocol of a request that asks for the event stream of a fallback; None if it does not."""
    fields = request.headers.getlist("accept") if request.method == "GET" else ()
    found = _ACCEPT.fullmatch(fields[0]) if len(fields) == 1 else None
    return None if found is None else found[1]


def check_upgrade(request: Request) -> None:
    """Check that a request is a WebSocket handshake (RFC 6455 section 4.2.1; Ratchet's RequestVerifier).

    Raises:
        Refuse: 405 for a method other than GET, 426 without an upgrade or version 13, 400 for any other fault.
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
    """Choose a subprotocol that both sides support (RFC 6455 section 4.2.2; Ratchet's ServerNegotiator).

    Args:
        request: the handshake.
        supported: the subprotocols of the server, the preferred one first.
        required: refuse a handshake without a common subprotocol (Ratchet's strict check). A client that offers none
            and a server that supports none agree.

    Raises:
        Refuse: 426 with the subprotocols of the server.
    """
    for subprotocol in supported:
        if subprotocol in request.subprotocols:
            return subprotocol
    if required and (supported or request.subprotocols):
        list_field = [("Sec-WebSocket-Protocol", ", ".join(supported))] if supported else []
        raise Refuse(426, [*list_field, *UPGRADE_HEADERS], "none of the requested subprotocols is supported")
    access = access_of(request)  # the name beside a token: a browser needs one of its subprotocols
    return None if access is None else access.subprotocol


def accept(
    request: Request, *, subprotocol: str | None, deflate: Deflate | None, headers: Iterable[tuple[str, str]] = ()
) -> tuple[bytes, DeflateParameters | None]:
    """Return the response that accepts a handshake (RFC 6455 section 4.2.2); `check_upgrade` must have passed.

    Args:
        request: the handshake.
        subprotocol: one of the subprotocols that the client offers, or None.
        deflate: how permessage-deflate can be used; None declines it.
        headers: further header fields.

    Returns:
        the bytes of the response, and the agreed parameters of permessage-deflate or None.

    Raises:
        ConfigurationError: the client does not offer the subprotocol, or a header field is malformed or reserved.
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
    if (agreed := agree_on_deflate(request, deflate)) is not None:
        extension, parameters = agreed
        lines.append(f"Sec-WebSocket-Extensions: {extension}\r\n")
    lines += encode_fields(headers, reserved=RESERVED)
    lines.append("\r\n")
    return "".join(lines).encode("latin-1"), parameters


def agree_on_deflate(request: Request, deflate: Deflate | None) -> tuple[str, DeflateParameters] | None:
    """Return the value of Sec-WebSocket-Extensions and the parameters of permessage-deflate; None without it.

    The same arguments always give the same result.

    Args:
        request: the handshake.
        deflate: how permessage-deflate can be used; None declines it.
    """
    return None if deflate is None else negotiate(_offers(request.headers), deflate)


def accept_token(key: str) -> str:
    """Return the value of Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455 section 4.2.2 item 5.4)."""
    # SHA-1 protects no secret here. The flag allows it on machines in FIPS mode.
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
