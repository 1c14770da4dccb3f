"""The TLS of `TlsTransport` in memory, without an event loop: two of them at the ends of a pipe."""

from __future__ import annotations

import _ssl
import ctypes
import itertools
import os
import ssl
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.transports import MIB, SERVER_TLS, client_tls, same

from pywsapp._transports.memory import MemoryTransport, memory_pipe
from pywsapp._transports.tls import MAX_ANSWERS, RECORD, TlsTransport

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
versions = pytest.mark.parametrize("version", VERSIONS, ids=lambda version: str(version.name))
HIGH = 65536


class Recorder:
    """A protocol that records its calls, the bytes apart from them."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.received = bytearray()
        self.largest = 0
        self.exc: Exception | None = None
        self.keep_open = False
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert data
        assert not self.transport.is_closing()
        self.received += data
        self.largest = max(self.largest, len(data))

    def eof_received(self) -> bool:
        self.events.append("eof")
        return self.keep_open

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.exc = exc
        self.events.append("lost")


class Below:
    """A transport around another one that records the sizes of the writes, and the last one."""

    def __init__(self, inner: MemoryTransport) -> None:
        self._inner = inner
        self.sizes: list[int] = []
        self.last = b""

    def write(self, data: bytes) -> None:
        self.sizes.append(len(data))
        self.last = bytes(data)
        self._inner.write(data)

    def writelines(self, pieces: Iterable[bytes]) -> None:
        self.write(b"".join(pieces))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Pair:
    """A server and a client with TLS at the ends of a pipe, after their handshake.

    Args:
        version: the version of TLS.
        sizes: the bytes that the pipe moves are cut into pieces of these sizes, again and again.
        client: the client, if it is a special one.
    """

    def __init__(
        self,
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        sizes: list[int] | None = None,
        client: TlsTransport | None = None,
    ) -> None:
        self._sizes = itertools.cycle(sizes) if sizes else None
        self.at_server, self.at_client = Recorder(), Recorder()
        self.server = TlsTransport(SERVER_TLS)
        self.client = client or TlsTransport(client_tls(version), "localhost")
        self.server.set_protocol(self.at_server)
        self.client.set_protocol(self.at_client)
        is_done = self._shake(self.client, b""), False
        while not all(is_done):
            at_server = self._shake(self.server, self.client.outgoing.read())
            is_done = self._shake(self.client, self.server.outgoing.read()), at_server
        assert self.server.ssl_object.version() == f"TLSv1.{version - 0x301}"
        pipe = memory_pipe(self.server, self.client, cut=self.cut)
        self.below_server: MemoryTransport = pipe[0]
        self.below_client: MemoryTransport = pipe[1]
        if self.client.incoming.pending:  # the tickets of TLS 1.3, as bytes that were read with the handshake
            self.client.data_received(self.client.incoming.read())

    def cut(self, data: bytes) -> Iterator[bytes]:
        start = 0
        while start < len(data):
            end = start + (next(self._sizes) if self._sizes else len(data))
            yield data[start:end]
            start = end

    def _shake(self, end: TlsTransport, records: bytes) -> bool:
        done = end.handshake()
        for piece in self.cut(records):
            done = end.handshake(piece)
        return done

    def pump(self) -> None:
        """Deliver everything; nothing may be left in a BIO."""
        self.below_server.pump()
        for end in (self.server, self.client):
            assert end.outgoing.pending == 0
            assert end.incoming.pending == 0 or end.is_closing()


def openssl(transport: TlsTransport, name: str, *arguments: int) -> None:
    """Call a function of OpenSSL that Python does not offer, on the SSL object of a transport."""
    try:
        function = getattr(ctypes.CDLL(_ssl.__file__), name)
    except (AttributeError, OSError):
        pytest.skip("this Python contains OpenSSL without the names of its functions")
    # PyObject_HEAD, the socket, then the pointer to OpenSSL's object (CPython, Modules/_ssl.c, PySSLSocket).
    address = id(transport.ssl_object._sslobj) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)  # type: ignore[attr-defined]
    assert function(ctypes.c_void_p.from_address(address), *arguments) == 1


def ask_for_new_keys(transport: TlsTransport) -> bytes:
    """Return the record of a KeyUpdate that must be answered (RFC 8446, section 4.6.3)."""
    openssl(transport, "SSL_key_update", 1)
    transport.ssl_object.do_handshake()
    return transport.outgoing.read()


def renegotiating() -> Pair:
    """Return a pair whose client has answered the server's request to renegotiate."""
    pair = Pair(ssl.TLSVersion.TLSv1_2)
    openssl(pair.server, "SSL_renegotiate")
    with suppress(ssl.SSLWantReadError):
        pair.server.ssl_object.do_handshake()
    pair.client.data_received(pair.server.outgoing.read())
    return pair


