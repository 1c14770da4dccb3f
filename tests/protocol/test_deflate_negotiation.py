"""permessage-deflate: the negotiation in both roles, and messages in both directions after it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.protocol_peer import MIB, TAKEOVER
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection
from wsproto.extensions import PerMessageDeflate as WsprotoDeflate

from pywsapp._protocol.deflate import (
    DeflateParameters,
    PerMessageDeflate,
    accept_response,
    compress_shared,
    negotiate,
    offer,
)
from pywsapp._protocol.extensions import parse_extensions
from pywsapp.exceptions import HandshakeError
from pywsapp.options import Deflate

BITS = st.integers(9, 15)
CONFIGS = st.builds(
    Deflate,
    server_max_window_bits=BITS,
    client_max_window_bits=BITS,
    server_no_context_takeover=st.booleans(),
    client_no_context_takeover=st.booleans(),
    level=st.integers(0, 9),
    mem_level=st.integers(1, 9),
)


def config(
    *, server: int = 15, client: int = 15, server_forgets: bool = False, client_forgets: bool = False
) -> Deflate:
    return Deflate(
        server_max_window_bits=server,
        client_max_window_bits=client,
        server_no_context_takeover=server_forgets,
        client_no_context_takeover=client_forgets,
    )


def answer(offers: str, server: Deflate) -> tuple[str, DeflateParameters] | None:
    return negotiate(parse_extensions([offers]), server)


def wsproto_server_answer(offers: str, *extensions: WsprotoDeflate) -> str | None:
    """Return the extensions in the response of a wsproto server to offers."""
    server = WSConnection(ConnectionType.SERVER)
    server.receive_data(
        b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: %s\r\n\r\n" % offers.encode()
    )
    assert len(list(server.events())) == 1
    lines = server.send(AcceptConnection(extensions=list(extensions))).split(b"\r\n")
    return next(
        (line.split(b": ")[1].decode() for line in lines if line.lower().startswith(b"sec-websocket-ext")), None
    )


# -- negotiation, server -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offers", "server", "expected"),
    [
        # windows: the smaller one, with a response to every offer
        ("permessage-deflate", config(), ("permessage-deflate", (False, False, 15, 15))),
        ("permessage-deflate", config(server=10, client=10), ("permessage-deflate", (False, False, 10, 15))),
        (
            "permessage-deflate; server_max_window_bits=12",
            config(),
            ("permessage-deflate; server_max_window_bits=12", (False, False, 12, 15)),
        ),
        (
            "permessage-deflate; server_max_window_bits=15",
            config(server=10),
            ("permessage-deflate; server_max_window_bits=10", (False, False, 10, 15)),
        ),
        (
            "permessage-deflate; server_max_window_bits=15",
            config(),
            ("permessage-deflate; server_max_window_bits=15", (False, False, 15, 15)),
        ),
        (
            "permessage-deflate; client_max_window_bits",
            config(client=12),
            ("permessage-deflate; client_max_window_bits=12", (False, False, 15, 12)),
        ),
        (
            "permessage-deflate; client_max_window_bits",
            config(),
            ("permessage-deflate; client_max_window_bits=15", (False, False, 15, 15)),
        ),
        (
            "permessage-deflate; client_max_window_bits=10",
            config(client=12),
            ("permessage-deflate; client_max_window_bits=10", (False, False, 15, 10)),
        ),
        (
            "permessage-deflate; client_max_window_bits=14",
            config(client=12),
            ("permessage-deflate; client_max_window_bits=12", (False, False, 15, 12)),
        ),
        # 8 bits: 9 bits fulfil a promise of the client, and zlib cannot fulfil a demand on the server
        ("permessage-deflate; client_max_window_bits=8", config(), ("permessage-deflate", (False, False, 15, 9))),
        ("permessage-deflate; server_max_window_bits=8", config(), None),
        # context takeover
        (
            "permessage-deflate",
            config(server_forgets=True, client_forgets=True),
            (
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
                (True, True, 15, 15),
            ),
        ),
        (
            "permessage-deflate; server_no_context_takeover",
            config(),
            ("permessage-deflate; server_no_context_takeover", (True, False, 15, 15)),
        ),
        (
            "permessage-deflate; client_no_context_takeover",
            config(),
            ("permessage-deflate; client_no_context_takeover", (False, True, 15, 15)),
        ),
        # offers that must be declined (RFC 7692 section 7.1)
        ("permessage-deflate; unknown", config(), None),
        ("permessage-deflate; unknown=1", config(), None),
        ("permessage-deflate; client_no_context_takeoverXYZ", config(), None),
        ("permessage-deflate; Server_No_Context_Takeover", config(), None),
        ("permessage-deflate; server_no_context_takeover=1", config(), None),
        ("permessage-deflate; client_no_context_takeover=true", config(), None),
        ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", config(), None),
        ("permessage-deflate; client_max_window_bits; client_max_window_bits", config(), None),
        ("permessage-deflate; server_max_window_bits=10; server_max_window_bits=10", config(), None),
        ("permessage-deflate; server_max_window_bits", config(), None),
        *[
            (f"permessage-deflate; {side}_max_window_bits={value}", config(), None)
            for side in ("server", "client")
            for value in ("0", "7", "16", "09", "010", "1_0", "+10", "-10", "10.", "abc", "1e1")
        ],
        # other extensions
        ("x-webkit-deflate-frame", config(), None),
        ("Permessage-Deflate", config(), None),
        ("x-other; a=1, permessage-deflate", config(), ("permessage-deflate", (False, False, 15, 15))),
        # exactly one of several offers, and nothing of the others
        (
            "permessage-deflate; client_max_window_bits=9; server_no_context_takeover, permessage-deflate",
            config(),
            (
                "permessage-deflate; server_no_context_takeover; client_max_window_bits=9",
                (True, False, 15, 9),
            ),
        ),
        (
            "permessage-deflate; client_max_window_bits=9; server_no_context_takeover; server_max_window_bits=8, "
            "permessage-deflate",
            config(),
            ("permessage-deflate", (False, False, 15, 15)),
        ),
        (
            "permessage-deflate; unknown; client_max_window_bits=10, permessage-deflate; server_max_window_bits=11",
            config(),
            ("permessage-deflate; server_max_window_bits=11", (False, False, 11, 15)),
        ),
    ],
)
def test_negotiate(offers: str, server: Deflate, expected: tuple[str, tuple[bool, bool, int, int]] | None) -> None:
    assert answer(offers, server) == expected


def test_no_offers() -> None:
    assert negotiate([], Deflate()) is None


def test_wsproto_a3_a_declined_offer_leaves_no_trace() -> None:
    offers = "permessage-deflate; client_max_window_bits=9; server_max_window_bits=8, permessage-deflate"
    extension = WsprotoDeflate()
    assert wsproto_server_answer(offers, extension) == "permessage-deflate"
    assert extension.client_max_window_bits == 9  # although the response allows the client 15
    agreed = answer(offers, config())
    assert agreed is not None
    payload = bytes(range(256)) * 8 * 8
    server = PerMessageDeflate(agreed[1], config(), client=False)
    client = PerMessageDeflate(TAKEOVER, config(), client=True)
    for _ in range(3):
        assert server.decompress(client.compress(payload), MIB, True) == payload


def test_wsproto_a3_a_configured_window_is_no_reason_to_inflate_with_less() -> None:
    extension = WsprotoDeflate(client_max_window_bits=10)
    assert wsproto_server_answer("permessage-deflate", extension) == "permessage-deflate"
    assert extension.client_max_window_bits == 10
    agreed = answer("permessage-deflate", config(client=10))
    assert agreed is not None
    assert agreed[1].client_max_window_bits == 15


@pytest.mark.parametrize(
    "offers",
    [
        "permessage-deflate; unknown=1",
        "permessage-deflate; client_no_context_takeoverXYZ=1",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=1_0",
        "permessage-deflate; client_max_window_bits=9; client_max_window_bits=10",
    ],
)
def test_wsproto_c7_offers_that_must_be_declined(offers: str) -> None:
    assert wsproto_server_answer(offers, WsprotoDeflate()) is not None
    assert answer(offers, config()) is None


def test_wsproto_c8_a_configured_window_is_a_maximum() -> None:
    offers = "permessage-deflate; server_max_window_bits=15; client_max_window_bits=15"
    extension = WsprotoDeflate(server_max_window_bits=10, client_max_window_bits=10)
    wsproto_server_answer(offers, extension)
    assert (extension.server_max_window_bits, extension.client_max_window_bits) == (15, 15)
    agreed = answer(offers, config(server=10, client=10))
    assert agreed is not None
    assert agreed[1] == (False, False, 10, 10)


# -- negotiation, client -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (config(), "permessage-deflate; client_max_window_bits"),
        (config(client=9), "permessage-deflate; client_max_window_bits=9"),
        (config(server=14), "permessage-deflate; server_max_window_bits=14; client_max_window_bits"),
        (
            config(server_forgets=True, client_forgets=True),
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits",
        ),
    ],
)
def test_offer(client: Deflate, expected: str) -> None:
    assert offer(client) == expected


@pytest.mark.parametrize(
    ("response", "client", "expected"),
    [
        ("permessage-deflate", config(), (False, False, 15, 15)),
        ("permessage-deflate", config(client=10), (False, False, 15, 10)),
        ("permessage-deflate", config(client_forgets=True), (False, True, 15, 15)),
        ("permessage-deflate; client_max_window_bits=10", config(client=12), (False, False, 15, 10)),
        ("permessage-deflate; client_max_window_bits=9", config(), (False, False, 15, 9)),
        ("permessage-deflate; client_max_window_bits=13", config(client=12), (False, False, 15, 12)),
        ("permessage-deflate; server_max_window_bits=10", config(), (False, False, 10, 15)),
        ("permessage-deflate; server_max_window_bits=8", config(), (False, False, 9, 15)),
        ("permessage-deflate; server_max_window_bits=10", config(server=12), (False, False, 10, 15)),
        ("permessage-deflate; server_no_context_takeover", config(), (True, False, 15, 15)),
        ("permessage-deflate; client_no_context_takeover", config(), (False, True, 15, 15)),
        ("permessage-deflate; server_no_context_takeover", config(server_forgets=True), (True, False, 15, 15)),
        # anything that was not offered
        ("permessage-deflate", config(server=12), None),
        ("permessage-deflate; server_max_window_bits=13", config(server=12), None),
        ("permessage-deflate", config(server_forgets=True), None),
        ("permessage-deflate; client_max_window_bits=8", config(), None),
        ("permessage-deflate; client_max_window_bits", config(), None),
        ("permessage-deflate; server_max_window_bits", config(), None),
        ("permessage-deflate; server_max_window_bits=16", config(), None),
        ("permessage-deflate; server_max_window_bits=1_0", config(), None),
        ("permessage-deflate; server_no_context_takeover=1", config(), None),
        ("permessage-deflate; unknown", config(), None),
        ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", config(), None),
        ("permessage-deflate, permessage-deflate", config(), None),
        ("permessage-deflate, x-other", config(), None),
        ("x-other", config(), None),
    ],
)
def test_accept_response(response: str, client: Deflate, expected: tuple[bool, bool, int, int] | None) -> None:
    offers = parse_extensions([response])
    if expected is None:
        with pytest.raises(HandshakeError) as caught:
            accept_response(offers, client)
        assert caught.value.status == 101
    else:
        assert accept_response(offers, client) == expected


def test_a_declined_offer() -> None:
    assert accept_response([], Deflate()) is None


PARAMETERS = st.one_of(
    st.sampled_from(["server_no_context_takeover", "client_no_context_takeover", "client_max_window_bits", "unknown"]),
    st.tuples(
        st.sampled_from(["server_max_window_bits", "client_max_window_bits"]), st.sampled_from([*range(7, 17), "09"])
    ).map(lambda pair: f"{pair[0]}={pair[1]}"),
)
OFFERS = st.lists(
    st.lists(PARAMETERS, max_size=4).map(lambda parts: "; ".join(["permessage-deflate", *parts])), max_size=3
)


@settings(deadline=None, max_examples=300)
@given(OFFERS, CONFIGS)
def test_any_response_stays_within_the_accepted_offer(offers: list[str], server: Deflate) -> None:
    agreed = negotiate(parse_extensions(offers), server)
    each = [negotiate(parse_extensions([one]), server) for one in offers]
    assert agreed == next((one for one in each if one is not None), None)
    if agreed is None:
        return
    asked = dict(parse_extensions([offers[each.index(agreed)]])[0][1])
    text, parameters = agreed
    [(_, pairs)] = parse_extensions([text])
    answered = dict(pairs)
    server_bits = answered.pop("server_max_window_bits", None)
    assert (server_bits is not None) == ("server_max_window_bits" in asked)
    assert 9 <= parameters.server_max_window_bits <= min(int(server_bits or 15), server.server_max_window_bits)
    assert parameters.server_max_window_bits <= int(asked.get("server_max_window_bits") or 15)
    client_bits = answered.pop("client_max_window_bits", None)
    if client_bits is not None:
        assert "client_max_window_bits" in asked
    # The offer and the response both limit the client; the server must inflate at least that window.
    assert parameters.client_max_window_bits >= min(
        int(client_bits or 15), int(asked.get("client_max_window_bits") or 15)
    )
    assert set(answered) == {
        name
        for name, forgets in zip(
            ("server_no_context_takeover", "client_no_context_takeover"), parameters[:2], strict=True
        )
        if forgets
    }
    assert parameters.server_no_context_takeover == (
        server.server_no_context_takeover or "server_no_context_takeover" in asked
    )


@settings(deadline=None, max_examples=150)
@given(
    declined=OFFERS.map(lambda offers: [f"{one}; unknown" for one in offers]),
    server=CONFIGS,
    client=CONFIGS,
    messages=st.lists(
        st.tuples(st.booleans(), st.sampled_from(["own", "shared", "forget"]), st.binary(max_size=60)), max_size=6
    ),
    repeat=st.integers(1, 2000),
    cut=st.integers(1, 50),
)
def test_messages_in_both_directions_after_negotiation(
    declined: list[str],
    server: Deflate,
    client: Deflate,
    messages: list[tuple[bool, str, bytes]],
    repeat: int,
    cut: int,
) -> None:
    agreed = negotiate(parse_extensions([*declined, offer(client)]), server)
    assert agreed is not None
    accepted = accept_response(parse_extensions([agreed[0]]), client)
    assert accepted is not None
    ends = (PerMessageDeflate(agreed[1], server, client=False), PerMessageDeflate(accepted, client, client=True))
    for from_server, how, seed in messages:
        sender, reader = ends if from_server else ends[::-1]
        payload = seed * repeat
        if how == "shared":
            bits = agreed[1].server_max_window_bits if from_server else accepted.client_max_window_bits
            data = compress_shared(payload, bits, server if from_server else client)
            sender.reset()
        else:
            if how == "forget":
                sender.reset()
            data = sender.compress(payload)
        step = max(1, len(data) // cut)
        received = bytearray()
        for start in range(0, len(data), step):
            received += reader.decompress(data[start : start + step], len(payload) - len(received), False)
        received += reader.decompress(b"", len(payload) - len(received), True)
        assert received == payload
