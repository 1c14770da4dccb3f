"""The peer of a WebSocket in a test: frames with any bytes, and plain wsproto as the reference."""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Callable
from typing import NamedTuple

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.extensions import PerMessageDeflate

from pywsapp._protocol.deflate import DeflateParameters
from pywsapp._protocol.events import Ended, PongReceived, Received
from pywsapp._protocol.websocket import WebSocket
from pywsapp.options import Deflate, Options

MASK = b"\x01\x9a\x00\xff"
UNKNOWN_CODE = "CLOSE with unknown reserved code"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
COMPRESSED = 4  # RSV1
MIB = 1024 * 1024
TAKEOVER = DeflateParameters(False, False, 15, 15)
NO_TAKEOVER = DeflateParameters(True, True, 15, 15)


def websocket(*, is_client: bool = False, deflate: bool = False, **options: object) -> WebSocket:
    """Return a WebSocket with these options; with `deflate` it compresses every message."""
    config = Options(deflate=Deflate(threshold=0) if deflate else None, **options)  # type: ignore[arg-type]
    return WebSocket(client=is_client, options=config, deflate=TAKEOVER if deflate else None)


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    length: int | None = None,
    width: int | None = None,
) -> bytes:
    """Return one frame; `length` and `width` make its length field wrong."""
    size = len(payload) if length is None else length
    if width is None:
        width = 0 if size < 126 else 2 if size < 65536 else 8
    short = {0: size, 2: 126, 8: 127}[width]
    head = bytes(((0x80 if fin else 0) | rsv << 4 | opcode, (0x80 if mask is not None else 0) | short))
    head += size.to_bytes(width, "big") if width else b""
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def close_frame(code: int | None = 1000, reason: bytes = b"", **options: object) -> bytes:
    payload = b"" if code is None else code.to_bytes(2, "big") + reason
    return frame(CLOSE, payload, **options)  # type: ignore[arg-type]


def deflated(data: bytes, bits: int = 15) -> bytes:
    """Return one message compressed without context takeover, without the tail (RFC 7692, section 7.2.1)."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, -bits)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def parse_frames(data: bytes) -> list[tuple[int, bytes]]:
    """Return the first byte and the payload of each frame; all frames must be complete."""
    frames = []
    while data:
        first, second = data[0], data[1]
        size, at = second & 127, 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, at = int.from_bytes(data[2 : 2 + width], "big"), 2 + width
        mask = b""
        if second & 128:
            mask, at = data[at : at + 4], at + 4
        payload = data[at : at + size]
        assert len(payload) == size, "a frame is not complete"
        if mask:
            payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
        frames.append((first, payload))
        data = data[at + size :]
    return frames


class Outcome(NamedTuple):
    """The messages, pongs and close code that result from some bytes."""

    messages: list[str | bytes]
    pongs: list[bytes]
    end: tuple[int, bool] | None  # the close code, and whether the peer closed


def plain_wsproto(data: bytes, *, client: bool, deflate: PerMessageDeflate | None = None) -> Connection:
    role = ConnectionType.CLIENT if client else ConnectionType.SERVER
    connection = Connection(role, extensions=[deflate] if deflate else [])
    connection.receive_data(data)
    return connection


def misreads_1014(data: bytes, end: tuple[int, bool] | None, *, client: bool = False) -> bool:
    """Return whether plain wsproto ends differently because it does not know the code 1014."""
    if end not in ((1014, True), (1007, False)):
        return False
    events = plain_wsproto(data, client=client).events()
    return any(isinstance(event, CloseConnection) and event.reason == UNKNOWN_CODE for event in events)


def reference(data: bytes, *, client: bool = False, deflate: PerMessageDeflate | None = None) -> Outcome:
    """Return the result of plain wsproto for the bytes in one piece."""
    connection = plain_wsproto(data, client=client, deflate=deflate)
    outcome = Outcome([], [], None)
    parts: list[str | bytes] = []
    for event in connection.events():
        if isinstance(event, (TextMessage, BytesMessage)):
            parts.append(event.data if isinstance(event, TextMessage) else bytes(event.data))
            if event.message_finished:
                empty: str | bytes = "" if isinstance(event, TextMessage) else b""
                outcome.messages.append(empty.join(parts))  # type: ignore[arg-type]
                parts = []
        elif isinstance(event, Ping):
            outcome.pongs.append(bytes(event.payload))
        elif isinstance(event, CloseConnection):
            by_peer = connection.state in (ConnectionState.REMOTE_CLOSING, ConnectionState.CLOSED)
            return Outcome(outcome.messages, outcome.pongs, (int(event.code), by_peer))
    return outcome


def read(ws: WebSocket, pieces: list[bytes]) -> Outcome:
    """Return the result of a WebSocket for the bytes in several pieces."""
    outcome = Outcome([], [], None)
    for piece in pieces:
        for event in ws.receive(piece):
            assert outcome.end is None, "there is an event after the end"
            if isinstance(event, Ended):
                pongs = [payload for first, payload in parse_frames(event.reply) if first == 0x8A]
                outcome = Outcome(outcome.messages, outcome.pongs + pongs, (event.code, event.by_peer))
            elif not isinstance(event, PongReceived):
                outcome.messages.append(event)
        outcome.pongs.extend(payload for _, payload in parse_frames(ws.take_pongs()))
    return outcome


def dribble(ws: WebSocket, data: bytes) -> list[Received]:
    """Return the events for bytes that arrive one by one."""
    return [event for at in range(len(data)) for event in ws.receive(data[at : at + 1])]


def messages(events: list[Received]) -> list[str | bytes]:
    """Return the messages among the events."""
    return [event for event in events if isinstance(event, (str, bytes))]


def memory_of(action: Callable[[], object]) -> tuple[int, int]:
    """Return the bytes that are still allocated after an action, and the most that it allocated."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        result = action()
        after, peak = tracemalloc.get_traced_memory()
        del result
    finally:
        tracemalloc.stop()
    return after - before, peak - before
