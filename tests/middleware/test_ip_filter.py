from __future__ import annotations

import inspect
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywsapp.component import Accept, HandshakeAnswer, MessageComponent
from pywsapp.exceptions import ConfigurationError, Refuse
from pywsapp.http import Request, Response
from pywsapp.middleware.ip_filter import IpBlackList


class Chat(MessageComponent):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_handshake(self, request: Request) -> HandshakeAnswer:
        self.calls.append("on_handshake")
        return "v1"

    def on_request(self, request: Request) -> Response:
        self.calls.append("on_request")
        return Response("a page")


def come(component: MessageComponent, address: str) -> Any:
    return component.on_handshake(Request(remote_address=address))


# -- as in Ratchet -----------------------------------------------------------------------------------------------------


def test_other_addresses_reach_the_component_every_time() -> None:  # IpBlackList 1
    chat = Chat()
    guarded = IpBlackList(chat, ["192.0.2.1"])
    for _ in range(3):
        assert come(guarded, "192.0.2.2") == Accept(component=chat, subprotocol="v1")
    assert chat.calls == ["on_handshake"] * 3


def test_a_blocked_address_is_refused_before_the_component_is_called() -> None:  # IpBlackList 2, 3, 6
    chat = Chat()
    guarded = IpBlackList(chat).block("192.0.2.1")
    for ask in (guarded.on_handshake, guarded.on_request):
        with pytest.raises(Refuse) as caught:
            ask(Request(remote_address="192.0.2.1"))
        assert caught.value.status == 403
        assert "\n" not in str(caught.value.body)
    assert chat.calls == []


def test_the_hooks_of_a_connection_are_those_of_the_component_inside() -> None:  # IpBlackList 4, 5, 8
    chat = Chat()
    assert come(IpBlackList(chat), "192.0.2.1").component is chat


def test_block_and_unblock_can_be_chained_and_keep_the_order() -> None:  # IpBlackList 7
    guarded = IpBlackList(Chat())
    same = guarded.block("192.0.2.3").block("10.0.0.0/8").block("192.0.2.1").block("192.0.2.3").unblock("10.0.0.0/8")
    assert same is guarded
    assert guarded.blocked == ["192.0.2.3", "192.0.2.1"]


@pytest.mark.parametrize(  # IpBlackList 9
    ("entry", "canonical", "address"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("127.0.0.1:6392", "127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1:6392"),
        ("fe80::1%lo0", "fe80::1", "fe80::1%eth0"),
        ("fe80::1", "fe80::1", "fe80::1%lo0"),
        ("2001:DB8:0::1", "2001:db8::1", "2001:db8::0001"),
        ("::ffff:192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("192.0.2.1", "192.0.2.1", "::ffff:c000:201"),
        ("192.0.2.77/24", "192.0.2.0/24", "192.0.2.1"),
        ("192.0.2.1/32", "192.0.2.1", "192.0.2.1"),
        ("2001:db8::/32", "2001:db8::/32", "2001:db8:5::1"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24", "192.0.2.9"),
        ("::ffff:192.0.2.1/128", "192.0.2.1", "192.0.2.1"),
        ("0.0.0.0/0", "0.0.0.0/0", "::ffff:192.0.2.1"),
        ("::/0", "::/0", "2001:db8::1"),
    ],
)
def test_addresses_are_compared_by_value_in_any_spelling(entry: str, canonical: str, address: str) -> None:
    guarded = IpBlackList(Chat(), [entry])
    assert guarded.blocked == [canonical]
    assert guarded.is_blocked(address)
    assert guarded.unblock(canonical).blocked == []
    assert not guarded.is_blocked(address)


def test_unblocking_an_unknown_address_is_ignored() -> None:  # IpBlackList 10
    guarded = IpBlackList(Chat(), ["192.0.2.0/24"])
    assert guarded.unblock("192.0.2.1") is guarded
    assert guarded.unblock("192.0.2.0/25").blocked == ["192.0.2.0/24"]
    assert guarded.is_blocked("192.0.2.1")


# -- beyond ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        "localhost",
        "example.com",
        "192.0.2",
        "192.0.2.256",
        "192.0.2.1/33",
        "192.0.2.1:x",
        "192.0.2.1:80/24",
        "[::1]:80",
        "::1/129",
        "/",
        "1" * 200,
        None,
        5,
        b"127.0.0.1",
    ],
)
def test_an_invalid_address_is_refused(garbage: Any) -> None:
    guarded = IpBlackList(Chat())
    with pytest.raises(ConfigurationError):
        guarded.block(garbage)
    with pytest.raises(ConfigurationError):
        guarded.unblock(garbage)
    with pytest.raises(ConfigurationError):
        IpBlackList(Chat(), [garbage])
    assert guarded.blocked == []
    assert not guarded.is_blocked(garbage)


