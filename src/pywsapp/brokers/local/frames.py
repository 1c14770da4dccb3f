"""What is said on the local bus, as bytes; no I/O here.

Everything, in both directions, is a frame of one layout, little-endian:

    +---------+------+-------+-------+------+-----------------+-------+
    | 4 bytes |  1   |   1   |   2   |      | 4 bytes each:   |       |
    | behind  | kind |  of   |  of   | name | the sizes of    | items |
    | the head|      | name  | items |      | all but the last|       |
    +---------+------+-------+-------+------+-----------------+-------+

The name is a topic's, or empty. A batch of messages on one topic is one frame, its messages are the items. The sizes
stand in front, so that a frame is checked by one sum, whatever it holds, and can be passed on as it came; the last item
is what remains, so that a frame with one message is nothing but a head, the topic and the message.

    from a worker   BEGIN                     name: any; items: patterns. All that was subscribed before is forgotten
                    SUBSCRIBE, UNSUBSCRIBE    items: topics
                    MESSAGES                  name: topic; items: messages
                    KEEP                      name: topic; items: process, how to keep it, message
                    READ                      name: topic; items: position, empty for none
    to a worker     BEGUN                     name: that of BEGIN. All in front of it belongs to what was before
                    MESSAGES                  as it was published
                    KEPT                      name: topic; items: position, message
                    HISTORY                   items: offset and message, in turn; none or more for a READ, and then
                    HISTORY_END               items: position, b"1" if complete
                    TAKEN                     items: how many frames with ASK are done, 4 bytes
                    GAP                       items: how many messages were left out here, 8 bytes

Frames are worked off in their order. A worker sets the bit ASK in the kind of the last frame of what it wants to be
told of: then all in front of it is done as well. That bit stays in what is passed on, and means nothing there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from struct import Struct, pack, unpack_from

from pywsapp.brokers.base import MIB, Keep, Outgoing
from pywsapp.exceptions import PywsappError

BEGIN, SUBSCRIBE, UNSUBSCRIBE, MESSAGES, KEEP, READ = range(1, 7)
BEGUN, KEPT, HISTORY, HISTORY_END, TAKEN, GAP = range(16, 22)
ASK = 0x80

#: Bytes of one message.
MAX_MESSAGE = 16 * MIB
#: Bytes of a frame behind its head: the largest message, and what stands around it.
MAX_FRAME = MAX_MESSAGE + 64 * 1024
MAX_NAME = 255
MAX_ITEMS = 65535
#: A batch is divided into frames of about these many bytes, where each message counts for some more; lists by items.
_BATCH_BYTES = 256 * 1024
_ITEM_BYTES = 256
_BATCH_ITEMS = 1000

HEAD = Struct("<IBBH")
COUNT = Struct("<I")
LONG_COUNT = Struct("<Q")
_KEEP = Struct("<QIxxxxd")
_MAX_SECONDS = 1e12

#: kind with ASK, number of items, name; in the cutter's buffer: where the frame begins, where its sizes do, its end.
Cut = tuple[int, int, bytes, int, int, int]


class BusError(PywsappError):
    """What was said on the local bus, or was to be said, has no meaning there."""


class FrameCutter:
    """Cuts a stream of bytes into frames, each of which has the right layout.

    Attributes:
        buffer: where the frames that `cut` gives are, until it is called again.
    """

    __slots__ = ("_rest", "_wanted", "buffer")

    def __init__(self) -> None:
        self.buffer = b""
        self._rest = bytearray()
        self._wanted = 0

    def cut(self, data: bytes) -> Iterator[Cut]:
        """Give the frames that are complete with these bytes; to be used up before the next call.

        Raises:
            BusError: these are no frames; the ones in front were given.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return
            data = bytes(self._rest)
            self._rest = bytearray()
        self.buffer = data
        size, at, unpack_head = len(data), 0, HEAD.unpack_from
        self._wanted = HEAD.size
        while size - at >= HEAD.size:
            length, kind, named, count = unpack_head(data, at)
            if length > MAX_FRAME:
                raise BusError(f"a frame of {length} bytes is larger than {MAX_FRAME}")
            end = at + HEAD.size + length
            if end > size:
                self._wanted = HEAD.size + length
                break
            sizes = at + HEAD.size + named
            if sizes > end or (count != 1 and not _fits(data, sizes, count, end)):
                raise BusError(f"a frame of kind {kind} does not have the size of what is in it")
            yield kind, count, data[at + HEAD.size : sizes], at, sizes, end
            at = end
        if at < size:
            self._rest += memoryview(data)[at:]


