"""The frames of AMQP 0-9-1 that contain what other programs have published, made safe for a parser. No I/O here.

A frame has a head of seven bytes (type, channel, length), its content and one byte after it. A message is a method
frame with Basic.Deliver, a frame with its size and properties, and frames with its data (sections 2.3.5 and 2.3.5.2 of
the specification). The server passes properties and names on as their publisher has written them. No frame changes its
length here.
"""

from __future__ import annotations

import asyncio

_METHOD, _HEADER = 1, 2
#: The bytes of a frame before its content; the length is the last four.
_HEAD_SIZE = 7
_DELIVER = b"\0\x3c\0\x3c"  # class 60, method 60
#: In the content of a method frame: after the tag of the consumer, the number of the delivery and a flag.
_DELIVERY_SIZE = 8 + 1
#: In the content of a header frame: the class, the weight and the size of the body, and then the flags of properties.
_FLAGS_AT, _FLAGS_SIZE = 12, 2


class FrameStream:
    """A stream reader for the frame receiver of aiormq, which reads one byte, the rest of a head, and the content.

    Args:
        reader: the stream of the server.
    """

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._head = b""

    def at_eof(self) -> bool:
        """Return whether the stream has ended."""
        return self._reader.at_eof()

    async def read(self, size: int = -1) -> bytes:
        """Return bytes of the stream as they are; the receiver reads them after an invalid frame only."""
        return await self._reader.read(size)

    async def readexactly(self, size: int) -> bytes:
        """Return the next bytes: a part of a head, or the content of a frame with the byte after it."""
        data = await self._reader.readexactly(size)
        if len(self._head) < _HEAD_SIZE:
            self._head += data
            return data
        frame_type, self._head = self._head[0], b""
        return decodable_content(frame_type, data)


def decodable_content(frame_type: int, content: bytes) -> bytes:
    """Return the content of a frame, in which everything that a publisher has written can be decoded.

    Args:
        frame_type: the first byte of the frame.
        content: the bytes after its head.
    """
    if frame_type == _HEADER and len(content) >= _FLAGS_AT + _FLAGS_SIZE:
        return content[:_FLAGS_AT] + bytes(_FLAGS_SIZE) + content[_FLAGS_AT + _FLAGS_SIZE :]
    if frame_type == _METHOD and content.startswith(_DELIVER):
        return _with_text_names(content)
    return content


def _with_text_names(content: bytes) -> bytes:
    """Replace bytes in the exchange and the routing key of a delivery that are not UTF-8."""
    try:
        exchange = len(_DELIVER) + 1 + content[len(_DELIVER)] + _DELIVERY_SIZE
        key = exchange + 1 + content[exchange]
        end = key + 1 + content[key]
    except IndexError:
        return content  # for aiormq to refuse
    names = _as_text(content[exchange + 1 : key]), _as_text(content[key + 1 : end])
    return b"".join(
        (content[: exchange + 1], names[0], content[key : key + 1], names[1], content[end:]),
    )


def _as_text(name: bytes) -> bytes:
    """Return a name of the same length that is UTF-8; a name that is not has question marks."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return bytes(byte if byte < 0x80 else ord("?") for byte in name)
    return name
