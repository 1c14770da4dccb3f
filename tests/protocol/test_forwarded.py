"""X-Forwarded-For, parsed strictly from its right end, and X-Forwarded-Proto."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywsapp._protocol.forwarded import MAX_HOPS, forwarded_hops, forwarded_scheme


def hops(*values: str) -> list[str | None]:
    return list(forwarded_hops(values))


def test_the_nearest_hop_comes_first() -> None:
    assert hops("192.0.2.1, 198.51.100.7,203.0.113.9") == ["203.0.113.9", "198.51.100.7", "192.0.2.1"]
    assert hops("192.0.2.1", "198.51.100.7 ,\t203.0.113.9") == ["203.0.113.9", "198.51.100.7", "192.0.2.1"]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:0", "192.0.2.1"),
        ("192.0.2.1:65535", "192.0.2.1"),
        ("2001:DB8::0:1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("2001:db8::1:443", "2001:db8::1:443"),  # an address; a port after it would be ambiguous
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:1", "192.0.2.1"),
        ("::", "::"),
    ],
)
def test_spellings_of_an_address(text: str, address: str) -> None:
    assert hops(text) == [address]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unknown",
        "_hidden",
        "localhost",
        "-",
        "192.0.2",
        "192.0.2.01",
        "192.0.2.256",
        "192.0.2.1:",
        "192.0.2.1:65536",
        "192.0.2.1:-1",
        "192.0.2.1/24",
        "[192.0.2.1]",
        "[2001:db8::1",
        "2001:db8::1]",
        "[2001:db8::1]443",
        "fe80::1%eth0",
        "[fe80::1%25eth0]",
        '"192.0.2.1"',
        "for=192.0.2.1",
        "192.0.2.1 198.51.100.7",
        "\u0661.0.2.1",
        "1" * 1000,
        ":" * 1000,
    ],
)
def test_other_texts_are_not_addresses(text: str) -> None:
    assert hops(text) == [None]


def test_hops_are_bounded() -> None:
    assert hops(", ".join(["192.0.2.1"] * MAX_HOPS)) == ["192.0.2.1"] * MAX_HOPS
    assert hops(",".join(["junk"] * 5000 + ["192.0.2.1"] * MAX_HOPS)) == ["192.0.2.1"] * MAX_HOPS


@given(st.lists(st.one_of(st.text(max_size=30), st.text("0123456789abcdef.:[], %", max_size=40)), max_size=4))
def test_any_text_is_canonical_addresses_or_none(values: list[str]) -> None:
    for hop in hops(*values):
        assert hop is None or str(ip_address(hop)) == hop


@given(st.lists(st.ip_addresses(), min_size=1, max_size=MAX_HOPS), st.data())
def test_the_spellings_of_proxies_are_parsed(addresses: list[object], data: st.DataObject) -> None:
    def write(address: object) -> str:
        styles = ["{}", "{}:8080"] if ":" not in str(address) else ["{}", "[{}]", "[{}]:8080"]
        return data.draw(st.sampled_from(styles)).format(address)

    expected = [str(getattr(address, "ipv4_mapped", None) or address) for address in addresses]
    assert hops(*data.draw(st.just([", ".join(map(write, addresses))]))) == expected[::-1]


@pytest.mark.parametrize(
    ("values", "scheme"),
    [
        (["https"], "https"),
        (["HTTPS "], "https"),
        (["wss"], "https"),
        (["http"], "http"),
        (["ws"], "http"),
        (["https, http"], "http"),
        (["http", "https"], "https"),
        ([], None),
        ([""], None),
        (["https,"], None),
        (["httpss"], None),
        (["ftp"], None),
    ],
)
def test_the_scheme_is_that_of_the_nearest_proxy(values: list[str], scheme: str | None) -> None:
    assert forwarded_scheme(values) == scheme