def _fits(buffer: bytes, sizes: int, count: int, end: int) -> bool:
    if not count:
        return sizes == end
    items = sizes + COUNT.size * (count - 1)
    return items <= end and items + sum(unpack_from(f"<{count - 1}I", buffer, sizes)) <= end


def items_of(buffer: bytes, frame: Cut) -> list[bytes]:
    """Give the items of a frame that a `FrameCutter` gave."""
    _, count, _, _, sizes, end = frame
    if count < 2:
        return [buffer[sizes:end]] * count
    items = []
    at = sizes + COUNT.size * (count - 1)
    for size in unpack_from(f"<{count - 1}I", buffer, sizes):
        items.append(buffer[at : at + size])
        at += size
    items.append(buffer[at:end])
    return items


def encode(kind: int, name: bytes, items: Sequence[bytes]) -> bytes:
    """Write a frame.

    Raises:
        BusError: something in it is too large.
    """
    count, sizes = len(items), b""
    if count > 1:
        *most, _ = map(len, items)
        sizes = pack(f"<{count - 1}I", *most)
    length = len(name) + len(sizes) + sum(map(len, items))
    if length > MAX_FRAME or len(name) > MAX_NAME or count > MAX_ITEMS:
        raise BusError(f"{length} bytes in {count} items, and {len(name)} of a name, do not fit into a frame")
    head = HEAD.pack(length, kind, len(name), count)
    return b"".join((head, name, sizes, *items))


def encode_lists(kind: int, items: Sequence[bytes]) -> list[bytes]:
    """Write items without a name as frames of moderate size; the last one has ASK."""
    starts = range(0, len(items), _BATCH_ITEMS)
    return [
        encode(kind | (ASK if start == starts[-1] else 0), b"", items[start : start + _BATCH_ITEMS]) for start in starts
    ]


def encode_messages(messages: Sequence[Outgoing]) -> list[bytes]:
    """Write messages as frames, in their order on each topic; the last one has ASK."""
    frames: list[tuple[int, str, list[bytes]]] = []
    runs: dict[str, list[bytes]] = {}
    room: dict[str, int] = {}
    for topic, data, keep in messages:
        if keep is not None:
            frames.append((KEEP, topic, [keep.id[0].encode(), _encode_keep(keep), data]))
            room[topic] = 0
            continue
        left = room.get(topic, 0) - len(data) - _ITEM_BYTES
        if left < 0:
            # What is large begins a frame of its own, and ends it: it is not copied into one with others.
            left = _BATCH_BYTES - len(data)
            runs[topic] = []
            frames.append((MESSAGES, topic, runs[topic]))
        runs[topic].append(data)
        room[topic] = left
    if not frames:
        return []
    kind, name, items = frames.pop()
    encoded = [encode(kind, name.encode(), items) for kind, name, items in frames]
    return [*encoded, encode(kind | ASK, name.encode(), items)]


def _encode_keep(keep: Keep) -> bytes:
    return _KEEP.pack(keep.id[1], keep.size, keep.seconds)


def decode_keep(process: bytes, how: bytes) -> Keep:
    """Read how a message is to be kept.

    Raises:
        BusError: it does not say so.
    """
    if len(how) != _KEEP.size or len(process) > MAX_NAME:
        raise BusError("a message is to be kept, and it does not say how")
    number, size, seconds = _KEEP.unpack(how)
    if not 0 <= seconds <= _MAX_SECONDS:
        raise BusError(f"a message is to be kept for {seconds} seconds")
    return Keep((decode_text(process), number), size, seconds)


def decode_text(data: bytes) -> str:
    """Read a name.

    Raises:
        BusError: it is no UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BusError(f"{data[:MAX_NAME]!r} is no UTF-8") from None


def encode_history(messages: Iterable[tuple[int, bytes]]) -> list[bytes]:
    """Write what a history has kept, one frame for each message."""
    return [encode(HISTORY, b"", [LONG_COUNT.pack(offset), data]) for offset, data in messages]
