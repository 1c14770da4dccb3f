"""wsproto 1.3 faults in handshakes, tasks it leaves to its caller, and our result (docs/explanation/wsproto.md).

Each test shows the fault on wsproto first, as in test_wsproto_faults.py.
"""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import pytest
from support.protocol_peer import frame
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import AcceptConnection, CloseConnection, Event, RejectConnection, RejectData, Request, TextMessage
from wsproto.extensions import PerMessageDeflate as WsprotoDeflate
from wsproto.utilities import RemoteProtocolError, generate_accept_token

from pywsapp._protocol.client_handshake import ClientHandshake
from pywsapp._protocol.deflate import DeflateParameters
from pywsapp._protocol.handshake import accept, accept_token, check_upgrade
from pywsapp._protocol.http import HeadBuffer, encode_response, parse_request, parse_response
from pywsapp._protocol.websocket import WebSocket
from pywsapp.exceptions import ConfigurationError, HandshakeError, Refuse
from pywsapp.http import Response
from pywsapp.options import Deflate, Options

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
WIDE = Deflate(
    server_max_window_bits=15,
    client_max_window_bits=15,
    server_no_context_takeover=False,
    client_no_context_takeover=False,
    threshold=0,
)


def handshake(*further: str, line: str = "GET / HTTP/1.1", **changed: str | None) -> bytes:
    """Return a handshake with fields changed, removed (None) or added as lines."""
    fields: dict[str, str | None] = {
        "host": "example.com",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec_websocket_key": KEY,
        "sec_websocket_version": "13",
    }
    fields.update(changed)
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items() if value is not None]
    return "".join(f"{text}\r\n" for text in [line, *lines, *further, ""]).encode("latin-1")


def wsproto(data: bytes) -> tuple[WSConnection, list[Event]]:
    connection = WSConnection(ConnectionType.SERVER)
    connection.receive_data(data)
    return connection, list(connection.events())


def wsproto_accepts(data: bytes) -> bool:
    """Return whether wsproto answers a request with 101."""
    connection, events = wsproto(data)
    assert isinstance(events[0], Request)
    return connection.send(AcceptConnection()).startswith(b"HTTP/1.1 101 ")


def ours(data: bytes, deflate: Deflate | None = None) -> tuple[bytes, DeflateParameters | None]:
    """Return our response to a handshake, and the agreed compression.

    Raises:
        Refuse: the handshake is not accepted.
    """
    head = HeadBuffer(16 * 1024).receive(data)
    assert head is not None
    request = parse_request(head, max_headers=100, scheme="http", remote_address="")
    check_upgrade(request)
    return accept(request, subprotocol=None, deflate=deflate)


def status(data: bytes) -> int:
    with pytest.raises(Refuse) as caught:
        ours(data)
    return caught.value.status


# -- A: wrong or dangerous ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "offers",
    [
        "permessage-deflate; client_max_window_bits=9, permessage-deflate",
        "permessage-deflate; client_max_window_bits=9; server_max_window_bits=8, permessage-deflate",
    ],
)
def test_a3_offers_are_mixed_together(offers: str) -> None:
    far = random.Random(1).randbytes(2000)  # the second message refers further back than 9 bits reach
    sender = WebSocket(client=True, options=Options(deflate=WIDE), deflate=DeflateParameters(False, False, 15, 15))
    sent = [sender.encode(far), sender.encode(far)]
    connection, _ = wsproto(handshake(sec_websocket_extensions=offers))
    answer = connection.send(AcceptConnection(extensions=[WsprotoDeflate()]))
    assert b"permessage-deflate\r\n" in answer  # for the plain offer: the client compresses with 15 bits
    connection.receive_data(b"".join(sent))
    assert isinstance(list(connection.events())[-1], CloseConnection)
    # one offer is chosen; the response has all of its parameters, and none of the others
    answer, parameters = ours(handshake(sec_websocket_extensions=offers), WIDE)
    assert parameters is not None
    if "server_max_window_bits=8" in offers:
        assert b"Sec-WebSocket-Extensions: permessage-deflate\r\n" in answer
        assert parameters == DeflateParameters(False, False, 15, 15)
        ws = WebSocket(client=False, options=Options(deflate=WIDE), deflate=parameters)
        assert ws.receive(b"".join(sent)) == [far, far]
    else:
        assert b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=9\r\n" in answer
        assert parameters == DeflateParameters(False, False, 15, 9)


