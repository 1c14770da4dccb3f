"""permessage-deflate: which parameters are agreed on, and how messages are compressed (RFC 7692).

Each direction has an LZ77 *window*, the stretch of earlier output a compressor may refer back to: 2 ** bits bytes.
Its owner compresses with at most the agreed window, and its reader must inflate with at least that. With *context
takeover* the window lives on from message to message, so that small similar messages compress well, and both sides
keep it for the connection's life; without, each message starts afresh and both can forget.

    parameter                    in an offer                              in the answer
    server_no_context_takeover   the server must forget                   the server forgets
    client_no_context_takeover   hint: the client will forget             the client must forget
    server_max_window_bits=N     the server must not use more             the server uses at most N
    client_max_window_bits[=N]   the client can be told; it uses at       the client must not use more;
                                 most N anyway                            only allowed if it was offered

Several offers are alternatives in the client's order of preference (section 5). Exactly one is taken and answered, and
whatever the others asked for leaves no trace. An offer with anything unknown, repeated or out of range in it is not an
error: it is declined and the next one is looked at (section 7.1). In an *answer* the same things are errors.

A message's payload is a deflate stream, flushed to a byte boundary, without the four bytes 00 00 ff ff that the flush
ends with (section 7.2.1); the reader puts them back. Compressed bytes say nothing of what they inflate to (a
thousandfold is easy), so inflating stops one byte above what is still allowed, and that one byte is the proof. A stream
may also *end* inside a message, by a block with BFINAL set (section 7.2.3.4); what follows it is a stream of its own.
A message that breaks off inside a block is found out by asking whether an empty last block would now end the stream.

zlib cannot compress with a window of 8 bits, but it can inflate one with 9.
"""

from __future__ import annotations

import threading
import zlib
from typing import NamedTuple

from pywsapp._protocol.extensions import Offer
from pywsapp.exceptions import HandshakeError, ProtocolError
from pywsapp.options import Compressor, Deflate

_NAME = "permessage-deflate"
_SERVER_FORGETS = "server_no_context_takeover"
_CLIENT_FORGETS = "client_no_context_takeover"
_SERVER_BITS = "server_max_window_bits"
_CLIENT_BITS = "client_max_window_bits"
_BITS = {str(bits): bits for bits in range(8, 16)}  # a table, because int() also takes "09", "1_0" and " 10"
_MIN_BITS = 9
_MAX_BITS = 15

_TAIL = b"\x00\x00\xff\xff"
_EMPTY = b"\x00"  # an empty stored block without the tail (RFC 7692 section 7.2.3.6)
_LAST_BLOCK = b"\x03\x00"
_MAX_STREAMS = 32  # of one message; a new one for each few bytes would cost more than it carries
_TOO_BIG = 1009
_INVALID = 1007
_SWITCHING_PROTOCOLS = 101


class _OfOneThread(threading.local):
    def __init__(self) -> None:
        self.compressors: dict[object, Compressor] = {}


_shared = _OfOneThread()


class DeflateParameters(NamedTuple):
    """What both sides agreed on; `max_window_bits` is what is compressed with, or inflated with."""

    server_no_context_takeover: bool
    client_no_context_takeover: bool
    server_max_window_bits: int
    client_max_window_bits: int


def negotiate(offers: list[Offer], config: Deflate) -> tuple[str, DeflateParameters] | None:
    """Choose one of a client's offers.

    Args:
        offers: all extensions that the client offered.
        config: upper bounds and wishes of the server.

    Returns:
        The extension to answer with and what it means; None if no offer can be accepted.
    """
    for name, parameters in offers:
        if name == _NAME and (asked := _read(parameters)) is not None:
            server_bits = asked.get(_SERVER_BITS, _MAX_BITS)
            if server_bits is not None and server_bits >= _MIN_BITS:
                return _answer(asked, min(server_bits, config.server_max_window_bits), config)
    return None


def offer(config: Deflate) -> str:
    """Write the offer of a client, as the value of Sec-WebSocket-Extensions."""
    parts = [_NAME]
    if config.server_no_context_takeover:
        parts.append(_SERVER_FORGETS)
    if config.client_no_context_takeover:
        parts.append(_CLIENT_FORGETS)
    if config.server_max_window_bits < _MAX_BITS:
        parts.append(f"{_SERVER_BITS}={config.server_max_window_bits}")
    limit = f"={config.client_max_window_bits}" if config.client_max_window_bits < _MAX_BITS else ""
    parts.append(_CLIENT_BITS + limit)
    return "; ".join(parts)


