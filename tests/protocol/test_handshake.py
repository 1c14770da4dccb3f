"""The server's side of the handshake: which requests are accepted, with which response, and how others are refused.

Mirrors rfc6455's RequestVerifierTest and ServerNegotiatorTest (Ratchet's protocol library), cases 1 to 15.
"""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection
from wsproto.events import Request as WsprotoRequest
from wsproto.extensions import PerMessageDeflate as WsprotoDeflate
from wsproto.utilities import RemoteProtocolError

from pywsapp._protocol.handshake import accept, accept_token, check_upgrade, choose_subprotocol, is_upgrade
from pywsapp._protocol.http import HeadBuffer, encode_response, parse_request, parse_response
from pywsapp.exceptions import ConfigurationError, Refuse
from pywsapp.http import Request
from pywsapp.options import Deflate

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
FIELDS = {
    "Host": "server.example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}
SPOKEN = {"upgrade": "websocket", "connection": "Upgrade", "sec-websocket-version": "13"}


def raw(*further: str, line: str = "GET /chat HTTP/1.1", **changed: str | None) -> bytes:
    """Return a handshake with fields changed (named with underscores), removed (None), or added as lines."""
    fields: dict[str, str | None] = dict(FIELDS)
    for name, value in changed.items():
        original = next((key for key in fields if key.lower() == name.replace("_", "-")), name.replace("_", "-"))
        fields[original] = value
    lines = [line, *(f"{name}: {value}" for name, value in fields.items() if value is not None), *further]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")


def parse(data: bytes) -> Request:
    head = HeadBuffer(16 * 1024).receive(data)
    assert head is not None
    return parse_request(head, max_headers=100, scheme="http", remote_address="")


def status_of(data: bytes) -> int | None:
    try:
        check_upgrade(parse(data))
    except Refuse as exc:
        refuse = exc
    else:
        return None
    assert isinstance(refuse.body, str)
    assert refuse.body
    assert "\n" not in refuse.body
    if refuse.status == 426:
        assert {name.lower(): value for name, value in refuse.headers} == SPOKEN
    return refuse.status


def wsproto_response(data: bytes, *extensions: WsprotoDeflate) -> bytes:
    """Return wsproto's response to a handshake; b"" if wsproto sees no handshake. Its exceptions pass through."""
    server = WSConnection(ConnectionType.SERVER)
    server.receive_data(data)
    if not any(isinstance(event, WsprotoRequest) for event in server.events()):
        return b""
    return server.send(AcceptConnection(extensions=list(extensions)))


# -- accepted and refused ----------------------------------------------------------------------------------------------


def test_the_example_of_rfc_6455() -> None:
    request = parse(raw("Sec-WebSocket-Protocol: chat, superchat"))
    assert is_upgrade(request)
    check_upgrade(request)
    answer, parameters = accept(request, subprotocol="chat", deflate=None)
    assert answer == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    )
    assert parameters is None


@pytest.mark.parametrize(
    ("method", "status"),
    [("GET", None), ("get", None), ("POST", 405), ("HEAD", 405), ("DELETE", 405), ("PUT", 405), ("PATCH", 405)],
)
def test_ratchet_1_method(method: str, status: int | None) -> None:
    data = raw(line=f"{method} / HTTP/1.1")
    assert status_of(data) == status
    if status is not None:
        with pytest.raises(Refuse) as caught:
            check_upgrade(parse(data))
        assert caught.value.headers == (("Allow", "GET"),)


def test_wsproto_c10_another_method_gets_405() -> None:
    with pytest.raises(RemoteProtocolError) as wsproto_fails:
        wsproto_response(raw(line="POST / HTTP/1.1"))
    assert getattr(wsproto_fails.value.event_hint, "status_code", None) == 400
    with pytest.raises(Refuse) as caught:
        check_upgrade(parse(raw(line="POST / HTTP/1.1")))
    encoded = encode_response(caught.value.status, caught.value.headers, b"why", content_length=None)
    assert encoded == (
        b"HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\nConnection: close\r\nContent-Length: 3\r\n\r\nwhy"
    )


@pytest.mark.parametrize(
    ("version", "status"),
    [((1, 1), None), ((1, 2), None), ((2, 0), None), ((1, 0), 400), ((0, 9), 400)],
)
def test_ratchet_2_http_version(version: tuple[int, int], status: int | None) -> None:
    request = Request(headers=FIELDS.items(), http_version=version)
    if status is None:
        check_upgrade(request)
    else:
        with pytest.raises(Refuse) as caught:
            check_upgrade(request)
        assert caught.value.status == status


