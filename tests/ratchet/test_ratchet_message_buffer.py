"""rfc6455's MessageBuffer, Message and Frame: from bytes to messages, and their limits.

There is no Message object here: a message is a str or bytes, and exists only when it is complete. The limit is a fixed
size (1 MiB), not a part of PHP's memory_limit. These tests prove some of the cases:

    MessageBuffer 16  tests/protocol/test_websocket.py  test_a_thousand_frames_in_one_piece
    MessageBuffer 18  tests/protocol/test_websocket_close.py  test_protocol_errors
    MessageBuffer 19  tests/protocol/test_websocket_limits.py  test_frame_size
    MessageBuffer 20  tests/protocol/test_websocket_limits.py  test_message_size
    MessageBuffer 21  tests/protocol/test_websocket_limits.py  test_too_large_a_frame_is_refused_before_its_payload
    Frame 28  tests/protocol/test_websocket.py  test_a_piece_can_end_anywhere
    Frame 29  tests/protocol/test_websocket_close.py  test_protocol_errors
    Frame 30  tests/protocol/test_websocket.py  test_every_width_of_a_length
    Frame 31  tests/protocol/test_frames.py  test_masking
    Frame 32  tests/protocol/test_frames.py  test_every_frame_has_a_new_masking_key
    Frame 33  tests/protocol/test_websocket.py  test_a_piece_can_end_anywhere
    Frame 34  tests/protocol/test_frames.py  test_lengths_have_their_shortest_form
"""

from __future__ import annotations

import struct
from typing import Any

import anyio
import pytest
from support.ratchet_peer import Recorder, opened, serving
from wsproto.events import Pong

from pywsapp import App, ConfigurationError, Connection, Options
from pywsapp._protocol.events import Ended
from pywsapp._protocol.frames import encode_masked_frame
from pywsapp._protocol.websocket import WebSocket

CONTINUATION, TEXT, BINARY, FIN = 0, 1, 2, 0x80


def server(**limits: Any) -> WebSocket:
    return WebSocket(client=False, options=Options(**limits))


@pytest.mark.anyio
async def test_message_buffer_17_a_message_during_a_busy_handler() -> None:
    """MessageBuffer 17: a message that arrives while a handler is busy is delivered; here, after it."""
    go_on = anyio.Event()

    class Busy(Recorder):
        async def on_message(self, conn: Connection, message: Any) -> None:
            self.record("on_message", conn, message)
            await go_on.wait()
            self.record("done", message)

    recorder = Busy()
    app = App(port=0)
    app.route("/", recorder)
    async with serving(app), opened(app) as peer:
        await peer.send("one")
        await recorder.until_called("on_message")
        await peer.send("two")
        await peer.ping(b"")
        assert isinstance(await peer.receive(), Pong)  # now "two" has arrived too
        assert recorder.names == ["on_open", "on_message"]
        go_on.set()
        await recorder.until_called("done", 2)
    assert [call[-1] for call in recorder.calls[1:5]] == ["one", "one", "two", "two"]


@pytest.mark.parametrize("limit", [1024, 1 << 64])
def test_message_buffer_23_a_length_with_its_top_bit_set(limit: int) -> None:
    """MessageBuffer 23: such a length closes the connection with 1002, whatever the limits.

    Ratchet refuses a limit above 2^63-1, the largest integer of PHP; here it is valid.
    """
    ws = server(max_frame_size=limit, max_message_size=limit)
    [ended] = ws.receive(bytes((FIN | BINARY, 0xFF)) + struct.pack("!Q", 1 << 63))
    assert isinstance(ended, Ended)
    assert ended.code == 1002


def test_message_buffer_22_the_limits_by_default() -> None:
    """MessageBuffer 22: the default is a quarter of memory_limit in Ratchet, with 0 for no limit; here it is 1 MiB."""
    assert Options().max_message_size == 1024 * 1024
    with pytest.raises(ConfigurationError, match="greater than 0"):
        Options(max_message_size=0)


@pytest.mark.parametrize("count", [1, 5])
def test_message_24_and_26_there_is_no_message_before_it_is_complete(count: int) -> None:
    """Message 24, Message 26: in Ratchet an unfinished message throws when it is read; here it does not exist yet."""
    ws = server()
    assert ws.receive(encode_masked_frame(TEXT, b"part")) == []
    for _ in range(count):
        assert ws.receive(encode_masked_frame(CONTINUATION, b"part")) == []
    assert ws.receive(encode_masked_frame(FIN | CONTINUATION, b"")) == ["part" * (count + 1)]


def test_message_25_the_payload_is_that_of_all_fragments() -> None:
    """Message 25: the payload is the concatenation of all fragments; control frames in between are not part of it."""
    ws = server()
    parts = [(TEXT, "één"), (FIN | 0x9, "ping"), (CONTINUATION, ""), (FIN | CONTINUATION, " zwei ✓")]
    data = b"".join(encode_masked_frame(first, payload.encode()) for first, payload in parts)
    assert ws.receive(data) == ["één zwei ✓"]


@pytest.mark.parametrize(("opcode", "expected"), [(TEXT, "onetwo"), (BINARY, b"onetwo")])
def test_message_27_the_opcode_is_that_of_the_first_frame(opcode: int, expected: str | bytes) -> None:
    """Message 27: the opcode of the first frame makes the message text or binary."""
    data = encode_masked_frame(opcode, b"one") + encode_masked_frame(FIN | CONTINUATION, b"two")
    [message] = server().receive(data)
    assert message == expected
    assert type(message) is type(expected)
