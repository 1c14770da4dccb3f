"""Any Sec-WebSocket-Extensions is parsed or refused; the server accepts one of the offers, and our client accepts that.

No parameter ever takes effect that this side does not allow.
"""

from __future__ import annotations

from harness import fuzz, instrumented

with instrumented():
    from pywsapp._protocol.deflate import accept_response, negotiate, offer
    from pywsapp._protocol.extensions import Offer, parse_extensions
    from pywsapp.exceptions import HandshakeError
    from pywsapp.options import Deflate

NAME = "permessage-deflate"


def config(choice: int) -> Deflate:
    return Deflate(
        server_max_window_bits=9 + (choice & 7) % 7,
        client_max_window_bits=9 + (choice >> 3 & 7) % 7,
        server_no_context_takeover=bool(choice & 64),
        client_no_context_takeover=bool(choice & 128),
    )


def parsed(values: list[str]) -> list[Offer] | None:
    try:
        return parse_extensions(values)
    except ValueError:
        return None


def check_response(offers: list[Offer], server: Deflate) -> None:
    agreed = negotiate(offers, server)
    if agreed is None:
        return
    response, parameters = agreed
    assert 9 <= parameters.server_max_window_bits <= server.server_max_window_bits
    assert 9 <= parameters.client_max_window_bits <= 15
    read = parsed([response])
    assert read is not None
    ((name, accepted),) = read
    assert name == NAME
    assert len(dict(accepted)) == len(accepted)
    matching = [
        dict(parameters)
        for name, parameters in offers
        if name == NAME
        and ("client_max_window_bits" in dict(accepted)) <= ("client_max_window_bits" in dict(parameters))
    ]
    assert matching, "the response belongs to one of the offers"


def check_agreement(client: Deflate, server: Deflate) -> None:
    """Check that our client accepts the response of our server, and that both understand the same by it."""
    offers = parsed([offer(client)])
    assert offers is not None
    agreed = negotiate(offers, server)
    assert agreed is not None
    response, parameters = agreed
    read = parsed([response])
    assert read is not None
    result = accept_response(read, client)
    assert result is not None
    assert result.server_no_context_takeover == parameters.server_no_context_takeover
    assert (
        result.client_no_context_takeover <= parameters.client_no_context_takeover or client.client_no_context_takeover
    )
    assert result.server_max_window_bits >= parameters.server_max_window_bits
    assert result.client_max_window_bits <= parameters.client_max_window_bits


def one_input(data: bytes) -> None:
    """Run one input: two bytes of choices, and the values of one or more fields, separated by line feeds."""
    if len(data) < 2:
        return
    server, client = config(data[0]), config(data[1])
    check_agreement(client, server)
    values = data[2:].decode("latin-1").split("\n")
    offers = parsed(values)
    if offers is None:
        return
    assert len(offers) <= 32
    assert all(len(parameters) <= 32 for _, parameters in offers)
    check_response(offers, server)
    try:
        result = accept_response(offers, client)
    except HandshakeError:
        return
    assert result is None or 9 <= result.client_max_window_bits <= client.client_max_window_bits
    assert result is None or 9 <= result.server_max_window_bits <= client.server_max_window_bits


def seeds() -> list[bytes]:
    values = [
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; client_max_window_bits=8, permessage-deflate; server_max_window_bits=8",
        'permessage-deflate; server_max_window_bits="10"; client_max_window_bits=9',
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; server_max_window_bits, x-webkit-deflate-frame\npermessage-deflate; unknown=1",
        'x; y=",permessage-deflate,"',
        "a," * 40,
        "a" + "; b" * 40,
    ]
    return [choice + value.encode() for choice in (b"\0\0", b"\xff\xff", b"\x36\x9b") for value in values]


if __name__ == "__main__":
    fuzz(one_input, seeds())
