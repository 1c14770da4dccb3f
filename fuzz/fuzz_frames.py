"""The same bytes have the same messages, pongs and end wherever they are cut, and those of wsproto where it is right.

`receive` raises nothing, no message is larger than allowed, and the reply at the end is a frame that a peer can read.
One difference from wsproto is intended: the text in a frame of 2 ** 62 bytes or more is not checked, as it never ends.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from harness import fuzz, instrumented, pieces

with instrumented():
    from support.protocol_peer import MASK, close_frame, deflated, frame, misreads_1014, parse_frames, reference

    from pywsapp._protocol.deflate import DeflateParameters
    from pywsapp._protocol.events import Ended, PongReceived, State
    from pywsapp._protocol.websocket import MAX_PENDING_PONGS, WebSocket
    from pywsapp.options import Deflate, Options

LIMIT = 500
OPTIONS = Options(max_message_size=LIMIT, max_frame_size=LIMIT + 50, max_fragments=6, deflate=Deflate())
UNLIMITED = Options(max_message_size=1 << 63, control_frames_burst=1 << 30)
WINDOWS = (
    None,
    DeflateParameters(False, False, 15, 15),
    DeflateParameters(True, True, 15, 15),
    DeflateParameters(False, True, 9, 9),
)


class Result(NamedTuple):
    """The result of some bytes: what was received, and what was answered."""

    messages: list[str | bytes]
    pongs: list[bytes]
    answers: list[bytes]
    end: tuple[int, str, bool] | None


def run(ws: WebSocket, parts: list[bytes], close_after: int, inflate: int) -> Result:
    result = Result([], [], [], None)
    for number, part in enumerate(parts):
        if number == close_after:
            ws.close(1000, "")
        events = ws.receive(part, inflate)
        while ws.has_more:
            events += ws.receive(b"", inflate)
        for event in events:
            assert result.end is None, "nothing follows the end"
            if isinstance(event, Ended):
                sent = parse_frames(event.reply)
                assert not sent or sent[-1][0] == 0x88
                result = result._replace(end=(event.code, event.reason, event.by_peer))
                result.answers.extend(payload for first, payload in sent if first == 0x8A)
            elif isinstance(event, PongReceived):
                result.pongs.append(event.payload)
            else:
                assert ws.state is not State.CLOSING
                result.messages.append(event)
        result.answers.extend(payload for _, payload in parse_frames(ws.take_pongs()))
    assert (result.end is not None) == (ws.state is State.CLOSED)
    return result


def one_input(data: bytes) -> None:
    """Run one input: two bytes of choices, three of cuts, and a stream."""
    if len(data) < 6:
        return
    choice, cuts, stream = data[0], data[2:5], data[5:]
    client, deflate = bool(choice & 1), WINDOWS[choice >> 1 & 3]
    unlimited = bool(choice & 8)
    inflate = 100 if choice & 16 else 1 << 40
    options = Options(max_message_size=1 << 30, deflate=Deflate()) if unlimited else OPTIONS
    if unlimited and deflate is None:
        options = UNLIMITED

    def new_websocket() -> WebSocket:
        return WebSocket(client=client, options=options, deflate=deflate)

    close_after = data[1] if data[1] < 8 else -1
    if close_after > 0:
        run(new_websocket(), list(pieces(stream, cuts)), close_after, inflate)
        return
    if deflate is not None and unlimited:
        stream = stream[:2000]  # enough, and short enough for decompression bombs
    whole = run(new_websocket(), [stream], close_after, 1 << 40)
    cut = run(new_websocket(), list(pieces(stream, cuts)), close_after, inflate)
    compare(whole, cut, strict=deflate is None)
    if not unlimited:
        for message in whole.messages:
            assert len(message.encode() if isinstance(message, str) else message) <= LIMIT
    elif deflate is None and close_after != 0:
        compare_with_wsproto(whole, stream, client)


def compare(whole: Result, cut: Result, *, strict: bool) -> None:
    assert whole.messages == cut.messages
    assert whole.pongs == cut.pongs
    if len(cut.answers) < MAX_PENDING_PONGS:
        assert whole.answers == cut.answers
    if strict or whole.end is None or cut.end is None:
        assert whole.end == cut.end
    else:  # the cuts decide which of two faults in a compressed message is found first
        assert whole.end[0] == cut.end[0] or {whole.end[0], cut.end[0]} == {1007, 1009}


def compare_with_wsproto(result: Result, stream: bytes, client: bool) -> None:
    end = result.end and (result.end[0], result.end[2])
    if misreads_1014(stream, end, client=client):
        return
    expected = reference(stream, client=client)
    assert result.messages == expected.messages
    assert end == expected.end or (expected.end == (1007, False) and has_endless_frame(stream))
    if len(expected.pongs) < MAX_PENDING_PONGS:
        assert result.answers == expected.pongs


def has_endless_frame(stream: bytes) -> bool:
    """Return whether a frame announces 2 ** 62 bytes or more."""
    at = 0
    while at + 10 <= len(stream):
        size, start = stream[at + 1] & 0x7F, at + 2
        if size >= 126:
            start += 2 if size == 126 else 8
            size = int.from_bytes(stream[at + 2 : start], "big")
        if size >= 1 << 62:
            return True
        at = start + (stream[at + 1] >> 7) * 4 + size
    return False


def seeds() -> list[bytes]:
    found = []
    for choice in range(32):
        masked: dict[str, Any] = {"mask": None if choice & 1 else MASK}
        rsv = 4 if choice >> 1 & 3 else 0
        text = deflated(b"hello hello \xc3\xa9") if rsv else b"hello hello \xc3\xa9"
        bomb = deflated(bytes(5000))
        ended = zlib.compressobj(wbits=-9)
        streams = [
            frame(1, text, rsv=rsv, **masked) + frame(2, b"\x00" * 200, **masked) + close_frame(1000, b"bye", **masked),
            frame(1, text[:4], rsv=rsv, fin=False, **masked) + frame(9, b"p", **masked) + frame(0, text[4:], **masked),
            frame(2, bomb, rsv=rsv, **masked) + frame(10, b"q", **masked),
            frame(2, ended.compress(b"ended") + ended.flush() + b"\x00", rsv=rsv, **masked) + frame(8, **masked),
            frame(1, b"\xff", **masked) + frame(3, **masked),
            frame(1, b"x" * 400, fin=False, **masked) + frame(0, b"y" * 400, **masked),
            close_frame(1014, **masked),
            close_frame(1014, b"\xff", **masked),
            frame(2, b"x", length=1 << 62, **masked),
            frame(1, b"x", fin=False, **masked) + frame(0, b"\xff", length=1 << 62, **masked),
        ]
        found += [bytes((choice, 255, 1, 0, 0)) + stream for stream in streams]
    return found


if __name__ == "__main__":
    fuzz(one_input, seeds())