def test_wsproto_c5_http_1_0() -> None:
    data = raw(line="GET / HTTP/1.0")
    assert wsproto_response(data)
    assert status_of(data) == 400


@pytest.mark.parametrize(
    ("target", "status"), [("/", None), ("/chat?a=b", None), ("chat", 400), ("/#a", 400), ("/é", 400), ("*", 400)]
)
def test_ratchet_3_target(target: str, status: int | None) -> None:
    assert status_of(raw(line=f"GET {target} HTTP/1.1")) == status


def test_ratchet_4_host() -> None:
    assert status_of(raw(host=None)) == 400
    assert status_of(raw("Host: server.example.com")) == 400


@pytest.mark.parametrize(
    ("upgrade", "status"),
    [
        ("websocket", None),
        ("WebSocket", None),
        ("h2c, WEBSOCKET", None),
        (",\twebsocket ,", None),
        (None, 426),
        ("", 426),
        ("websocket/13", 426),
        ("websockets", 426),
        ("web socket", 426),
        ("websocket\xe9", 400),
    ],
)
def test_ratchet_5_and_9_upgrade(upgrade: str | None, status: int | None) -> None:
    assert status_of(raw(upgrade=upgrade)) == status
    assert is_upgrade(parse(raw(upgrade=upgrade))) == (status is None)


def test_an_upgrade_over_two_fields() -> None:
    assert status_of(raw("Upgrade: websocket", upgrade="h2c")) is None


@pytest.mark.parametrize(
    ("connection", "status"),
    [
        ("Upgrade", None),
        ("upgrade", None),
        ("keep-alive, Upgrade", None),
        ("UPGRADE\t,keep-alive", None),
        (None, 400),
        ("", 400),
        ("keep-alive", 400),
        ("upgraded", 400),
        ("not upgrade", 400),
        ("Upgrade, \xe9", 400),
    ],
)
def test_ratchet_6_and_10_connection(connection: str | None, status: int | None) -> None:
    assert status_of(raw(connection=connection)) == status


@pytest.mark.parametrize("order", [("keep-alive", "Upgrade"), ("Upgrade", "keep-alive")])
def test_wsproto_c6_connection_over_two_fields(order: tuple[str, str]) -> None:
    data = raw(f"Connection: {order[1]}", connection=order[0])
    if order[1] == "keep-alive":
        with pytest.raises(RemoteProtocolError):  # wsproto reads only the last one
            wsproto_response(data)
    assert status_of(data) is None


def test_wsproto_c6_upgrade_as_a_list() -> None:
    data = raw(upgrade="websocket, h2c")
    with pytest.raises(RemoteProtocolError):
        wsproto_response(data)
    assert status_of(data) is None


@pytest.mark.parametrize(
    "key",
    [
        None,
        "",
        "0",
        "Hello World",
        base64.b64encode(bytes(15)).decode(),
        base64.b64encode(bytes(17)).decode(),
        base64.b64encode(bytes(18)).decode(),
        KEY[:-1],
        KEY[:-2],
        KEY + "=",
        KEY[:-3] + " ==",
        "dGhlIHNhbXBsZSBub25j-_==",
        "====" + KEY,
        f"{KEY}, {KEY}",
        f'"{KEY}"',
        KEY[:-3] + "\xe9==",
    ],
)
def test_ratchet_7_and_11_key(key: str | None) -> None:
    data = raw(sec_websocket_key=key)
    if key:
        assert wsproto_response(data)  # C5: wsproto accepts any form
    assert status_of(data) == 400


