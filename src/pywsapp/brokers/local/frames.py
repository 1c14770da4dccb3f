"""The frames of the local bus; no I/O here.

Everything, in both directions, is a frame of one layout, little-endian:

    +---------+------+---------+---------+------+-----------------+-------+
    | 4 bytes |  1   |    1    |    2    |      | 4 bytes each:   |       |
    | length  | kind | length  | number  | name | the lengths of  | items |
    | of rest |      | of name | of items|      | all but the last|       |
    +---------+------+---------+---------+------+-----------------+-------+

The name is a topic's, or empty. A batch of messages on one topic is one frame, and its items are the messages. The
lengths precede the items, so that a frame is checked by one sum whatever it contains, and can be passed on as it came.
The last item is the remainder, so that a frame with one message consists of the head, the topic and the message only.

    from a worker   BEGIN                     name: any; items: patterns. Replaces all earlier subscriptions
                    SUBSCRIBE, UNSUBSCRIBE    items: topics
                    MESSAGES                  name: topic; items: plain messages
                    KEEP                      name: topic; items: process, how to keep it, message
                    READ                      name: topic; items: bytes of messages, 8 bytes; position, empty for none
    to a worker     BEGUN                     name: that of BEGIN. Earlier frames belong to the previous connection
                    MESSAGES                  as another worker published it
                    KEPT                      name: topic; items: position, message. From another worker
                    PLACED                    name: topic; items: position, process, number. A message of this worker
                    HISTORY                   items: offset, message; zero or more for a READ, and then
                    HISTORY_END               items: position, b"1" if complete
                    CONFIRMED                 items: the number of frames with CONFIRM that are done, 4 bytes
                    MISSED                    items: the number of messages that were left out here, 8 bytes

A worker gets no plain message back that it has published itself. For a message that it has published to be kept it
gets the position in PLACED, at the place where the other workers get KEPT; the message is still in its own memory.

Frames are processed in their order. A worker sets the bit CONFIRM in the kind of the last frame of a request: when this
frame is confirmed, all frames before it are done as well. The bit has no meaning in a frame that is passed on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from struct import Struct, pack, unpack_from

from pywsapp.brokers.base import MIB, Keep, Outgoing
from pywsapp.exceptions import PywsappError

BEGIN, SUBSCRIBE, UNSUBSCRIBE, MESSAGES, KEEP, READ = range(1, 7)
BEGUN, KEPT, PLACED, HISTORY, HISTORY_END, CONFIRMED, MISSED = range(16, 23)
CONFIRM = 0x80

#: Bytes of one message.
MAX_MESSAGE = 16 * MIB
#: Bytes of a frame behind its head: the largest message with what surrounds it.
MAX_FRAME = MAX_MESSAGE + 64 * 1024
MAX_NAME = 255
MAX_ITEMS = 65535
#: A batch is divided into frames of about this many bytes, where each message counts for some more; lists by items.
_BATCH_BYTES = 256 * 1024
_ITEM_BYTES = 256
_BATCH_ITEMS = 1000

HEAD = Struct("<IBBH")
COUNT = Struct("<I")
LONG_COUNT = Struct("<Q")
MAX_LONG_COUNT = 2**64 - 1
_KEEP = Struct("<QIId")
_MAX_BYTES = 2**32 - 1
_MAX_SECONDS = 1e12

#: kind with CONFIRM, number of items, name; in the reader's buffer: start of the frame, start of its lengths, its end.
Frame = tuple[int, int, bytes, int, int, int]


class BusError(PywsappError):
    """A frame of the local bus is invalid, or cannot be encoded."""


class FrameReader:
    """Splits a stream of bytes into frames and checks their layout.

    Attributes:
        buffer: the bytes of the frames from `read`, until it is called again.
    """

    __slots__ = ("_needed", "_rest", "buffer")

    def __init__(self) -> None:
        self.buffer = b""
        self._rest = bytearray()
        self._needed = 0  # bytes until the next frame, or its head, is complete

    def read(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that these bytes complete; use up the iterator before the next call.

        Raises:
            BusError: the bytes are not frames; the frames before them were yielded.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return
            data = bytes(self._rest)
            self._rest = bytearray()
        self.buffer = data
        size, at, unpack_head = len(data), 0, HEAD.unpack_from
        self._needed = HEAD.size
        while size - at >= HEAD.size:
            length, kind, name_length, count = unpack_head(data, at)
            if length > MAX_FRAME:
                raise BusError(f"a frame of {length} bytes is larger than {MAX_FRAME}")
            end = at + HEAD.size + length
            if end > size:
                self._needed = HEAD.size + length
                break
            lengths = at + HEAD.size + name_length
            if lengths > end or (count != 1 and not _fits(data, lengths, count, end)):
                raise BusError(f"a frame of kind {kind} does not have the length of its content")
            yield kind, count, data[at + HEAD.size : lengths], at, lengths, end
            at = end
        if at < size:
            self._rest += memoryview(data)[at:]


def _fits(buffer: bytes, lengths: int, count: int, end: int) -> bool:
    if not count:
        return lengths == end
    items = lengths + COUNT.size * (count - 1)
    return items <= end and items + sum(unpack_from(f"<{count - 1}I", buffer, lengths)) <= end


def items_of(buffer: bytes, frame: Frame) -> list[bytes]:
    """Return the items of a frame that a `FrameReader` yielded."""
    _, count, _, _, lengths, end = frame
    if count < 2:
        return [buffer[lengths:end]] * count
    items = []
    at = lengths + COUNT.size * (count - 1)
    for length in unpack_from(f"<{count - 1}I", buffer, lengths):
        items.append(buffer[at : at + length])
        at += length
    items.append(buffer[at:end])
    return items


def encode(kind: int, name: bytes, items: Sequence[bytes]) -> bytes:
    """Encode a frame.

    Raises:
        BusError: something in it is too large.
    """
    count, lengths = len(items), b""
    if count > 1:
        *most, _ = map(len, items)
        lengths = pack(f"<{count - 1}I", *most)
    length = len(name) + len(lengths) + sum(map(len, items))
    if length > MAX_FRAME or len(name) > MAX_NAME or count > MAX_ITEMS:
        raise BusError(f"{length} bytes in {count} items, and {len(name)} of a name, do not fit into a frame")
    head = HEAD.pack(length, kind, len(name), count)
    return b"".join((head, name, lengths, *items))


def encode_lists(kind: int, items: Sequence[bytes]) -> list[bytes]:
    """Encode items without a name as frames of moderate size; the last one has CONFIRM."""
    starts = range(0, len(items), _BATCH_ITEMS)
    return [
        encode(kind | (CONFIRM if start == starts[-1] else 0), b"", items[start : start + _BATCH_ITEMS])
        for start in starts
    ]


def encode_messages(messages: Sequence[Outgoing]) -> list[bytes]:
    """Encode messages as frames, in their order on each topic; the last one has CONFIRM."""
    frames: list[tuple[int, str, list[bytes]]] = []
    batches: dict[str, list[bytes]] = {}
    free: dict[str, int] = {}
    for topic, data, keep in messages:
        if keep is not None:
            frames.append((KEEP, topic, [keep.id[0].encode(), _encode_keep(keep), data]))
            free[topic] = 0
            continue
        left = free.get(topic, 0) - len(data) - _ITEM_BYTES
        if left < 0:
            # A large message begins and ends a frame of its own, so that it is not copied into one with others.
            left = _BATCH_BYTES - len(data)
            batches[topic] = []
            frames.append((MESSAGES, topic, batches[topic]))
        batches[topic].append(data)
        free[topic] = left
    if not frames:
        return []
    kind, name, items = frames.pop()
    encoded = [encode(kind, name.encode(), items) for kind, name, items in frames]
    return [*encoded, encode(kind | CONFIRM, name.encode(), items)]


def _encode_keep(keep: Keep) -> bytes:
    return _KEEP.pack(keep.id[1], keep.size, min(keep.max_bytes, _MAX_BYTES), keep.seconds)


def decode_keep(process: bytes, how: bytes) -> Keep:
    """Decode the request to keep a message.

    Raises:
        BusError: it is invalid.
    """
    if len(how) != _KEEP.size or len(process) > MAX_NAME:
        raise BusError("a message is to be kept, but it is not said how")
    number, size, max_bytes, seconds = _KEEP.unpack(how)
    if not 0 <= seconds <= _MAX_SECONDS:
        raise BusError(f"a message cannot be kept for {seconds} seconds")
    return Keep((decode_text(process), number), size, seconds, max_bytes)


def decode_text(data: bytes) -> str:
    """Decode a name.

    Raises:
        BusError: it is not UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BusError(f"{data[:MAX_NAME]!r} is not UTF-8") from None


def encode_history(messages: Iterable[tuple[int, bytes]]) -> list[bytes]:
    """Encode kept messages with their offsets, one frame for each."""
    return [encode(HISTORY, b"", [LONG_COUNT.pack(offset), data]) for offset, data in messages]
