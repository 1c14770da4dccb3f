"""TLS over another transport, for event loops that have no TLS of their own (trio).

A `TlsTransport` stands in the middle. It is the protocol of a transport that moves encrypted bytes, and the transport
of a protocol that reads and writes plaintext:

    SocketTransport  <- records ->  TlsTransport  <- plaintext ->  the protocol

It does no I/O and needs no event loop: OpenSSL works on two `ssl.MemoryBIO`. Only `secure`, which performs the
handshake before there is a transport, waits for a socket.

- Reading: `data_received` decrypts all records of one read, and passes their plaintext on as one piece. It keeps no
  plaintext. Therefore `pause_reading` only pauses the transport below, and a piece has at most the bytes of one read
  (`READ_SIZE`) and one record.
- Writing: `write` encrypts at once. The transport below queues and counts the records, and its limits apply to them.
- A read can need a write: OpenSSL answers a peer that changes its keys, for instance. A peer that does not read these
  answers is dropped when `MAX_ANSWERS` bytes of them are queued.
- A write can need a read: during a renegotiation of TLS 1.2 the plaintext waits, and writing is paused.
- The end: `close` sends a close_notify (RFC 8446, section 6.1) behind everything that was written. A peer can end its
  stream without one, as many clients do, and still gets what is queued. WebSocket has a closing handshake of its own.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import anyio

from pywsapp._transports.base import Transport, TransportProtocol

RECORD = 16384
"""Bytes of plaintext in one record, at most (RFC 8446, section 5.1)."""

_ENCRYPTED_RECORD = RECORD + 22  # header, type and tag of TLS 1.3 (RFC 8446, section 5.2)

MAX_ANSWERS = 65536
"""Bytes of answers to a peer's requests of TLS that can be queued. An answer to new keys has 27 bytes."""

_RECORDS_A_WRITE = 16