@pytest.mark.parametrize("field", ["connection", "sec-websocket-protocol", "sec-websocket-extensions"])
def test_a4_and_c1_fields_that_are_not_ascii(field: str) -> None:
    data = handshake(f"{field}: caf\xe9")
    with pytest.raises(UnicodeDecodeError):
        wsproto(data)
    assert status(data) == 400


@pytest.mark.parametrize("host", ["caf\xe9", "xn--\xe9", "xn--a"])
def test_a4_and_c1_a_host_that_is_none(host: str) -> None:
    with pytest.raises(UnicodeError):
        wsproto(handshake(host=host))
    if host.isascii():  # a valid name, though an odd one
        assert ours(handshake(host=host))
    else:
        assert status(handshake(host=host)) == 400


@pytest.mark.parametrize("value", ["=abc", '="10"', "="])
def test_a4_and_c1_values_of_window_bits(value: str) -> None:
    data = handshake(sec_websocket_extensions=f"permessage-deflate; client_max_window_bits{value}")
    connection, _ = wsproto(data)
    with pytest.raises(ValueError, match="invalid literal"):
        connection.send(AcceptConnection(extensions=[WsprotoDeflate()]))
    if value == "=":
        assert status(data) == 400  # not in the grammar
    else:
        answer, parameters = ours(data, Deflate())
        assert (parameters is not None) == (b"Extensions" in answer) == (value == '="10"')


def wsproto_client() -> tuple[WSConnection, str]:
    connection = WSConnection(ConnectionType.CLIENT)
    request = connection.send(Request(host="example.com", target="/", extensions=[WsprotoDeflate()]))
    key = request.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
    return connection, generate_accept_token(key).decode()


def answer_of_a_server(token: str, *further: str) -> bytes:
    lines = ["Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {token}", *further]
    return "".join(f"{line}\r\n" for line in ["HTTP/1.1 101 Switching Protocols", *lines, ""]).encode("latin-1")


def our_client(**options: Any) -> tuple[ClientHandshake, str]:
    client = ClientHandshake(
        host="example.com", key=bytes(16), max_header_size=16384, max_headers=100, deflate=WIDE, **options
    )
    key = client.request.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
    return client, accept_token(key.decode())


@pytest.mark.parametrize(
    "further",
    [
        "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits",
        "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=abc",
        "Sec-WebSocket-Protocol: caf\xe9",
    ],
)
def test_a4_and_c1_in_the_client(further: str) -> None:
    connection, token = wsproto_client()
    with pytest.raises((IndexError, ValueError)):
        connection.receive_data(answer_of_a_server(token, further))
    client, token = our_client()
    with pytest.raises(HandshakeError):
        client.receive(answer_of_a_server(token, further))


# -- C: the HTTP handshake ---------------------------------------------------------------------------------------------


def test_c2_a_frame_right_behind_the_request() -> None:
    data = handshake() + frame(1, b"early")
    connection, _ = wsproto(data)
    connection.send(AcceptConnection())
    connection.receive_data(frame(1, b"late"))
    assert list(connection.events()) == [TextMessage("late")]
    buffer = HeadBuffer(16 * 1024)
    assert buffer.receive(data) is not None
    assert WebSocket(client=False, options=Options()).receive(buffer.rest + frame(1, b"late")) == ["early", "late"]


