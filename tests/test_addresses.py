"""IPv4 addresses inside IPv6 addresses count as IPv4 addresses, wherever an address comes from."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywsapp._addresses import Networks, is_private, unmapped
from pywsapp._protocol.forwarded import forwarded_hops
from pywsapp._server.proxies import address_of_peer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1"),
        ("::ffff:0:0", "0.0.0.0"),
        ("::192.0.2.1", "::c000:201"),
        ("2001:db8::1", "2001:db8::1"),
        ("::1", "::1"),
    ],
)
def test_an_ipv4_address_inside_ipv6_counts_as_ipv4(text: str, expected: str) -> None:
    assert str(unmapped(ip_address(text))) == expected
    assert list(forwarded_hops([text])) == [expected]
    networks = Networks()
    networks.add(text)
    assert list(networks) == [expected]
    assert text in networks


@given(st.ip_addresses())
def test_any_address_is_unmapped_once(address: IPv4Address | IPv6Address) -> None:
    assert unmapped(unmapped(address)) == unmapped(address)
    if isinstance(address, IPv4Address):
        assert unmapped(address) is address
        assert unmapped(IPv6Address(f"::ffff:{address}")) == address


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        (("192.0.2.1", 80), "192.0.2.1"),
        (("::ffff:192.0.2.1", 80, 0, 0), "192.0.2.1"),
        (("fe80::1%eth0", 80, 0, 2), "fe80::1%eth0"),
        (("", 0), ""),
        ("/run/socket", ""),
        (b"\0abstract", ""),
        (None, ""),
    ],
)
def test_the_address_in_the_name_of_a_peer(peer: object, expected: str) -> None:
    assert address_of_peer(peer) == expected


@pytest.mark.parametrize(
    ("network", "private"),
    [
        ("10.0.0.5", True),
        ("127.0.0.1", True),
        ("93.184.215.14", False),
        ("fd00::/64", True),
        ("2a00:1450:4001:829::/64", False),
        ("::ffff:10.0.0.5", True),
        ("local", False),
        ("", False),
    ],
)
def test_private_networks(network: str, private: bool) -> None:
    assert is_private(network) is private