class TlsTransport:
    """TLS between a transport and a protocol; `set_protocol` names the protocol before `connection_made`.

    Args:
        context: the context, of a server or of a client.
        hostname: the name that the server's certificate must have; None for the role of the server.

    Attributes:
        ssl_object: the state of TLS.
        incoming: records of the peer that `ssl_object` has not read.
        outgoing: records that `ssl_object` has written.
    """

    __slots__ = (
        "_answered",
        "_exc",
        "_has_ended",
        "_is_closing",
        "_is_full",
        "_is_paused",
        "_protocol",
        "_transport",
        "_waiting",
        "incoming",
        "outgoing",
        "ssl_object",
    )

    _protocol: TransportProtocol
    _transport: Transport

    def __init__(self, context: ssl.SSLContext, hostname: str | None = None) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl_object = context.wrap_bio(
            self.incoming, self.outgoing, server_side=hostname is None, server_hostname=hostname
        )
        self._answered = 0
        self._exc: OSError | None = None
        self._has_ended = False  # the peer has ended its stream
        self._is_closing = False
        self._is_full = False  # the transport below has enough
        self._is_paused = False  # the protocol has paused
        self._waiting: bytearray | None = None  # plaintext that a renegotiation holds up

    def handshake(self, records: bytes = b"") -> bool:
        """Continue the handshake with bytes of the peer; return whether it is complete.

        The caller sends what is in `outgoing` afterwards, also after a failure.

        Raises:
            ssl.SSLError: the handshake failed.
        """
        self.incoming.write(records)
        try:
            self.ssl_object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    # -- the protocol of the transport below ---------------------------------------------------------------------------

    def connection_made(self, transport: Transport) -> None:
        self._transport = transport
        self._protocol.connection_made(self)

    def data_received(self, data: bytes) -> None:
        """Decrypt records, answer them, and pass the plaintext on."""
        if self._has_ended:
            return
        pieces = self._decrypt(data)
        if self.outgoing.pending:
            self._answer()
        if self._waiting is not None:
            self._retry()
        if pieces and not self.is_closing():
            self._protocol.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self._exc is not None:
            self._transport.abort()
        elif self._has_ended:
            self._end()

    def eof_received(self) -> bool:
        """Handle the end of the stream, with or without a close_notify before it."""
        if not self._has_ended:
            self._has_ended = True
            self._end()
        return True  # `close` closes the transport below, behind a close_notify

    def pause_writing(self) -> None:
        self._is_full = True
        self._report_pressure()

    def resume_writing(self) -> None:
        self._is_full = False
        self._report_pressure()

    def connection_lost(self, exc: Exception | None) -> None:
        protocol = self._protocol
        del self._protocol  # they refer to each other
        self._waiting = None
        protocol.connection_lost(self._exc or exc)

    # -- the transport of the protocol above ---------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Encrypt bytes and send them; does nothing after `close`."""
        if not data or self.is_closing():
            return
        if self._waiting is not None:
            self._waiting += data
        else:
            self._encrypt(data)

    def writelines(self, pieces: Iterable[bytes]) -> None:
        self.write(b"".join(pieces))

    def close(self) -> None:
        """Stop reading, send what is queued and a close_notify, then close; `connection_lost` follows."""
        if not self.is_closing():
            self._is_closing = True
            if self._waiting is None:
                self._close_below()

    def abort(self) -> None:
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._is_closing or self._transport.is_closing()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that are queued, encrypted."""
        return self._transport.get_write_buffer_size() + len(self._waiting or b"")

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)

    def set_protocol(self, protocol: TransportProtocol) -> None:
        self._protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the `"ssl_object"`, the `"cipher"`, the `"peercert"`, or what the transport below knows."""
        if name == "ssl_object":
            return self.ssl_object
        if name == "cipher":
            return self.ssl_object.cipher()
        if name == "peercert":
            return self.ssl_object.getpeercert()
        return self._transport.get_extra_info(name, default)

    # -- OpenSSL -------------------------------------------------------------------------------------------------------

    def _decrypt(self, data: bytes) -> list[bytes]:
        """Return the plaintext of records; sets `_has_ended` after a close_notify, and `_exc` after a failure."""
        incoming, read = self.incoming, self.ssl_object.read
        pieces: list[bytes] = []
        # A BIO keeps the memory that it once needed, so both get about one record at a time.
        for start in range(0, len(data), _ENCRYPTED_RECORD):
            incoming.write(data[start : start + _ENCRYPTED_RECORD])
            try:
                # A record that is not complete leaves the BIO too, so an empty one has nothing more to read.
                while incoming.pending:
                    piece = read(RECORD)
                    if not piece:
                        self._has_ended = True
                        incoming.read()  # what follows a close_notify is ignored (RFC 8446, section 6.1)
                        return pieces
                    pieces.append(piece)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as exc:
                self._exc = exc
                return pieces
        return pieces

    def _encrypt(self, data: bytes | bytearray) -> None:
        """Encrypt bytes and write the records below; keep the rest while OpenSSL has to read first."""
        write, read, transport = self.ssl_object.write, self.outgoing.read, self._transport
        records: list[bytes] = []
        done = 0
        try:
            done = write(data[:RECORD])
            if done == len(data):  # most messages are one record
                transport.write(read())
                return
            records.append(read())
            view = memoryview(data)
            while done < len(view) and not transport.is_closing():
                done += write(view[done : done + RECORD])
                records.append(read())
                if len(records) == _RECORDS_A_WRITE:
                    transport.writelines(records)
                    records.clear()
        except ssl.SSLWantReadError:
            records.append(read())
            self._waiting = bytearray(memoryview(data)[done:])
        except ssl.SSLError as exc:
            self._exc = exc
            transport.abort()
        transport.writelines(records)
        if self._waiting is not None:
            self._report_pressure()

    def _answer(self) -> None:
        """Write below what OpenSSL answers to a read."""
        records = self.outgoing.read()
        self._answered = self._answered + len(records) if self._transport.get_write_buffer_size() else 0
        self._transport.write(records)
        if self._answered > MAX_ANSWERS and self._exc is None:
            self._exc = ConnectionAbortedError("the peer does not read the answers to its TLS messages")

    def _retry(self) -> None:
        """Encrypt what had to wait, after another read."""
        waiting, self._waiting = self._waiting or bytearray(), None
        self._encrypt(waiting)
        if self._waiting is None:
            self._report_pressure()
            if self._is_closing:
                self._close_below()

    def _end(self) -> None:
        """Handle the end of the peer's stream."""
        if self._waiting is not None:
            self._exc = ConnectionResetError("the peer ended its stream during a TLS renegotiation")
            self._transport.abort()
        elif not self.is_closing() and not self._protocol.eof_received():
            self.close()

    def _close_below(self) -> None:
        with suppress(ssl.SSLError):  # SSLWantReadError, because it would wait for the peer's close_notify
            self.ssl_object.unwrap()
        if self.outgoing.pending:
            self._transport.write(self.outgoing.read())
        self._transport.close()

    def _report_pressure(self) -> None:
        is_paused = self._is_full or self._waiting is not None
        if is_paused != self._is_paused:
            self._is_paused = is_paused
            if is_paused:
                self._protocol.pause_writing()
            else:
                self._protocol.resume_writing()


async def secure(
    sock: socket.socket, context: ssl.SSLContext, hostname: str | None = None
) -> tuple[TlsTransport, bytes]:
    """Perform a TLS handshake on a socket, in the role of the client if a host name is given.

    Returns:
        The TLS of the connection, for a transport of this socket; and the bytes that have followed the handshake, which
        this transport has received already.

    Raises:
        OSError: the handshake failed (ssl.SSLError), or the peer closed the connection.
    """
    transport, records = TlsTransport(context, hostname), b""
    while True:
        try:
            is_complete = transport.handshake(records)
        except ssl.SSLError:
            with suppress(OSError):
                sock.send(transport.outgoing.read())  # the alert, which says why
            raise
        await _send(sock, transport.outgoing.read())
        if is_complete:
            return transport, transport.incoming.read()
        records = await _receive(sock)
        if not records:
            raise ConnectionResetError("the peer closed the connection during the TLS handshake")


async def _send(sock: socket.socket, data: bytes) -> None:
    while data:
        try:
            data = data[sock.send(data) :]
        except (BlockingIOError, InterruptedError):
            await anyio.wait_writable(sock)


async def _receive(sock: socket.socket) -> bytes:
    while True:
        await anyio.wait_readable(sock)
        with suppress(BlockingIOError, InterruptedError):
            return sock.recv(RECORD)
