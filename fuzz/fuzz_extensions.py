"""Any Sec-WebSocket-Extensions is read or refused; one of the offers is answered; our client takes what we answer.

Nothing is ever in force that this side does not allow.
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


def check_answer(offers: list[Offer], server: Deflate) -> None:
    agreed = negotiate(offers, server)
    if agreed is None:
        return
    answer, parameters = agreed
    assert 9 <= parameters.server_max_window_bits <= server.server_max_window_bits
    assert 9 <= parameters.client_max_window_bits <= 15
    read = parsed([answer])
    assert read is not None
    ((name, answered),) = read
    assert name == NAME
    assert len(dict(answered)) == len(answered)
    asked_for = [
        dict(parameters)
        for name, parameters in offers
        if name == NAME
        and ("client_max_window_bits" in dict(answered)) <= ("client_max_window_bits" in dict(parameters))
    ]
    assert asked_for, "answers an offer that was made"


def check_agreement(client: Deflate, server: Deflate) -> None:
    """See that a server of ours answers a client of ours with what that client takes, and both mean the same."""
    offers = parsed([offer(client)])
    assert offers is not None
    agreed = negotiate(offers, server)
    assert agreed is not None
    answer, parameters = agreed
    read = parsed([answer])
    assert read is not None
    taken = accept_response(read, client)
    assert taken is not None
    assert taken.server_no_context_takeover == parameters.server_no_context_takeover
    assert (
        taken.client_no_context_takeover <= parameters.client_no_context_takeover or client.client_no_context_takeover
    )
    assert taken.server_max_window_bits >= parameters.server_max_window_bits
    assert taken.client_max_window_bits <= parameters.client_max_window_bits


def one_input(data: bytes) -> None:
    """Take two bytes of choices, and the values of one or more fields, divided by line ends."""
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
    check_answer(offers, server)
    try:
        taken = accept_response(offers, client)
    except HandshakeError:
        return
    assert taken is None or 9 <= taken.client_max_window_bits <= client.client_max_window_bits
    assert taken is None or 9 <= taken.server_max_window_bits <= client.server_max_window_bits


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