def accept_response(offers: list[Offer], config: Deflate) -> DeflateParameters | None:
    """Check a server's answer to `offer(config)`.

    Args:
        offers: all extensions in the answer.
        config: what the offer was made of.

    Returns:
        What is in force now; None if the server declined.

    Raises:
        HandshakeError: the answer goes beyond the offer, or is malformed (RFC 7692 section 7.1).
    """
    if not offers:
        return None
    if any(name != _NAME for name, _ in offers):
        raise _bad_answer("an extension that was not offered")
    if len(offers) > 1:
        raise _bad_answer(f"{_NAME} twice")
    answer = _read(offers[0][1])
    if answer is None:
        raise _bad_answer(f"unknown, repeated or malformed parameters of {_NAME}")
    if config.server_no_context_takeover and _SERVER_FORGETS not in answer:
        raise _bad_answer(f"{_NAME} without the {_SERVER_FORGETS} that was asked for")
    server_bits = answer.get(_SERVER_BITS, _MAX_BITS)
    if server_bits is None or server_bits > config.server_max_window_bits:
        raise _bad_answer(f"a larger {_SERVER_BITS} than was asked for")
    client_bits = answer.get(_CLIENT_BITS, config.client_max_window_bits)
    if client_bits is None or client_bits < _MIN_BITS:
        raise _bad_answer(f"a {_CLIENT_BITS} that this side cannot keep to")
    return DeflateParameters(
        server_no_context_takeover=_SERVER_FORGETS in answer,
        client_no_context_takeover=config.client_no_context_takeover or _CLIENT_FORGETS in answer,
        server_max_window_bits=max(server_bits, _MIN_BITS),
        # What was offered is a promise; what is answered permits, and may be wider (RFC 7692 section 7.1.2.2).
        client_max_window_bits=min(client_bits, config.client_max_window_bits),
    )


def compress_shared(payload: bytes, bits: int, config: Deflate) -> bytes:
    """Compress one message with no reference to others, so that it may go to many connections.

    One compressor for each format serves all messages of a thread. A full flush makes it forget what it has seen
    (zlib's manual: "so that decompression can restart from this point"), and costs less than a new one.

    Args:
        payload: the message.
        bits: the window; a connection whose agreed window is at least this can read the result.
        config: gives the level and the memory level.
    """
    if not payload:
        return _EMPTY
    key = (config.compressor, config.level, bits, config.mem_level)
    compressor = _shared.compressors.pop(key, None) or _new_compressor(bits, config)  # one that fails is not put back
    compressed = compressor.compress(payload) + compressor.flush(zlib.Z_FULL_FLUSH)
    _shared.compressors[key] = compressor
    return compressed[: -len(_TAIL)]


