"""A response is accepted, refused or incomplete, the same wherever it is cut; nothing takes effect without an offer."""

from __future__ import annotations

from harness import fuzz, instrumented, pieces

with instrumented():
    from pywsapp._protocol.client_handshake import Accepted, ClientHandshake
    from pywsapp._protocol.handshake import accept_token
    from pywsapp.exceptions import HandshakeError
    from pywsapp.options import Deflate

KEY = bytes(16)
TOKEN = accept_token("AAAAAAAAAAAAAAAAAAAAAA==")
SUBPROTOCOLS = ("chat", "superchat")
MAX_HEADERS = 20


def outcome(parts: list[bytes], deflate: Deflate | None) -> tuple[object, ...] | str | None:
    """Return the agreed parameters and the bytes after the response, "refused", or None if it is not complete."""
    client = ClientHandshake(
        host="example.com",
        subprotocols=SUBPROTOCOLS,
        deflate=deflate,
        key=KEY,
        max_header_size=600,
        max_headers=MAX_HEADERS,
    )
    for number, part in enumerate(parts):
        try:
            accepted = client.receive(part)
        except HandshakeError as exc:
            check_refusal(exc)
            return "refused"
        if accepted is not None:
            check(accepted, deflate)
            rest = accepted.rest + b"".join(parts[number + 1 :])
            return accepted.subprotocol, accepted.deflate, accepted.headers.multi_items(), rest
    return None


def check_refusal(error: HandshakeError) -> None:
    assert error.status is None or 100 <= error.status <= 599
    assert str(error).isprintable(), "it fits into one line of a log"
    assert len(str(error)) < 1000


def check(accepted: Accepted, deflate: Deflate | None) -> None:
    assert accepted.subprotocol is None or accepted.subprotocol in SUBPROTOCOLS
    assert accepted.headers["sec-websocket-accept"] == TOKEN
    assert len(accepted.headers.multi_items()) <= MAX_HEADERS
    if accepted.deflate is not None:
        assert deflate is not None
        assert accepted.deflate.server_max_window_bits <= deflate.server_max_window_bits
        assert accepted.deflate.client_max_window_bits <= deflate.client_max_window_bits


def one_input(data: bytes) -> None:
    """Run one input: a byte of choices, three of cuts, and a stream."""
    stream = data[4:]
    if not stream:
        return
    deflate = Deflate() if data[0] & 1 else None
    assert outcome([stream], deflate) == outcome(list(pieces(stream, data[1:4])), deflate)


def seeds() -> list[bytes]:
    upgrade = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade"
    head = f"{upgrade}\r\nSec-WebSocket-Accept: {TOKEN}"
    responses = [
        f"{head}\r\n\r\n",
        f"{head}\r\nSec-WebSocket-Protocol: chat\r\n\r\n\x81\x02hi",
        f"{head}\r\nSec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n\r\n",
        f"{head}\r\nSec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9; "
        "server_no_context_takeover; client_max_window_bits=9; client_no_context_takeover\r\n\r\n",
        f"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n{head}\r\n\r\n",
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
        "HTTP/1.0 200\r\n\r\n",
        "HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n",
    ]
    return [choice + response.encode() for choice in (b"\0\1\0\0", b"\1\7\2\0") for response in responses]


if __name__ == "__main__":
    fuzz(one_input, seeds())
