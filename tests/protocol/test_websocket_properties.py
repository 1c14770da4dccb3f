"""The fast path and wsproto are indistinguishable, and our client and server roles understand each other."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from support.protocol_peer import (
    BINARY,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    close_frame,
    frame,
    misreads_1014,
    read,
    reference,
)
from wsproto.extensions import PerMessageDeflate as ReferenceDeflate

from pywsapp._protocol.deflate import DeflateParameters
from pywsapp._protocol.prepared import PreparedMessage
from pywsapp._protocol.websocket import WebSocket
from pywsapp.options import Deflate, Options

UNLIMITED = Options(control_frames_burst=1000, max_message_size=1 << 63, max_frame_size=1 << 63)
PARAMETERS = DeflateParameters(False, False, 15, 15)

payloads = st.one_of(
    st.binary(max_size=20),
    st.text(max_size=20).map(str.encode),
    st.sampled_from([b"", b"x" * 125, b"y" * 126, b"z" * 65535, b"w" * 65536, "höh✖".encode() * 300]),
)
masks = st.sampled_from([b"\x00\x00\x00\x00", b"\x01\x9a\x00\xff"])


@st.composite
def data_messages(draw: st.DrawFn, client: bool = False) -> bytes:
    """One message, whole or in fragments, with control frames between the fragments."""
    mask = None if client else draw(masks)
    payload = draw(payloads)
    opcode = draw(st.sampled_from([TEXT, BINARY]))
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
    parts = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
    data = b""
    for number, part in enumerate(parts):
        data += frame(CONTINUATION if number else opcode, part, fin=number == len(parts) - 1, mask=mask)
        if number < len(parts) - 1 and draw(st.booleans()):
            data += frame(draw(st.sampled_from([PING, PONG])), draw(st.binary(max_size=5)), mask=mask)
    return data


@st.composite
def control_frames(draw: st.DrawFn, client: bool = False) -> bytes:
    mask = None if client else draw(masks)
    kind = draw(st.sampled_from([PING, PING, PONG, 8]))
    if kind == 8:
        code = draw(st.sampled_from([None, 999, 1000, 1001, 1005, 1006, 1011, 1012, 1015, 2999, 3000, 4999, 5000]))
        return close_frame(code, draw(st.sampled_from([b"", b"bye", b"\xff"])) if code else b"", mask=mask)
    return frame(kind, draw(st.binary(max_size=125)), mask=mask)


@st.composite
def wrong_frames(draw: st.DrawFn) -> bytes:
    return draw(
        st.sampled_from(
            [
                frame(3, b"x"),
                frame(11),
                frame(TEXT, b"x", rsv=1),
                frame(TEXT, b"x", rsv=2),
                frame(BINARY, b"x", rsv=4),
                frame(TEXT, b"x", mask=None),
                frame(PING, b"x", fin=False),
                frame(PING, b"p" * 126),
                frame(CONTINUATION, b"x"),
                frame(CONTINUATION, b"x", fin=False),
                frame(TEXT, b"x", width=2),
                frame(TEXT, b"x" * 200, width=8),
                frame(BINARY, b"x", length=1 << 63, width=8),
                frame(TEXT, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited"),
                frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"),
                frame(8, b"x"),
                frame(8, b"\x03\xe8\xff"),
            ]
        )
    )


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Cut bytes into pieces anywhere, or into single bytes."""
    if len(data) < 300 and draw(st.booleans()):
        return [data[i : i + 1] for i in range(len(data))]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    return [piece for piece in pieces if piece]


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_same_as_wsproto_on_a_server(data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.one_of(data_messages(), control_frames(), wrong_frames()), max_size=6))
    stream = b"".join(parts)
    ws = WebSocket(client=False, options=UNLIMITED)
    assert read(ws, data.draw(cut(stream))) == reference(stream)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_same_as_wsproto_on_a_client(data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.one_of(data_messages(client=True), control_frames(client=True)), max_size=5))
    stream = b"".join(parts)
    ws = WebSocket(client=True, options=UNLIMITED)
    assert read(ws, data.draw(cut(stream))) == reference(stream, client=True)


@given(st.data(), st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_same_as_wsproto_on_garbage(data: st.DataObject, garbage: bytes) -> None:
    stream = b"".join(data.draw(st.lists(data_messages(), max_size=2))) + garbage
    ws = WebSocket(client=False, options=UNLIMITED)
    outcome = read(ws, data.draw(cut(stream)))
    assert misreads_1014(stream, outcome.end) or outcome == reference(stream)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_same_as_wsproto_after_flipping_a_byte(data: st.DataObject) -> None:
    stream = bytearray(
        b"".join(data.draw(st.lists(st.one_of(data_messages(), control_frames()), min_size=1, max_size=4)))
    )
    stream[data.draw(st.integers(0, min(len(stream), 400) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    ws = WebSocket(client=False, options=UNLIMITED)
    outcome = read(ws, data.draw(cut(bytes(stream))))
    assert misreads_1014(bytes(stream), outcome.end) or outcome == reference(bytes(stream))


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_same_as_wsproto_with_deflate(data: st.DataObject) -> None:
    theirs = ReferenceDeflate()
    theirs.finalize("permessage-deflate")
    sender = WebSocket(client=True, options=Options(deflate=Deflate(threshold=0)), deflate=PARAMETERS)
    stream = b""
    for _ in range(data.draw(st.integers(1, 4))):
        payload = data.draw(payloads)
        message: str | bytes = payload
        if data.draw(st.booleans()):
            message = payload.decode("latin-1")
        stream += sender.encode(message, compress=data.draw(st.booleans()))
    ws = WebSocket(client=False, options=Options(deflate=Deflate()), deflate=PARAMETERS)
    assert read(ws, data.draw(cut(stream))) == reference(stream, deflate=theirs)


@given(
    st.lists(st.tuples(st.one_of(st.text(max_size=50), st.binary(max_size=3000)), st.booleans()), max_size=6),
    st.booleans(),
    st.builds(DeflateParameters, st.booleans(), st.booleans(), st.integers(9, 15), st.integers(9, 15)) | st.none(),
    st.data(),
)
@settings(max_examples=200, deadline=None)
def test_a_client_and_a_server_understand_each_other(
    sent: list[tuple[str | bytes, bool]], client: bool, parameters: DeflateParameters | None, data: st.DataObject
) -> None:
    options = Options(deflate=Deflate(threshold=10))
    sender = WebSocket(client=client, options=options, deflate=parameters)
    receiver = WebSocket(client=not client, options=options, deflate=parameters)
    stream = b"".join(
        sender.encode(PreparedMessage(message) if prepared else message) for message, prepared in sent
    ) + sender.close(4000, "done")
    outcome = read(receiver, data.draw(cut(stream)))
    assert outcome.messages == [message for message, _ in sent]
    assert outcome.end == (4000, True)
