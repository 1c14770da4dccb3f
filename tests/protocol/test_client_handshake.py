"""The client's side of the handshake: the request, and the refusal of responses with anything that was not offered.

Mirrors rfc6455's ResponseVerifierTest (Ratchet's protocol library), case 35.
"""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, RejectConnection
from wsproto.events import Request as WsprotoRequest
from wsproto.extensions import PerMessageDeflate as WsprotoDeflate

from pywsapp._protocol.client_handshake import Accepted, ClientHandshake
from pywsapp._protocol.deflate import DeflateParameters, PerMessageDeflate
from pywsapp._protocol.handshake import accept, accept_token, check_upgrade, choose_subprotocol
from pywsapp._protocol.http import HeadBuffer, parse_request
from pywsapp.exceptions import ConfigurationError, HandshakeError
from pywsapp.options import Deflate

KEY = b"the sample nonce"
TOKEN = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
STATUS = "HTTP/1.1 101 Switching Protocols"
FIELDS = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": TOKEN}
MAX_SIZE = 4096


def begin(
    *,
    host: str = "server.example.com",
    path: str = "/",
    subprotocols: tuple[str, ...] = (),
    deflate: Deflate | None = None,
    headers: tuple[tuple[str, str], ...] = (),
    key: bytes = KEY,
) -> ClientHandshake:
    return ClientHandshake(
        host=host,
        path=path,
        subprotocols=subprotocols,
        deflate=deflate,
        headers=headers,
        key=key,
        max_header_size=MAX_SIZE,
        max_headers=20,
    )


def answer(*further: str, status: str = STATUS, **changed: str | None) -> bytes:
    fields: dict[str, str | None] = dict(FIELDS)
    for name, value in changed.items():
        original = next((key for key in fields if key.lower() == name.replace("_", "-")), name.replace("_", "-"))
        fields[original] = value
    lines = [status, *(f"{name}: {value}" for name, value in fields.items() if value is not None), *further, ""]
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")


def failed(
    data: bytes, *, subprotocols: tuple[str, ...] = (), deflate: Deflate | None = None, status: int | None = 101
) -> HandshakeError:
    with pytest.raises(HandshakeError) as caught:
        begin(subprotocols=subprotocols, deflate=deflate).receive(data)
    assert caught.value.status == status
    assert str(caught.value)
    return caught.value