# -- bytes in both directions ------------------------------------------------------------------------------------------

WRITES = st.lists(
    st.tuples(st.booleans(), st.one_of(st.integers(1, 300), st.integers(RECORD - 2, RECORD + 2), st.just(300_000))),
    max_size=12,
)
CUTS = st.lists(st.one_of(st.integers(1, 40), st.integers(1, 70_000)), min_size=1, max_size=5)


@settings(max_examples=60)
@given(version=st.sampled_from(VERSIONS), sizes=CUTS, writes=WRITES)
def test_bytes_arrive_wherever_they_are_cut(
    version: ssl.TLSVersion, sizes: list[int], writes: list[tuple[bool, int]]
) -> None:
    sizes = [*sizes, 5000]  # pieces of a byte only would take minutes
    pair, sent = Pair(version, sizes), {True: bytearray(), False: bytearray()}
    for number, (by_server, size) in enumerate(writes):
        data = os.urandom(size)
        end = pair.server if by_server else pair.client
        if number % 3 == 2:
            end.writelines([data[:5], data[5:]])
        else:
            end.write(memoryview(data) if number % 3 else data)  # type: ignore[arg-type]
        sent[by_server] += data
        if number % 2:
            pair.pump()
    pair.pump()
    assert same(bytes(pair.at_server.received), bytes(sent[False]))
    assert same(bytes(pair.at_client.received), bytes(sent[True]))
    pair.client.close()
    pair.pump()
    assert [event for event in pair.at_server.events if event in ("eof", "lost")] == ["eof", "lost"]
    assert pair.at_client.events[-1] == "lost"
    assert pair.at_server.exc is pair.at_client.exc is None


@versions
def test_a_handshake_byte_by_byte(version: ssl.TLSVersion) -> None:
    pair = Pair(version, [1])
    pair.client.write(b"hello")
    pair.pump()
    assert pair.at_server.received == b"hello"


@versions
def test_all_records_of_a_read_are_one_piece(version: ssl.TLSVersion) -> None:
    """A message of 64 KiB is not put together from five pieces, and the plaintext of a turn is bounded by the read."""
    pair = Pair(version)
    pair.client.write(bytes(65550))
    pair.pump()
    assert pair.at_server.largest == 65550


@versions
def test_extra_info(version: ssl.TLSVersion) -> None:
    pair = Pair(version)
    assert pair.client.get_extra_info("ssl_object") is pair.client.ssl_object
    assert pair.client.get_extra_info("cipher") == pair.server.get_extra_info("cipher")
    assert ("DNS", "localhost") in pair.client.get_extra_info("peercert")["subjectAltName"]
    assert pair.server.get_extra_info("peercert", 7) is None  # as in asyncio
    assert pair.server.get_extra_info("peername", 7) == 7


# -- pressure ----------------------------------------------------------------------------------------------------------


def test_encrypted_bytes_count_against_the_limits() -> None:
    pair = Pair()
    pair.server.set_write_buffer_limits(high=HIGH)
    pair.server.write(bytes(HIGH - 200))
    assert HIGH - 200 < pair.server.get_write_buffer_size() <= HIGH
    assert pair.at_server.events == []
    pair.server.write(bytes(200))
    assert pair.server.get_write_buffer_size() > HIGH
    assert pair.at_server.events == ["pause"]
    pair.server.write(bytes(200))
    pair.pump()
    assert pair.at_server.events == ["pause", "resume"]
    assert pair.server.get_write_buffer_size() == 0
    assert pair.at_client.received == bytes(HIGH + 200)


def test_a_large_write_is_encrypted_in_parts() -> None:
    """The records of 32 MiB are never all in one piece, and the BIO holds one at a time."""
    pair = Pair()
    pair.server._transport = below = Below(pair.below_server)
    pair.server.write(bytes(32 * MIB))
    assert sum(below.sizes) > 32 * MIB
    assert max(below.sizes) < 17 * RECORD


def test_nothing_more_is_encrypted_when_the_connection_breaks() -> None:
    class Breaking(Below):
        def write(self, data: bytes) -> None:
            super().write(data)
            self.abort()

    pair = Pair()
    pair.server._transport = below = Breaking(pair.below_server)
    pair.server.write(bytes(32 * MIB))
    assert len([size for size in below.sizes if size]) == 1
    pair.server.write(b"more")
    assert len([size for size in below.sizes if size]) == 1