def test_a_single_str_and_no_component_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"\['192\.0\.2\.1'\]"):
        IpBlackList(Chat(), "192.0.2.1")
    with pytest.raises(ConfigurationError):
        IpBlackList(None)  # type: ignore[arg-type]


def test_a_peer_without_an_address_passes() -> None:
    chat = Chat()
    assert come(IpBlackList(chat, ["0.0.0.0/0", "::/0"]), "").component is chat


def test_an_address_stays_blocked_while_another_entry_contains_it() -> None:
    guarded = IpBlackList(Chat(), ["192.0.2.1", "192.0.2.0/24", "192.0.2.2"])
    guarded.unblock("192.0.2.1")
    assert guarded.is_blocked("192.0.2.1")
    guarded.unblock("192.0.2.0/24")
    assert not guarded.is_blocked("192.0.2.1")
    assert guarded.is_blocked("192.0.2.2")


def test_plain_http_of_other_addresses_reaches_the_component() -> None:
    response = IpBlackList(Chat(), ["192.0.2.1"]).on_request(Request(remote_address="192.0.2.2"))
    assert isinstance(response, Response)
    assert response.body == b"a page"


def test_a_class_makes_a_component_for_each_handshake() -> None:
    guarded = IpBlackList(Chat)
    first, second = come(guarded, "192.0.2.1").component, come(guarded, "192.0.2.1").component
    assert isinstance(first, Chat)
    assert first is not second


@pytest.mark.anyio
async def test_an_async_on_handshake_is_awaited() -> None:
    class Slow(MessageComponent):
        async def on_handshake(self, request: Request) -> HandshakeAnswer:
            return "v2"

    slow = Slow()
    answer = come(IpBlackList(slow), "192.0.2.1")
    assert inspect.isawaitable(answer)
    assert await answer == Accept(component=slow, subprotocol="v2")


ADDRESSES = st.ip_addresses(v=4).filter(lambda a: a.packed[0] < 2) | st.ip_addresses(v=6, network="2001:db8::/120")
ENTRIES = st.builds(
    lambda address, length: f"{address}/{length % (address.max_prefixlen + 1)}", ADDRESSES, st.integers(0, 128)
)


@given(st.lists(ENTRIES | ADDRESSES.map(str), max_size=8), st.lists(st.integers(0, 7), max_size=8), ADDRESSES)
def test_the_lookup_agrees_with_the_ipaddress_module(entries: list[str], removed: list[int], address: Any) -> None:
    guarded = IpBlackList(Chat(), entries)
    left = dict.fromkeys(ip_network(entry, strict=False) for entry in entries)
    for index in removed:
        if index < len(entries):
            guarded.unblock(entries[index])
            left.pop(ip_network(entries[index], strict=False), None)
    expected = any(address in network for network in left)
    assert guarded.is_blocked(str(address)) is expected
    if isinstance(address, IPv4Address):
        assert guarded.is_blocked(f"::ffff:{address}") is expected
        assert guarded.is_blocked(f"{address}:80") is expected
    assert [ip_network(text) for text in guarded.blocked] == list(left)


@given(st.text() | ADDRESSES.map(str))
def test_is_blocked_never_raises(text: str) -> None:
    guarded = IpBlackList(Chat(), ["0.0.0.0/0", "::/0"])
    try:
        ip_address(text)
    except ValueError:
        guarded.is_blocked(text)
    else:
        assert guarded.is_blocked(text)