def test_c3_unbounded_buffering_before_the_answer() -> None:
    connection, _ = wsproto(handshake())
    tracemalloc.start()
    try:
        for _ in range(20):
            connection.receive_data(bytes(1 << 20))
        assert tracemalloc.get_traced_memory()[0] > 20 << 20
        connection = None  # type: ignore[assignment]
        # ours never keeps more than its limit; after the head, reading stops until the response is decided
        buffer, held = HeadBuffer(16 * 1024), tracemalloc.get_traced_memory()[0]
        for _ in range(16):
            assert buffer.receive(b"GET_" * 256) is None
        with pytest.raises(Refuse):
            buffer.receive(b"GET_" * 256)
        assert tracemalloc.get_traced_memory()[0] - held < 100_000
    finally:
        tracemalloc.stop()


def test_c4_limits_of_a_head() -> None:
    many, large = [f"x-{number}: y" for number in range(5000)], ["x: " + "y" * 50_000]
    assert wsproto_accepts(handshake(*many))
    assert wsproto_accepts(handshake(*large))
    for further, reason in ((many, 431), (large, 431), (many[:101], 431)):
        assert status(handshake(*further)) == reason
    assert ours(handshake(*many[:95]))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (handshake(sec_websocket_key="short"), 400),
        (handshake(sec_websocket_key="!" * 24), 400),
        (handshake(f"Sec-WebSocket-Key: {KEY}"), 400),
        (handshake("Content-Length: 5"), 400),
        (handshake("Transfer-Encoding: chunked"), 400),
        (handshake(host=""), 400),
        (handshake(line="GET / HTTP/1.0"), 400),
        (handshake("Sec-WebSocket-Version: 13"), 400),
    ],
    ids=["key", "no base64", "two keys", "content-length", "chunked", "host", "http/1.0", "two versions"],
)
def test_c5_what_is_not_checked(data: bytes, expected: int) -> None:
    assert wsproto_accepts(data)
    assert status(data) == expected


@pytest.mark.parametrize(
    "data",
    [handshake("Connection: keep-alive"), handshake(upgrade="h2c, websocket")],
    ids=["connection twice", "upgrade as a list"],
)
def test_c6_legal_requests_that_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        wsproto(data)
    assert ours(data)[0].startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-deflate; unknown",
        "permessage-deflate; client_no_context_takeoverXYZ=1",
        "permessage-deflate; client_no_context_takeover=1",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=1_0",
        "permessage-deflate; client_max_window_bits=10; client_max_window_bits=11",
    ],
)
def test_c7_offers_that_must_be_declined(offer: str) -> None:
    connection, _ = wsproto(handshake(sec_websocket_extensions=offer))
    assert b"permessage-deflate" in connection.send(AcceptConnection(extensions=[WsprotoDeflate()]))
    answer, parameters = ours(handshake(sec_websocket_extensions=offer), Deflate())
    assert b"Extensions" not in answer
    assert parameters is None


def test_c7_an_offer_inside_a_quoted_string() -> None:
    data = handshake(sec_websocket_extensions='x; y=",permessage-deflate,"')
    connection, _ = wsproto(data)
    assert b"permessage-deflate" in connection.send(AcceptConnection(extensions=[WsprotoDeflate()]))
    assert status(data) == 400


def test_c8_a_configured_window_is_a_maximum() -> None:
    data = handshake(
        sec_websocket_extensions="permessage-deflate; client_max_window_bits=15; server_max_window_bits=15"
    )
    connection, _ = wsproto(data)
    extension = WsprotoDeflate(server_max_window_bits=10, client_max_window_bits=10)
    assert b"max_window_bits=15" in connection.send(AcceptConnection(extensions=[extension]))
    _, parameters = ours(data, Deflate(server_max_window_bits=10, client_max_window_bits=10))
    assert parameters is not None
    assert (parameters.server_max_window_bits, parameters.client_max_window_bits) == (10, 10)


def test_c9_the_host_as_it_was_sent() -> None:
    data = handshake(host="xn--bcher-kva.Example:8080")
    _, (request, *_) = wsproto(data)
    assert isinstance(request, Request)
    assert request.host == "bücher.Example:8080"
    assert not [name for name, _ in request.extra_headers if name == b"host"]
    head = HeadBuffer(1000).receive(data)
    assert head is not None
    ours_read = parse_request(head, max_headers=100, scheme="http", remote_address="")
    assert (ours_read.host, ours_read.port) == ("xn--bcher-kva.example", 8080)
    assert ours_read.headers["host"] == "xn--bcher-kva.Example:8080"