def test_a_peer_that_wants_short_records() -> None:
    client = TlsTransport(client_tls(ssl.TLSVersion.TLSv1_2), "localhost")
    openssl(client, "SSL_set_tlsext_max_fragment_length", 1)  # 512 bytes
    pair = Pair(ssl.TLSVersion.TLSv1_2, client=client)
    for size in (400, 600, 20_000):
        pair.server.write(bytes(size))
        pair.client.write(bytes(size))
    pair.pump()
    assert len(pair.at_client.received) == len(pair.at_server.received) == 21_000


def test_reading_is_paused_below() -> None:
    pair = Pair()
    pair.server.pause_reading()
    pair.client.write(b"early")
    pair.pump()
    assert pair.at_server.received == b""
    pair.server.resume_reading()
    pair.pump()
    assert pair.at_server.received == b"early"


# -- the end -----------------------------------------------------------------------------------------------------------


@versions
def test_close_ends_with_a_close_notify(version: ssl.TLSVersion) -> None:
    pair = Pair(version)
    pair.at_client.keep_open = True
    pair.server.write(b"bye")
    pair.server.close()
    assert pair.server.is_closing()
    pair.server.close()
    pair.server.write(b"too late")
    pair.pump()
    assert pair.at_client.received == b"bye"
    assert pair.client.ssl_object.read(1) == b""  # OpenSSL has read the close_notify
    assert pair.at_client.events == ["eof"]
    assert pair.at_server.events == ["lost"]


@versions
def test_half_close(version: ssl.TLSVersion) -> None:
    """A close_notify ends one direction; what follows it is ignored and takes no memory."""
    pair = Pair(version)
    pair.at_server.keep_open = True
    with suppress(ssl.SSLWantReadError):
        pair.client.ssl_object.unwrap()
    end = pair.client.outgoing.read()
    for records in (end + end + bytes(1000), bytes(1000)):
        pair.below_client.write(records)
        pair.pump()
    assert pair.at_server.events == ["eof"]
    assert not pair.server.is_closing()
    if version is ssl.TLSVersion.TLSv1_3:
        pair.server.write(b"still here")
        pair.pump()
        assert pair.at_client.received == b"still here"
    pair.below_client.close()
    pair.pump()
    assert pair.at_server.events == ["eof"]
    pair.server.close()
    pair.pump()
    assert pair.at_server.events == ["eof", "lost"]


@versions
def test_an_end_without_close_notify(version: ssl.TLSVersion) -> None:
    pair = Pair(version)
    pair.client.write(b"last")
    pair.below_client.close()
    pair.pump()
    assert pair.at_server.received == b"last"
    assert pair.at_server.events == ["eof", "lost"]
    assert pair.at_server.exc is None


def test_a_reset_is_reported() -> None:
    pair = Pair()
    pair.client.abort()
    pair.pump()
    assert pair.at_server.events == ["lost"]
    assert isinstance(pair.at_server.exc, ConnectionResetError)


@settings(max_examples=100)
@given(data=st.data(), version=st.sampled_from(VERSIONS), sizes=CUTS)
def test_damaged_records_end_the_connection(data: st.DataObject, version: ssl.TLSVersion, sizes: list[int]) -> None:
    """What arrived before the damage is delivered, nothing after it, and the loss is an OSError or none."""
    pair = Pair(version, [*sizes, 5000])
    messages = [os.urandom(data.draw(st.sampled_from([1, 100, 20_000]))) for _ in range(3)]
    records = b""
    for message in messages:
        pair.client.write(message)
        records += bytes(pair.below_client._queue)
        pair.below_client._queue.clear()
    place = data.draw(st.integers(0, len(records) - 1))
    how = data.draw(st.sampled_from(["cut", "changed", "inserted", "removed"]))
    if how == "cut":
        damaged = records[:place]
    elif how == "changed":
        damaged = records[:place] + bytes([records[place] ^ data.draw(st.integers(1, 255))]) + records[place + 1 :]
    elif how == "inserted":
        damaged = records[:place] + data.draw(st.binary(min_size=1, max_size=50)) + records[place:]
    else:
        damaged = records[:place] + records[place + 1 :]
    pair.below_client.write(damaged)
    pair.below_client.close()
    pair.pump()
    sent = b"".join(messages)
    assert sent.startswith(bytes(pair.at_server.received))
    assert pair.at_server.events in (["lost"], ["eof", "lost"])
    assert pair.at_server.exc is None or isinstance(pair.at_server.exc, ssl.SSLError)


