"""Any forwarding fields of a trusted proxy name an address or nothing, and the client cannot change what they name.

The client's address is the first one from the right that is no trusted proxy. Whatever stands to the left of it makes
no difference, and neither do the fields of a peer that is not trusted.
"""

from __future__ import annotations

import logging
from ipaddress import ip_address

from harness import fuzz, instrumented

with instrumented():
    from pywsapp._protocol.forwarded import MAX_HOPS, forwarded_hops, forwarded_scheme
    from pywsapp._protocol.proxy_protocol import ProxyHeader
    from pywsapp._server.proxies import Proxies
    from pywsapp.http import Request

logging.getLogger("pywsapp").setLevel(logging.WARNING)  # entries that are no addresses are logged for debugging

PROXIES = Proxies(["10.0.0.0/8", "2001:db8:1::/48", "unix"])
TRUSTED, UNTRUSTED = ("10.0.0.1", 1), ("192.0.2.7", 1)
LEFT = "203.0.113.9, 10.0.0.8, unknown, "


def applied(hops: list[str], schemes: list[str], peer: tuple[str, int] | str) -> tuple[str, str]:
    """Return the address and the scheme of a request after the fields were read."""
    fields = [*(("X-Forwarded-For", hop) for hop in hops), *(("X-Forwarded-Proto", scheme) for scheme in schemes)]
    request = Request(headers=fields, scheme="http", remote_address="192.0.2.99")
    PROXIES.apply_forwarded(request, peer, None)
    return request.remote_address, request.scheme


def expected(hops: list[str | None]) -> str:
    """Return the address by a search from the right end."""
    address = "192.0.2.99"
    for hop in hops:
        if hop is None:
            break
        address = hop
        if hop not in PROXIES:
            break
    return address


def one_input(data: bytes) -> None:
    """Run one input: values of X-Forwarded-For and X-Forwarded-Proto, separated by line feeds, in turn."""
    values = data.decode("latin-1").split("\n")[:8]
    fields, schemes = values[::2], values[1::2]
    hops = list(forwarded_hops(fields))
    assert 1 <= len(hops) <= MAX_HOPS
    for hop in hops:
        assert hop is None or str(ip_address(hop)) == hop
        assert hop is None or "%" not in hop
        assert hop is None or getattr(ip_address(hop), "ipv4_mapped", None) is None
    assert list(forwarded_hops([",".join(fields)])) == hops, "several fields are one list"
    assert forwarded_scheme(schemes) in (None, "http", "https")
    for peer in (TRUSTED, "/run/proxy.sock"):
        address, scheme = applied(fields, schemes, peer)
        assert address == expected(hops)
        assert scheme == (forwarded_scheme(schemes) or "http")
        if any(hop is None or hop not in PROXIES for hop in hops):
            more = [f"https, {text}" for text in schemes[:1]] + schemes[1:]
            assert applied([LEFT + fields[0], *fields[1:]], more, peer) == (address, scheme)
    assert applied(fields, schemes, UNTRUSTED) == ("192.0.2.99", "http")
    check_header(fields)


def check_header(fields: list[str]) -> None:
    """Check that a PROXY header decides who is asked."""
    for header in (ProxyHeader("192.0.2.7"), ProxyHeader("")):
        request = Request(headers=[("X-Forwarded-For", field) for field in fields], remote_address="192.0.2.99")
        PROXIES.apply_forwarded(request, TRUSTED, header)
        assert request.remote_address == "192.0.2.99"


def seeds() -> list[bytes]:
    return [
        b"192.0.2.1\nhttps",
        b"192.0.2.1, 10.0.0.2, 10.0.0.3\nhttp, https",
        b"10.0.0.1\nwss\n10.0.0.2\nHTTPS",
        b"[2001:db8::1]:443, 2001:db8:1::5\nhttps",
        b"::ffff:192.0.2.1\n",
        b"::ffff:10.0.0.1, ::FFFF:0A00:0001\nws",
        b"192.0.2.1:8080, 10.0.0.1:99999\nhttps",
        b"unknown, _hidden, 10.0.0.1\nftp",
        b"fe80::1%eth0, 10.0.0.1\n https\t",
        b",,,,\n,",
        b"10.0.0.1," * 30 + b"192.0.2.1\nhttps",
        b"192.0.2.1," + b"10.0.0.1," * 30 + b"10.0.0.2\nhttps",
        b"010.0.0.1, 1.2.3, 0x7f.1\n",
        b"for=192.0.2.1;proto=https\nhttps",
        "\N{ARABIC-INDIC DIGIT ONE}.2.3.4".encode(),
    ]


if __name__ == "__main__":
    fuzz(one_input, seeds())