def wsproto_client(*extensions: WsprotoDeflate) -> tuple[WSConnection, str]:
    """Return a wsproto client that has sent its request, and the accept token that it expects."""
    client = WSConnection(ConnectionType.CLIENT)
    request = client.send(WsprotoRequest(host="h", target="/", extensions=list(extensions)))
    key = next(line for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
    return client, accept_token(key.split()[1].decode())


# -- the request -------------------------------------------------------------------------------------------------------


def test_the_request() -> None:
    handshake = begin(
        host="server.example.com:8080",
        path="/chat?a=%20",
        subprotocols=("chat", "superchat"),
        deflate=Deflate(),
        headers=(("Origin", "http://example.com"), ("X", "é")),
    )
    assert handshake.request == (
        b"GET /chat?a=%20 HTTP/1.1\r\nHost: server.example.com:8080\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Protocol: chat, superchat\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
        b"server_max_window_bits=12; client_max_window_bits=12\r\n"
        b"Origin: http://example.com\r\nX: \xe9\r\n\r\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"host": ""},
        {"host": "a b"},
        {"host": "h\r\nX: a"},
        {"host": "bücher.example"},
        {"host": "user@h"},
        {"host": "h:65536"},
        {"path": ""},
        {"path": "chat"},
        {"path": "/a b"},
        {"path": "/a\r\nX: a"},
        {"path": "/é"},
        {"path": "/#a"},
        {"path": "http://h/"},
        {"subprotocols": ("a b",)},
        {"subprotocols": ("",)},
        {"subprotocols": ("é",)},
        {"subprotocols": ("a", "a")},
        {"subprotocols": "chat"},
        {"headers": (("X", "a\r\nY: b"),)},
        {"headers": (("X Y", "a"),)},
        {"headers": (("Sec-WebSocket-Key", "a"),)},
        {"headers": (("sec-websocket-protocol", "a"),)},
        {"headers": (("Upgrade", "h2c"),)},
        {"headers": (("connection", "close"),)},
        {"headers": (("Host", "h"),)},
        {"headers": (("Content-Length", "1"),)},
        {"headers": (("Transfer-Encoding", "chunked"),)},
        {"key": b""},
        {"key": bytes(15)},
        {"key": bytes(17)},
    ],
    ids=repr,
)
def test_what_cannot_be_sent(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        begin(**arguments)


def test_wsproto_c12_a_host_with_a_long_label() -> None:
    host = "a" * 64
    with pytest.raises(UnicodeError):
        WSConnection(ConnectionType.CLIENT).send(WsprotoRequest(host=host, target="/"))
    assert b"\r\nHost: %s\r\n" % host.encode() in begin(host=host).request


def test_wsproto_c12_a_target_that_is_not_ascii() -> None:
    with pytest.raises(UnicodeError):
        WSConnection(ConnectionType.CLIENT).send(WsprotoRequest(host="h", target="/é"))
    with pytest.raises(ConfigurationError, match="percent-encoded"):
        begin(path="/é")


# -- the response ------------------------------------------------------------------------------------------------------


def test_a_response() -> None:
    accepted = begin().receive(answer("Set-Cookie: a=b") + b"\x81\x01a")
    assert isinstance(accepted, Accepted)
    assert accepted.subprotocol is None
    assert accepted.deflate is None
    assert accepted.headers["set-cookie"] == "a=b"
    assert accepted.rest == b"\x81\x01a"


@pytest.mark.parametrize("cut", range(len(answer())))
def test_a_response_in_two_pieces(cut: int) -> None:
    handshake = begin()
    data = answer()
    assert handshake.receive(data[:cut]) is None
    accepted = handshake.receive(data[cut:] + b"rest")
    assert accepted is not None
    assert accepted.rest == b"rest"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("HTTP/1.1 200 OK", 200),
        ("HTTP/1.1 301 Moved", 301),
        ("HTTP/1.1 401 Unauthorized", 401),
        ("HTTP/1.1 426 Upgrade Required", 426),
        ("HTTP/1.1 503", 503),
        ("HTTP/1.0 101 Switching Protocols", 101),
        ("HTTP/2.0 101 Switching Protocols", None),
        ("nonsense", None),
        ("\x16\x03\x01", None),
    ],
)
def test_other_statuses(status: str, code: int | None) -> None:
    failed(answer(status=status), status=code)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("upgrade", "WebSocket", True),
        ("upgrade", None, False),
        ("upgrade", "", False),
        ("upgrade", "h2c", False),
        ("upgrade", "websocket, h2c", False),
        ("connection", "keep-alive, upgrade", True),
        ("connection", None, False),
        ("connection", "close", False),
        ("sec_websocket_accept", None, False),
        ("sec_websocket_accept", "", False),
        ("sec_websocket_accept", TOKEN.lower(), False),
        ("sec_websocket_accept", base64.b64encode(bytes(20)).decode(), False),
        ("sec_websocket_accept", f"{TOKEN}, {TOKEN}", False),
        ("sec_websocket_accept", "\xff", False),
    ],
)
def test_fields_of_a_response(field: str, value: str | None, allowed: bool) -> None:
    changed: dict[str, Any] = {field: value}
    data = answer(**changed)
    if allowed:
        assert begin().receive(data) is not None
    else:
        failed(data)


@pytest.mark.parametrize("further", [f"Sec-WebSocket-Accept: {TOKEN}", "Upgrade: websocket"])
def test_repeated_fields_of_a_response(further: str) -> None:
    failed(answer(further))