@settings(deadline=None, max_examples=30)
@given(st.binary(min_size=16, max_size=16))
def test_any_sixteen_bytes_are_a_key(key: bytes) -> None:
    text = base64.b64encode(key).decode()
    assert status_of(raw(sec_websocket_key=text)) is None
    digest = hashlib.sha1(text.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    assert base64.b64decode(accept_token(text)) == digest


def test_a_key_can_have_unused_bits() -> None:
    key = "A" * 21 + "B=="
    assert base64.b64decode(key, validate=True) == bytes(16)
    assert status_of(raw(sec_websocket_key=key)) is None


def test_two_keys_are_refused() -> None:
    assert status_of(raw(f"Sec-WebSocket-Key: {KEY}")) == 400
    with pytest.raises(Refuse) as caught:
        check_upgrade(Request(headers=[*FIELDS.items(), ("Sec-WebSocket-Key", KEY)]))
    assert caught.value.status == 400


@pytest.mark.parametrize("version", [None, "", "12", "14", "hi", "013", "13.0", "13, 8", "1 3"])
def test_ratchet_8_and_12_version(version: str | None) -> None:
    assert status_of(raw(sec_websocket_version=version)) == 426


@pytest.mark.parametrize(
    "field",
    ["Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions"],
)
def test_wsproto_c1_non_ascii_fields_are_refused(field: str) -> None:
    data = raw(**{field.lower().replace("-", "_"): f"{FIELDS.get(field, 'x')}, \xff"})
    if field in ("Connection", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions"):
        with pytest.raises(UnicodeDecodeError):
            wsproto_response(data)
    assert status_of(data) == 400


def test_other_fields_can_be_non_ascii() -> None:
    assert status_of(raw("User-Agent: caf\xe9", "Cookie: a=\xff")) is None


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("permessage-deflate; client_max_window_bits", None),
        ("x-unknown; a=1, permessage-deflate; b=2", None),  # well-formed; the server declines it later
        ("permessage-deflate;", 400),
        ("permessage-deflate; client_max_window_bits=", 400),
        ('x; y=",permessage-deflate,"', 400),
        ("", 400),
    ],
)
def test_extensions_must_be_well_formed(value: str, status: int | None) -> None:
    assert status_of(raw(sec_websocket_extensions=value)) == status


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("a", None),
        ("a,b ,\tc", None),
        ("", 400),
        (",", 400),
        ("a b", 400),
        ("a, b/c", 400),
        ("a, a", 400),
        ('"a"', 400),
    ],
)
def test_subprotocols_must_be_well_formed(value: str, status: int | None) -> None:
    assert status_of(raw(sec_websocket_protocol=value)) == status


def test_a_subprotocol_repeated_in_another_field_is_refused() -> None:
    assert status_of(raw("Sec-WebSocket-Protocol: b", sec_websocket_protocol="a")) is None
    assert status_of(raw("Sec-WebSocket-Protocol: a", sec_websocket_protocol="a")) == 400


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), st.text(st.characters(max_codepoint=255), max_size=30)))
def test_any_field_has_a_response_or_a_refusal(changed: dict[str, str]) -> None:
    lines = [f"{name}: {value}" for name, value in {**FIELDS, **changed}.items()]
    head = "\r\n".join(["GET / HTTP/1.1", *lines]).encode("latin-1")
    try:
        request = parse_request(head, max_headers=100, scheme="http", remote_address="")
        check_upgrade(request)
    except Refuse:
        return
    answer, _ = accept(request, subprotocol=None, deflate=Deflate())
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert answer.endswith(b"\r\n\r\n")


# -- the subprotocol ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "supported", "required", "chosen"),
    [
        (("a", "b"), ("b", "a"), True, "b"),  # the server's order decides
        (("a",), ("x", "a"), True, "a"),
        (("A",), ("a",), False, None),  # they differ in case
        (("a",), ("b",), False, None),  # Ratchet 14
        ((), ("b",), False, None),
        ((), (), False, None),
        ((), (), True, None),
    ],
)
def test_ratchet_14_choosing_a_subprotocol(
    offered: tuple[str, ...], supported: tuple[str, ...], required: bool, chosen: str | None
) -> None:
    request = Request(headers=FIELDS.items(), subprotocols=offered)
    assert choose_subprotocol(request, supported, required=required) == chosen
    if chosen is None:
        assert b"Sec-WebSocket-Protocol" not in accept(request, subprotocol=None, deflate=None)[0]


@pytest.mark.parametrize(
    ("offered", "supported", "listed"),
    [
        (("a",), (), None),  # Ratchet 13
        (("a",), ("b", "c"), "b, c"),
        ((), ("b", "c"), "b, c"),  # Ratchet 15
    ],
)
def test_ratchet_13_and_15_a_required_subprotocol(
    offered: tuple[str, ...], supported: tuple[str, ...], listed: str | None
) -> None:
    with pytest.raises(Refuse) as caught:
        choose_subprotocol(Request(subprotocols=offered), supported, required=True)
    assert caught.value.status == 426
    assert {name.lower(): value for name, value in caught.value.headers} == {
        **SPOKEN,
        **({} if listed is None else {"sec-websocket-protocol": listed}),
    }


