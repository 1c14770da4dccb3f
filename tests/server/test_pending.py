"""Connections without a complete request: their own limit, one deadline, a least rate."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trustme
from anyio.streams.tls import TLSStream
from hypothesis import given
from hypothesis import strategies as st
from support.serving import GUARD
from support.wire import Site, get, handshake, peer_of, serving

from pywsapp import App, ConfigurationError, Options
from pywsapp._server import http_connection
from pywsapp._server.bind import ListeningSocket
from pywsapp._server.pending import PendingConnection, PendingConnections
from pywsapp._server.server import Server

HEADER = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"


class Owner:
    """An owner that records what happens to it."""

    def __init__(self) -> None:
        self.received = 0
        self.ends: list[str] = []

    def expire(self) -> None:
        self.ends.append("expired")

    def evict(self) -> None:
        self.ends.append("evicted")


def made(limit: int = 3, files: int = 1000, connections: int = 0, **options: Any) -> PendingConnections:
    return PendingConnections(Options(**options), limit, lambda: connections, files)


def added(pending: PendingConnections, count: int) -> list[Owner]:
    owners = [Owner() for _ in range(count)]
    for owner in owners:
        pending.add(owner)
    return owners


# -- the rules, with injected time -------------------------------------------------------------------------------------


def test_above_the_limit_the_oldest_makes_place() -> None:
    pending = made(limit=3)
    owners = added(pending, 5)
    assert [owner.ends for owner in owners] == [["evicted"], ["evicted"], [], [], []]
    assert len(pending) == 3


def test_a_lack_of_files_evicts_pending_connections_only() -> None:
    pending = made(limit=100, files=5, connections=3)
    owners = added(pending, 4)
    assert [owner.ends for owner in owners] == [["evicted"], ["evicted"], [], []]
    full = made(limit=100, files=5, connections=7)
    assert added(full, 1)[0].ends == [], "there is always place for one"


def test_the_deadline_is_counted_once_over_all_owners() -> None:
    pending, first, second = made(handshake_timeout=10), Owner(), Owner()
    entry = pending.add(first, 1010.0)
    assert pending.hand_over(entry, second)
    pending.tick(1009.9)
    assert second.ends == []
    pending.tick(1010.0)
    assert (first.ends, second.ends) == ([], ["expired"])


def test_without_a_deadline_it_is_counted_from_the_first_tick() -> None:
    pending = made(handshake_timeout=10)
    (owner,) = added(pending, 1)
    for now in 1000.0, 1009.9:
        pending.tick(now)
        assert owner.ends == []
    pending.tick(1010.0)
    assert owner.ends == ["expired"]


@pytest.mark.parametrize(("rate", "received", "ends"), [(240, 1300, []), (240, 1100, ["expired"]), (None, 1, [])])
def test_a_head_that_has_begun_needs_the_least_rate(rate: float | None, received: int, ends: list[str]) -> None:
    pending = made(handshake_timeout=1000, min_http_rate=rate)
    (owner,) = added(pending, 1)
    pending.tick(1000.0)
    pending.tick(1100.0)  # a silent connection has no rate
    owner.received = received
    pending.tick(1101.0)
    pending.tick(1105.9)
    assert owner.ends == []
    pending.tick(1106.0)
    assert owner.ends == ends


def test_an_evicted_connection_cannot_be_handed_over() -> None:
    pending = made(limit=1)
    entry = pending.add(Owner())
    added(pending, 1)
    assert not pending.hand_over(entry, Owner())
    pending.remove(entry)
    assert len(pending) == 1


def test_evictions_are_logged_together(caplog: pytest.LogCaptureFixture) -> None:
    pending = made(limit=1)
    for now in 100.0, 101.0, 105.0, 111.0:
        added(pending, 10)
        pending.tick(now)
    assert [message[:24] for message in caplog.messages] == ["dropped 9 connections wi", "dropped 30 connections w"]


@given(st.lists(st.sampled_from(["add", "plain", "hand over", "remove", "tick"]), max_size=60), st.integers(1, 5))
def test_the_counts_stay_right(steps: list[str], limit: int) -> None:
    connections: set[Any] = set()
    pending = PendingConnections(Options(), limit, lambda: len(connections), 10)
    owners: dict[PendingConnection, Owner] = {}
    for number, step in enumerate(steps):
        entry = list(owners)[number % len(owners)] if owners else None
        if step in ("add", "plain"):
            owner = Owner()
            entry = pending.add(owner, has_protocol=step == "plain")
            owners[entry] = owner
            if step == "plain":
                connections.add(entry)
        elif entry is not None and step == "hand over" and not entry.has_protocol:
            owner = Owner()
            if pending.hand_over(entry, owner):
                owners[entry] = owner
                connections.add(entry)
        elif entry is not None and step == "remove":
            pending.remove(entry)
        else:
            pending.tick(float(number))
        for other, its_owner in owners.items():  # as HTTP connections do
            if "evicted" in its_owner.ends:
                connections.discard(other)
        counted = [other for other in owners if other.is_counted]
        assert len(pending) == len(counted) <= limit
        assert pending.admitted == len(connections) - sum(other.has_protocol for other in counted)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "10"])
def test_max_pending_must_be_a_number(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_pending"):
        App(max_pending=value)


# -- on a server -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=["plain", "tls", "proxy", "proxy and tls"])
def listener(request: pytest.FixtureRequest, authority: trustme.CA) -> ListeningSocket:
    kind: str = request.param
    context = None
    if "tls" in kind:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
    return ListeningSocket(port=0, tls=context, proxy_protocol="proxy" in kind)


async def status_of(server: Server, authority: trustme.CA, request: bytes = b"") -> int:
    """Connect as an ordinary client does; return the status of the response to a request."""
    listener = server.addresses[0][0]
    stream: Any = await anyio.connect_tcp("127.0.0.1", int(server.addresses[0][1].rpartition(":")[2]))
    if listener.proxy_protocol:
        await stream.send(HEADER)
    if listener.tls is not None:
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        stream = await TLSStream.wrap(stream, hostname="localhost", ssl_context=trusting, standard_compatible=False)
    await stream.send(request or handshake())
    answer: bytes = await stream.receive()
    await anyio.aclose_forcefully(stream)
    return int(answer.split(b" ")[1])


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(GUARD):
        while not condition():
            await anyio.lowlevel.checkpoint()


@pytest.mark.anyio
@pytest.mark.parametrize("begin", [b"", b"G"], ids=["silent", "begun"])
async def test_half_open_connections_do_not_count_against_max_connections(
    listener: ListeningSocket, begin: bytes, authority: trustme.CA
) -> None:
    async with serving(Site(), listeners=[listener], max_connections=3, max_pending=40) as server:
        peers = [peer_of(server) for _ in range(200)]
        if begin and listener.proxy_protocol:
            begin = HEADER[:1]
        for peer in peers:
            peer.sock.send(begin)
        for _ in range(3):
            assert await status_of(server, authority) == 101
        assert len(server.pending) <= 40
        for peer in peers:
            peer.disconnect()
        await until(lambda: not server.pending)
        await server.runtime.wait_empty()
        assert server.pending.admitted == 0


@pytest.mark.anyio
async def test_the_connections_that_make_place_are_closed() -> None:
    async with serving(Site(), max_pending=5) as server:
        peers = [peer_of(server) for _ in range(30)]
        with anyio.fail_after(GUARD):
            for peer in peers[:25]:
                with suppress(ConnectionResetError):
                    assert await peer.read_to_end() == b""
            for peer in peers[25:]:
                await peer.open()
        for peer in peers:
            peer.disconnect()


@pytest.mark.anyio
@pytest.mark.parametrize(
    "request_",
    [b"\0", get("/" + "x" * 20_000), b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"],
    ids=["400", "414", "200 with the rest of the request missing"],
)
async def test_what_is_answered_does_not_count_any_more(request_: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "_LINGER_SECONDS", 60)
    async with serving(Site(), max_connections=3) as server:
        peers = [peer_of(server) for _ in range(20)]
        for peer in peers:
            await peer.send(request_)
            await peer.head()
        for _ in range(3):
            last = peer_of(server)
            await last.open()
            peers.append(last)
        async with peer_of(server) as refused:
            await refused.send(handshake())
            assert (await refused.head())[0] == 503
        for peer in peers:
            peer.disconnect()
        await server.runtime.wait_empty()
        assert (len(server.pending), server.pending.admitted) == (0, 0)


@pytest.mark.anyio
async def test_one_deadline_for_header_tls_and_head(listener: ListeningSocket, authority: trustme.CA) -> None:
    """A client that uses most of the time for each step is late at the end, although no step alone is."""
    if not listener.proxy_protocol:
        pytest.skip("a single step")
    timeout = 1.5
    trusting = ssl.create_default_context()  # takes a while, so not between the steps
    authority.configure_trust(trusting)
    async with serving(Site(), Options(handshake_timeout=timeout), listeners=[listener]) as server:
        began = anyio.current_time()
        stream: Any = await anyio.connect_tcp("127.0.0.1", int(server.addresses[0][1].rpartition(":")[2]))
        await anyio.sleep(timeout * 0.6)
        await stream.send(HEADER)
        if listener.tls is not None:
            try:
                stream = await TLSStream.wrap(
                    stream, hostname="localhost", ssl_context=trusting, standard_compatible=False
                )
            except anyio.BrokenResourceError:  # the machine is busy, and the handshake has met the deadline
                assert anyio.current_time() - began > timeout * 0.9
                return
        await stream.send(b"GET / HT")
        answer = await stream.receive()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert anyio.current_time() - began < timeout * 1.5
        await anyio.aclose_forcefully(stream)


@pytest.mark.anyio
async def test_a_pending_connection_that_makes_place_during_its_tls_handshake_is_logged_at_debug_only(
    authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    async with serving(Site(), listeners=[ListeningSocket(port=0, tls=context)], max_pending=2) as server:
        peers = [peer_of(server) for _ in range(20)]
        for peer in peers:
            peer.sock.send(b"\x16\x03\x01")
        assert await status_of(server, authority) == 101
        for peer in peers:
            peer.disconnect()
        await until(lambda: not server.pending)
    assert [record for record in caplog.records if record.levelno > logging.WARNING] == []