@pytest.mark.parametrize(
    ("offered", "answered", "allowed"),
    [
        ((), None, True),
        (("a", "b"), None, True),
        (("a", "b"), "b", True),
        (("a", "b"), "c", False),
        (("a", "b"), "A", False),
        (("a", "b"), "a, b", False),
        (("a", "b"), "", False),
        (("a", "b"), "\xff", False),
        ((), "a", False),
    ],
)
def test_ratchet_35_subprotocol_of_a_response(offered: tuple[str, ...], answered: str | None, allowed: bool) -> None:
    data = answer(sec_websocket_protocol=answered)
    if allowed:
        accepted = begin(subprotocols=offered).receive(data)
        assert accepted is not None
        assert accepted.subprotocol == answered
    else:
        failed(data, subprotocols=offered)


def test_two_subprotocols_in_a_response() -> None:
    failed(answer("Sec-WebSocket-Protocol: a", "Sec-WebSocket-Protocol: b"), subprotocols=("a", "b"))


@pytest.mark.parametrize("value", ["permessage-deflate", "x-other", "permessage-deflate;", ""])
def test_extensions_that_were_not_offered(value: str) -> None:
    failed(answer(sec_websocket_extensions=value))


@pytest.mark.parametrize("value", ["x-other", "permessage-deflate;", ", ,", "permessage-deflate, permessage-deflate"])
def test_malformed_extensions(value: str) -> None:
    failed(answer(sec_websocket_extensions=value), deflate=Deflate(server_no_context_takeover=False))


def test_deflate_of_a_response() -> None:
    config = Deflate()
    data = answer(sec_websocket_extensions="permessage-deflate; server_no_context_takeover; server_max_window_bits=10")
    accepted = begin(deflate=config).receive(data)
    assert accepted is not None
    assert accepted.deflate == DeflateParameters(True, True, 10, 12)
    accepted = begin(deflate=config).receive(answer())
    assert accepted is not None
    assert accepted.deflate is None


def test_wsproto_c12_two_deflates_in_a_response() -> None:
    client, token = wsproto_client(WsprotoDeflate())
    twice = "permessage-deflate; server_max_window_bits=10, permessage-deflate"
    client.receive_data(answer(sec_websocket_accept=token, sec_websocket_extensions=twice))
    assert [type(event) for event in client.events()] == [AcceptConnection]
    failed(answer(sec_websocket_extensions=twice), deflate=Deflate(server_no_context_takeover=False))


@pytest.mark.parametrize(
    "value", ["permessage-deflate; server_max_window_bits", "permessage-deflate; server_max_window_bits=x"]
)
def test_wsproto_c1_bad_window_bits_of_a_response(value: str) -> None:
    client, token = wsproto_client(WsprotoDeflate())
    with pytest.raises((IndexError, ValueError)):
        client.receive_data(answer(sec_websocket_accept=token, sec_websocket_extensions=value))
    failed(answer(sec_websocket_extensions=value), deflate=Deflate(server_no_context_takeover=False))


def test_wsproto_c12_interim_responses_are_skipped() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    client, token = wsproto_client()
    client.receive_data(interim + answer(sec_websocket_accept=token))
    assert [type(event) for event in client.events()] == [RejectConnection, RejectConnection, AcceptConnection]
    data = interim + answer() + b"rest"
    whole = begin().receive(data)
    assert whole is not None
    assert whole.rest == b"rest"
    handshake = begin()
    results = [handshake.receive(data[index : index + 1]) for index in range(len(data) - len(b"rest"))]
    assert [result is not None for result in results] == [False] * (len(results) - 1) + [True]


@pytest.mark.parametrize(("count", "allowed"), [(8, True), (9, False), (10_000, False)])
def test_interim_responses_are_bounded(count: int, allowed: bool) -> None:
    data = b"HTTP/1.1 103 Early Hints\r\n\r\n" * count + answer()
    if allowed:
        assert begin().receive(data) is not None
    else:
        failed(data, status=103)