def test_garbage_is_answered_by_an_alert() -> None:
    pair = Pair()
    pair.client.write(b"before")
    pair.below_client.write(b"GET / HTTP/1.1\r\n\r\n")
    pair.server._transport = below = Below(pair.below_server)
    pair.pump()
    assert pair.at_server.received == b"before"
    assert isinstance(pair.at_server.exc, ssl.SSLError)
    assert pair.at_server.events == ["lost"]
    pair.client.data_received(below.last)
    assert isinstance(pair.client._exc, ssl.SSLError)
    assert "ALERT" in str(pair.client._exc.reason)


# -- a read that needs a write, and a write that needs a read ----------------------------------------------------------


def test_new_keys() -> None:
    pair = Pair()
    for number in range(3):
        pair.below_client.write(ask_for_new_keys(pair.client))
        pair.pump()
        pair.server.write(b"%d" % number)
        pair.client.write(b"%d" % number)
        pair.pump()
    assert pair.at_server.received == pair.at_client.received == b"012"


def test_a_peer_that_does_not_read_its_answers() -> None:
    pair, requests = Pair(), 0
    pair.server.write(b"x" * 10 * MIB)  # what a program queues does not count
    while not pair.server.is_closing():
        pair.server.data_received(ask_for_new_keys(pair.client))
        requests += 1
        assert requests <= MAX_ANSWERS
    assert requests > 1000
    assert pair.server.get_write_buffer_size() == 0
    pair.pump()
    assert isinstance(pair.at_server.exc, ConnectionAbortedError)


def test_a_peer_that_reads_its_answers_can_ask_for_ever() -> None:
    pair = Pair()
    for _ in range(MAX_ANSWERS // 20):
        pair.below_client.write(ask_for_new_keys(pair.client))
        pair.pump()
    assert not pair.server.is_closing()


def test_writes_wait_for_a_renegotiation() -> None:
    pair = renegotiating()
    pair.client.write(b"a" * 50_000)
    pair.client.write(b"b")
    assert pair.client.get_write_buffer_size() > 50_001
    assert pair.at_client.events == ["pause"]
    pair.pump()
    assert pair.at_client.events == ["pause", "resume"]
    assert pair.at_server.received == b"a" * 50_000 + b"b"
    assert pair.client.get_write_buffer_size() == 0


def test_a_pause_of_two_reasons() -> None:
    """A protocol that has to wait for both, the peer and a renegotiation, is told once."""
    pair = renegotiating()
    pair.client.write(b"a")
    pair.client.set_write_buffer_limits(high=1)
    assert pair.at_client.events == ["pause"]
    pair.pump()
    assert pair.at_client.events == ["pause", "resume"]


def test_close_during_a_renegotiation_sends_everything_first() -> None:
    pair = renegotiating()
    pair.client.write(b"last words")
    pair.client.close()
    assert pair.client.is_closing()
    pair.pump()
    assert pair.at_server.received == b"last words"
    assert pair.at_server.events == ["eof", "lost"]
    assert pair.at_client.events[-1] == "lost"


def test_nothing_is_delivered_after_a_close_that_waits() -> None:
    pair = renegotiating()
    pair.client.write(b"last words")
    pair.client.close()
    pair.server.write(b"too late")
    pair.pump()
    assert pair.at_client.received == b""
    assert pair.at_client.events[-1] == "lost"


def test_the_end_of_the_stream_during_a_renegotiation() -> None:
    pair = renegotiating()
    pair.client.write(b"never sent")
    pair.below_server.close()
    pair.pump()
    assert pair.at_client.events == ["pause", "lost"]
    assert isinstance(pair.at_client.exc, ConnectionResetError)


# -- the handshake -----------------------------------------------------------------------------------------------------


def test_a_failed_handshake_leaves_an_alert() -> None:
    client, server = TlsTransport(client_tls(ssl.TLSVersion.TLSv1_3), "example.com"), TlsTransport(SERVER_TLS)
    client.handshake()
    server.handshake(client.outgoing.read())
    with pytest.raises(ssl.SSLCertVerificationError):
        client.handshake(server.outgoing.read())
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        server.handshake(client.outgoing.read())


@given(st.binary(min_size=1, max_size=300))
def test_a_handshake_of_garbage(data: bytes) -> None:
    server = TlsTransport(SERVER_TLS)
    with suppress(ssl.SSLError):
        assert server.handshake(data) is False