def test_c10_refusals() -> None:
    connection, _ = wsproto(handshake())
    answer = connection.send(RejectConnection(status_code=403, has_body=True)) + connection.send(RejectData(b"no"))
    assert answer.startswith(b"HTTP/1.1 403 \r\n")
    assert b"onnection: close" not in answer
    assert b"ransfer-" in answer
    with pytest.raises(RemoteProtocolError) as caught:
        wsproto(handshake(line="POST / HTTP/1.1"))
    assert caught.value.event_hint == RejectConnection()  # which is a 400
    response = Response.refusal(Refuse(403, body="no"))
    assert isinstance(response.body, bytes)
    answer = encode_response(response.status, response.headers, response.body, content_length=None)
    head, _, body = answer.partition(b"\r\n\r\n")
    parsed = parse_response(head, max_headers=10)
    assert (parsed.status, parsed.reason, body) == (403, "Forbidden", b"no\n")
    assert (parsed.headers["connection"], parsed.headers["content-length"]) == ("close", "3")
    assert status(handshake(line="POST / HTTP/1.1")) == 405
    assert status(handshake(upgrade="h2c")) == 426
    assert status(handshake(sec_websocket_version="12")) == 426


@pytest.mark.parametrize("field", ["Sec-WebSocket-Accept", "Connection", "Upgrade", "Sec-WebSocket-Protocol"])
def test_c11_fields_that_contradict_our_own(field: str) -> None:
    connection, _ = wsproto(handshake())
    answer = connection.send(AcceptConnection(extra_headers=[(field.encode(), b"other")]))
    assert f"{field.lower()}: other\r\n".encode() in answer.lower()
    head = HeadBuffer(1000).receive(handshake())
    assert head is not None
    request = parse_request(head, max_headers=100, scheme="http", remote_address="")
    with pytest.raises(ConfigurationError):
        accept(request, subprotocol=None, deflate=None, headers=[(field, "other")])
    with pytest.raises(ConfigurationError):
        accept(request, subprotocol="other", deflate=None)


def test_c12_interim_answers() -> None:
    connection, token = wsproto_client()
    connection.receive_data(b"HTTP/1.1 103 Early Hints\r\n\r\n" + answer_of_a_server(token))
    assert isinstance(next(iter(connection.events())), RejectConnection)
    client, token = our_client()
    assert client.receive(b"HTTP/1.1 103 Early Hints\r\n\r\n" + answer_of_a_server(token)) is not None


@pytest.mark.parametrize(
    "extensions",
    [
        "permessage-deflate, permessage-deflate; server_max_window_bits=9",
        "permessage-deflate; unknown=1",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
    ],
)
def test_c12_extensions_of_an_answer(extensions: str) -> None:
    connection, token = wsproto_client()
    connection.receive_data(answer_of_a_server(token, f"Sec-WebSocket-Extensions: {extensions}"))
    assert isinstance(next(iter(connection.events())), AcceptConnection)
    assert connection.state is ConnectionState.OPEN
    client, token = our_client()
    with pytest.raises(HandshakeError):
        client.receive(answer_of_a_server(token, f"Sec-WebSocket-Extensions: {extensions}"))


def test_c12_what_a_client_cannot_send() -> None:
    connection = WSConnection(ConnectionType.CLIENT)
    with pytest.raises(UnicodeError):
        connection.send(Request(host="x" * 64, target="/"))
    with pytest.raises(UnicodeEncodeError):
        connection.send(Request(host="example.com", target="/ü"))
    assert ClientHandshake(host="x" * 64, key=bytes(16), max_header_size=1000, max_headers=10).request
    with pytest.raises(ConfigurationError):
        our_client(path="/ü")