def test_an_unoffered_subprotocol_is_a_configuration_error() -> None:
    request = parse(raw("Sec-WebSocket-Protocol: a"))
    with pytest.raises(ConfigurationError, match="'b'"):
        accept(request, subprotocol="b", deflate=None)
    with pytest.raises(ConfigurationError, match="''"):
        accept(request, subprotocol="", deflate=None)


# -- the response ------------------------------------------------------------------------------------------------------


def test_further_fields_of_the_response() -> None:
    answer, _ = accept(parse(raw()), subprotocol=None, deflate=None, headers=[("Set-Cookie", "a=b"), ("X", "é")])
    assert answer.endswith(b"\r\nSet-Cookie: a=b\r\nX: \xe9\r\n\r\n")
    assert parse_response(answer[:-4], max_headers=10).headers["x"] == "é"


@pytest.mark.parametrize(
    "name",
    [
        "Sec-WebSocket-Accept",
        "sec-websocket-protocol",
        "Sec-WebSocket-Extensions",
        "Sec-WebSocket-Anything",
        "Upgrade",
        "Connection",
        "content-length",
        "Transfer-Encoding",
        "X Y",
    ],
)
def test_wsproto_c11_fields_of_the_library_cannot_be_contradicted(name: str) -> None:
    if name == "Sec-WebSocket-Accept":
        server = WSConnection(ConnectionType.SERVER)
        server.receive_data(raw())
        assert len(list(server.events())) == 1
        answer = server.send(AcceptConnection(extra_headers=[(b"Sec-WebSocket-Accept", b"nonsense")]))
        assert answer.lower().count(b"sec-websocket-accept") == 2
    with pytest.raises(ConfigurationError, match=name):
        accept(parse(raw()), subprotocol=None, deflate=None, headers=[(name, "a")])


def test_a_field_cannot_split_the_response() -> None:
    with pytest.raises(ConfigurationError, match="X-A"):
        accept(parse(raw()), subprotocol=None, deflate=None, headers=[("X-A", "a\r\nSet-Cookie: b")])


# -- permessage-deflate in the handshake -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-deflate; client_max_window_bits=abc",
        'permessage-deflate; client_max_window_bits="1x"',
    ],
)
def test_wsproto_c1_bad_window_bits_are_declined(offer: str) -> None:
    data = raw(sec_websocket_extensions=offer)
    with pytest.raises(ValueError, match="invalid literal"):
        wsproto_response(data, WsprotoDeflate())
    request = parse(data)
    check_upgrade(request)
    answer, parameters = accept(request, subprotocol=None, deflate=Deflate())
    assert b"Extensions" not in answer
    assert parameters is None


def test_wsproto_c1_quoted_window_bits_are_parsed() -> None:
    data = raw(sec_websocket_extensions='permessage-deflate; client_max_window_bits="10"')
    with pytest.raises(ValueError, match="invalid literal"):
        wsproto_response(data, WsprotoDeflate())
    answer, parameters = accept(parse(data), subprotocol=None, deflate=Deflate())
    assert b"client_max_window_bits=10\r\n" in answer
    assert parameters is not None
    assert parameters.client_max_window_bits == 10


def test_deflate_is_declined_unless_it_is_configured() -> None:
    request = parse(raw(sec_websocket_extensions="permessage-deflate"))
    answer, parameters = accept(request, subprotocol=None, deflate=None)
    assert b"Extensions" not in answer
    assert parameters is None


def test_deflate_is_not_accepted_without_an_offer() -> None:
    answer, parameters = accept(parse(raw()), subprotocol=None, deflate=Deflate())
    assert b"Extensions" not in answer
    assert parameters is None


def test_offers_over_two_fields_are_one_list() -> None:
    data = raw(
        "Sec-WebSocket-Extensions: permessage-deflate",
        sec_websocket_extensions="x-other, permessage-deflate; server_max_window_bits=8",
    )
    answer, parameters = accept(parse(data), subprotocol=None, deflate=Deflate())
    assert answer.count(b"permessage-deflate") == 1
    assert b"max_window_bits" not in answer
    assert parameters == (True, True, 12, 15)
