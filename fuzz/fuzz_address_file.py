"""Any file is a list of networks or refused in a short text; a list contains the addresses that its lines say.

The comparison is with a search through all networks, one after the other.
"""

from __future__ import annotations

import atexit
import os
import tempfile
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from harness import check_text, fuzz, instrumented

with instrumented():
    from pywsapp._addresses import Networks, is_private
    from pywsapp.exceptions import ConfigurationError
    from pywsapp.middleware.address_file import AddressFile

NUMBER, PATH = tempfile.mkstemp(prefix="pywsapp-fuzz-")
atexit.register(os.unlink, PATH)
MAX_TEXT = 500  # characters of a message that is logged
PROBES = ["192.0.2.1", "10.1.2.3", "127.0.0.1", "::1", "2001:db8::1", "::ffff:192.0.2.1", "fe80::1", "0.0.0.0"]


def read(data: bytes) -> Networks | None:
    os.ftruncate(NUMBER, 0)
    os.pwrite(NUMBER, data, 0)
    try:
        return AddressFile(PATH).networks
    except ConfigurationError as exc:
        check_text(exc, MAX_TEXT)
        return None


def same(text: str) -> IPv4Address | IPv6Address:
    """Return an address; an IPv4 address inside an IPv6 address counts as the IPv4 address."""
    address = ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def one_input(data: bytes) -> None:
    """Run one input: the content of a file."""
    found = read(data)
    if found is None:
        return
    entries = list(found)
    assert len(entries) == len(found) == len(set(entries))
    networks = [ip_network(entry) for entry in entries]  # raises if an entry is not in canonical spelling
    for probe in [*PROBES, *(str(network[0]) for network in networks), *(str(network[-1]) for network in networks)]:
        address = same(probe)
        assert (probe in found) == any(address in network for network in networks)
    for entry in entries:
        assert isinstance(is_private(entry), bool)
    again = read("\n".join(f" {entry} # again" for entry in entries).encode())
    assert again is not None
    assert list(again) == entries
    for entry in entries:
        again.discard(entry)
    assert not list(again)
    assert not any(probe in again for probe in PROBES)


def seeds() -> list[bytes]:
    return [
        b"192.0.2.1\n10.0.0.0/8 # a network\n\n# a comment\n::1\n",
        b"2001:db8::/32\r\n2001:DB8:0::1\r\n",
        b"::ffff:192.0.2.0/120\n::ffff:1.2.3.4",
        b"0.0.0.0/0\n::/0",
        b"192.0.2.1:8080\nfe80::1%eth0",
        b"fe80::1%eth0/64",
        b"10.0.0.1/8",
        b"10.0.0.0/255.0.0.0\n10.0.0.0/0.255.255.255",
        b"example.com",
        b"1.2.3.4 5.6.7.8",
        b"\xff\xfe1\x00",
        b"x" * 3000,
        "\N{ARABIC-INDIC DIGIT ONE}.2.3.4".encode(),
        b"1.2.3.4\x0b5.6.7.8\x1c9.9.9.9",
        b"1.2.3.4/99",
        b"::1/129",
    ]


if __name__ == "__main__":
    fuzz(one_input, seeds())