class PerMessageDeflate:
    """Compresses and inflates the messages of one connection; holds no memory in zlib before the first message.

    Args:
        parameters: what was negotiated.
        config: gives the level and the memory level.
        client: the role of this side.
    """

    __slots__ = (
        "_bits",
        "_compressor",
        "_config",
        "_forgets",
        "_inflate_bits",
        "_inflater",
        "_peer_forgets",
        "_streams",
    )

    def __init__(self, parameters: DeflateParameters, config: Deflate, *, client: bool) -> None:
        server = parameters.server_max_window_bits, parameters.server_no_context_takeover
        peer = parameters.client_max_window_bits, parameters.client_no_context_takeover
        own, other = (peer, server) if client else (server, peer)
        self._bits, self._forgets = own
        self._inflate_bits, self._peer_forgets = other
        self._config = config
        self._compressor: Compressor | None = None
        self._inflater: zlib._Decompress | None = None
        self._streams = 0

    def compress(self, payload: bytes) -> bytes:
        """Compress one whole message (RFC 7692 section 7.2.1)."""
        compressor = self._compressor
        if compressor is None:
            if self._forgets:
                return compress_shared(payload, self._bits, self._config)
            compressor = self._compressor = _new_compressor(self._bits, self._config)
        if not payload:
            return _EMPTY
        return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[: -len(_TAIL)]

    def forget(self) -> None:
        """Let the next message refer to no earlier one.

        To be called when a message that was compressed elsewhere has been sent: the peer's window holds it, and ours
        does not. References into a common past would miss; without any, the peer's window does not matter.
        """
        self._compressor = None

    def decompress(self, data: bytes, limit: int, final: bool) -> bytes:
        """Inflate one piece of a message (RFC 7692 section 7.2.2).

        Args:
            data: the piece, as it came.
            limit: bytes that this piece and the rest of the message may inflate to.
            final: this is the last piece; it may be empty.

        Raises:
            ProtocolError: 1007 for what is no deflate stream, 1009 for more than `limit` bytes. The connection's
                compression is then unusable.
        """
        if final:
            data = data + _TAIL
        try:
            inflater, inflated = self._inflate(data, limit, final)
            if final and not inflater.eof:
                # Without context takeover this may end the stream itself: nothing of it is needed any more.
                probe = inflater if self._peer_forgets else inflater.copy()
                if probe.decompress(_LAST_BLOCK) or not probe.eof:
                    raise ProtocolError(_INVALID, "a compressed message is cut short")
        except zlib.error:
            raise ProtocolError(_INVALID, "a compressed message is not a deflate stream") from None
        if not final:
            self._inflater = inflater
        else:
            self._streams = 0
            self._inflater = None if inflater.eof else inflater
        return inflated

    def _inflate(self, data: bytes, limit: int, final: bool) -> tuple[zlib._Decompress, bytes]:
        inflater = self._inflater or zlib.decompressobj(-self._inflate_bits)
        inflated = b""
        while data:
            if inflater.eof:
                # A message that stops right behind its stream lacks the byte that section 7.2.3.4 wants, but is clear.
                if final and data == _TAIL:
                    break
                self._streams += 1
                if self._streams == _MAX_STREAMS:
                    raise ProtocolError(_TOO_BIG, f"a compressed message has more than {_MAX_STREAMS} streams")
                inflater = zlib.decompressobj(-self._inflate_bits)
            # zlib takes 0 for no limit, which is one more reason to ask for one byte above it.
            inflated += inflater.decompress(data, max(limit, 0) + 1 - len(inflated))
            if len(inflated) > limit:
                raise ProtocolError(_TOO_BIG, "a message inflates to more than is allowed")
            data = inflater.unused_data
        return inflater, inflated


def _new_compressor(bits: int, config: Deflate) -> Compressor:
    if config.compressor is not None:
        return config.compressor(config.level, -bits, config.mem_level)
    return zlib.compressobj(config.level, zlib.DEFLATED, -bits, config.mem_level)


def _read(parameters: list[tuple[str, str | None]]) -> dict[str, int | None] | None:
    """Read parameters as offers and answers alike may have them; None if any is not in order."""
    read: dict[str, int | None] = {}
    for name, value in parameters:
        if name in read:
            return None
        if name in (_SERVER_FORGETS, _CLIENT_FORGETS):
            if value is not None:
                return None
            read[name] = None
        elif name in (_SERVER_BITS, _CLIENT_BITS):
            if value is not None and value not in _BITS:
                return None
            read[name] = None if value is None else _BITS[value]
        else:
            return None
    return read


def _answer(asked: dict[str, int | None], server_bits: int, config: Deflate) -> tuple[str, DeflateParameters]:
    server_forgets = config.server_no_context_takeover or _SERVER_FORGETS in asked
    client_forgets = config.client_no_context_takeover or _CLIENT_FORGETS in asked
    parts = [_NAME]
    if server_forgets:
        parts.append(_SERVER_FORGETS)
    if client_forgets:
        parts.append(_CLIENT_FORGETS)
    if _SERVER_BITS in asked:
        parts.append(f"{_SERVER_BITS}={server_bits}")
    client_bits = _MAX_BITS
    if _CLIENT_BITS in asked:
        offered = asked[_CLIENT_BITS] or _MAX_BITS
        if offered < _MIN_BITS:
            # The value is a promise that holds whatever is answered (RFC 7692 section 7.1.2.2), so nothing needs to be,
            # and 9 bits inflate what 8 compressed.
            client_bits = _MIN_BITS
        else:
            client_bits = min(offered, config.client_max_window_bits)
            parts.append(f"{_CLIENT_BITS}={client_bits}")
    return "; ".join(parts), DeflateParameters(server_forgets, client_forgets, server_bits, client_bits)


def _bad_answer(what: str) -> HandshakeError:
    return HandshakeError(f"the server answered with {what}", _SWITCHING_PROTOCOLS)