@pytest.mark.parametrize(
    "data",
    [
        answer("X: " + "a" * MAX_SIZE),
        answer(status="HTTP/1.1 101 " + "a" * MAX_SIZE),
        b"a" * (MAX_SIZE + 10),
        answer(*["X: a"] * 20),
        answer("X: a\x00"),
        answer("X : a"),
        answer(" X: a"),
    ],
    ids=["long field", "long status", "endless", "many fields", "NUL", "blank before colon", "folded"],
)
def test_malformed_responses(data: bytes) -> None:
    failed(data, status=None)


@settings(deadline=None, max_examples=200)
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.tuples(st.integers(0, len(answer())), st.binary(max_size=3), st.integers(0, 3)).map(
            lambda edit: answer()[: edit[0]] + edit[1] + answer()[edit[0] + edit[2] :]
        ),
    ),
    cut=st.integers(0, 250),
)
def test_any_response_at_any_cut(data: bytes, cut: int) -> None:
    def outcome(*chunks: bytes) -> object:
        handshake = begin()
        for index, chunk in enumerate(chunks):
            try:
                accepted = handshake.receive(chunk)
            except HandshakeError as exc:
                return str(exc), exc.status
            if accepted is not None:
                return accepted[:2], accepted.headers.multi_items(), accepted.rest + b"".join(chunks[index + 1 :])
        return None

    assert outcome(data[:cut], data[cut:]) == outcome(data)


@pytest.mark.parametrize("name", ["server_max_window_bits", "client_max_window_bits"])
def test_every_value_of_window_bits_is_accepted_or_refused(name: str) -> None:
    """A value outside of 8 to 15, or one that zlib does not know, must not reach zlib."""
    is_server = name.startswith("server")
    config = Deflate(server_max_window_bits=12 if is_server else 15, server_no_context_takeover=False)
    values = [*map(str, range(-20, 70)), "", "08", "015", "+9", "9.0", "1e1", "0x9", "9 9", "x", "9" * 400, '"9"', '""']
    accepted = []
    for value in values:
        data = answer(sec_websocket_extensions=f"permessage-deflate; {name}={value}")
        try:
            result = begin(deflate=config).receive(data)
        except HandshakeError:
            continue
        assert result is not None
        assert result.deflate is not None
        assert 9 <= result.deflate.server_max_window_bits <= 15
        assert 9 <= result.deflate.client_max_window_bits <= 12
        end = PerMessageDeflate(result.deflate, config, client=True)
        assert end.compress(b"x" * 5000)
        accepted.append(value)
    lowest, highest = (8, 12) if is_server else (9, 15)  # ours may be wider, the server's may not
    assert accepted == [*map(str, range(lowest, highest + 1)), '"9"']


# -- both sides --------------------------------------------------------------------------------------------------------

BITS = st.integers(9, 15)
CONFIGS = st.builds(
    Deflate,
    server_max_window_bits=BITS,
    client_max_window_bits=BITS,
    server_no_context_takeover=st.booleans(),
    client_no_context_takeover=st.booleans(),
)


@settings(deadline=None, max_examples=100)
@given(
    server=st.none() | CONFIGS,
    client=st.none() | CONFIGS,
    offered=st.lists(st.sampled_from("abc"), unique=True).map(tuple),
    supported=st.lists(st.sampled_from("abc"), unique=True),
    key=st.binary(min_size=16, max_size=16),
)
def test_both_sides_agree(
    server: Deflate | None, client: Deflate | None, offered: tuple[str, ...], supported: list[str], key: bytes
) -> None:
    handshake = begin(subprotocols=offered, deflate=client, key=key)
    head = HeadBuffer(MAX_SIZE).receive(handshake.request)
    assert head is not None
    request = parse_request(head, max_headers=20, scheme="http", remote_address="")
    check_upgrade(request)
    chosen = choose_subprotocol(request, supported, required=False)
    data, parameters = accept(request, subprotocol=chosen, deflate=server)
    accepted = handshake.receive(data)
    assert accepted is not None
    assert accepted.subprotocol == chosen
    assert (accepted.deflate is None) == (parameters is None) == (server is None or client is None)
