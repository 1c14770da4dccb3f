"""permessage-deflate: the negotiation of its parameters, and the compression of messages (RFC 7692).

Each direction has an LZ77 *window*: the last 2 ** bits bytes of output, to which a compressor can refer back. The
sender compresses with at most the agreed window, and the receiver must inflate with at least that window. With *context
takeover* the window continues from message to message. Small similar messages then compress well, and both sides keep
the window as long as the connection lives. Without it, each message starts with an empty window, and both sides can
release theirs.

    parameter                    in an offer                              in the response
    server_no_context_takeover   the server must use no takeover          the server uses no takeover
    client_no_context_takeover   hint: the client will use no takeover    the client must use no takeover
    server_max_window_bits=N     the server must not use more             the server uses at most N
    client_max_window_bits[=N]   the client accepts a limit, and uses     the client must not use more; only
                                 at most N in any case                    allowed if the client offered it

Several offers are alternatives in the client's order of preference (section 5). The server accepts exactly one of them,
and the others have no effect. An offer with an unknown, repeated or invalid parameter is not an error: the server
declines it, and considers the next one (section 7.1). In a *response*, the same faults are errors.

The payload of a message is a deflate stream, flushed to a byte boundary, without the four bytes 00 00 ff ff at the end
of the flush (section 7.2.1); the receiver appends them again. Compressed bytes do not show their inflated size (a
factor of a thousand is easy), so inflating stops one byte above the limit, and that one byte proves the violation. A
stream can also *end* inside a message, with a block that has BFINAL set (section 7.2.3.4); the bytes after it are a new
stream. To detect a message that breaks off inside a block, the inflater gets an empty last block, which must end the
stream.

zlib cannot compress with a window of 8 bits, but it can inflate such a stream with 9.
"""

from __future__ import annotations

import threading
import zlib
from typing import NamedTuple

from pywsapp._protocol.extensions import Offer
from pywsapp.close_codes import CloseCode
from pywsapp.exceptions import HandshakeError, ProtocolError
from pywsapp.options import Compressor, Deflate

_NAME = "permessage-deflate"
_SERVER_NO_TAKEOVER = "server_no_context_takeover"
_CLIENT_NO_TAKEOVER = "client_no_context_takeover"
_SERVER_BITS = "server_max_window_bits"
_CLIENT_BITS = "client_max_window_bits"
_BITS = {str(bits): bits for bits in range(8, 16)}  # a table, because int() also takes "09", "1_0" and " 10"
_MIN_BITS = 9
_MAX_BITS = 15

_TAIL = b"\x00\x00\xff\xff"
_EMPTY = b"\x00"  # an empty stored block without the tail (RFC 7692 section 7.2.3.6)
_LAST_BLOCK = b"\x03\x00"
_MAX_STREAMS = 32  # of one message; without a bound, a new stream every few bytes costs much CPU time
_SWITCHING_PROTOCOLS = 101
#: From this size in bytes on, compressing in vain blocks the event loop for longer than a sample of the message takes.
_SAMPLED = 16 * 1024
_SAMPLE_SIZE = 1024
#: Different bytes in a sample of random bytes are 251 on average, and in one of text less than 128.
_RANDOM = 224


class _SharedCompressors(threading.local):
    """The compressors of one thread, by format."""

    def __init__(self) -> None:
        self.compressors: dict[object, Compressor] = {}


_shared = _SharedCompressors()


def is_worth_compressing(payload: bytes) -> bool:
    """Return whether a large message can become smaller; bytes that look random are compressed or encrypted already."""
    if len(payload) < _SAMPLED:
        return True
    start = len(payload) // 2  # files of images begin with text
    return len(set(payload[start : start + _SAMPLE_SIZE])) < _RANDOM


class DeflateParameters(NamedTuple):
    """The parameters on which both sides agreed, for compressing and for inflating."""

    server_no_context_takeover: bool
    client_no_context_takeover: bool
    server_max_window_bits: int
    client_max_window_bits: int


def negotiate(offers: list[Offer], config: Deflate) -> tuple[str, DeflateParameters] | None:
    """Choose one of the offers of a client.

    Args:
        offers: all extensions that the client offered.
        config: the upper bounds and preferences of the server.

    Returns:
        the extension for the response and the agreed parameters, or None if no offer is acceptable.
    """
    for name, parameters in offers:
        if name == _NAME and (asked := _parse_parameters(parameters)) is not None:
            server_bits = asked.get(_SERVER_BITS, _MAX_BITS)
            if server_bits is not None and server_bits >= _MIN_BITS:
                return _accept(asked, min(server_bits, config.server_max_window_bits), config)
    return None


def offer(config: Deflate) -> str:
    """Return the offer of a client, as the value of Sec-WebSocket-Extensions."""
    parts = [_NAME]
    if config.server_no_context_takeover:
        parts.append(_SERVER_NO_TAKEOVER)
    if config.client_no_context_takeover:
        parts.append(_CLIENT_NO_TAKEOVER)
    if config.server_max_window_bits < _MAX_BITS:
        parts.append(f"{_SERVER_BITS}={config.server_max_window_bits}")
    limit = f"={config.client_max_window_bits}" if config.client_max_window_bits < _MAX_BITS else ""
    parts.append(_CLIENT_BITS + limit)
    return "; ".join(parts)


def accept_response(offers: list[Offer], config: Deflate) -> DeflateParameters | None:
    """Check the response of a server to `offer(config)`.

    Args:
        offers: all extensions in the response.
        config: the configuration that made the offer.

    Returns:
        the agreed parameters, or None if the server declined.

    Raises:
        HandshakeError: the response exceeds the offer, or is malformed (RFC 7692 section 7.1).
    """
    if not offers:
        return None
    if any(name != _NAME for name, _ in offers):
        raise _bad_response("an extension that was not offered")
    if len(offers) > 1:
        raise _bad_response(f"{_NAME} twice")
    response = _parse_parameters(offers[0][1])
    if response is None:
        raise _bad_response(f"unknown, repeated or malformed parameters of {_NAME}")
    if config.server_no_context_takeover and _SERVER_NO_TAKEOVER not in response:
        raise _bad_response(f"{_NAME} without the {_SERVER_NO_TAKEOVER} that the offer demands")
    server_bits = response.get(_SERVER_BITS, _MAX_BITS)
    if server_bits is None or server_bits > config.server_max_window_bits:
        raise _bad_response(f"a larger {_SERVER_BITS} than the offer allows")
    client_bits = response.get(_CLIENT_BITS, config.client_max_window_bits)
    if client_bits is None or client_bits < _MIN_BITS:
        raise _bad_response(f"a {_CLIENT_BITS} that this client does not support")
    return DeflateParameters(
        server_no_context_takeover=_SERVER_NO_TAKEOVER in response,
        client_no_context_takeover=config.client_no_context_takeover or _CLIENT_NO_TAKEOVER in response,
        server_max_window_bits=max(server_bits, _MIN_BITS),
        # The offer is a promise. The response is a permission, and can be wider (RFC 7692 section 7.1.2.2).
        client_max_window_bits=min(client_bits, config.client_max_window_bits),
    )


def compress_shared(payload: bytes, bits: int, config: Deflate) -> bytes:
    """Compress one message without references to others, so that many connections can read it.

    One compressor for each format serves all messages of a thread. A full flush resets its window (zlib's manual: "so
    that decompression can restart from this point"), and costs less than a new compressor.

    Args:
        payload: the message.
        bits: the size of the window; a connection whose agreed window is at least as large can read the result.
        config: the level, the memory level and the compressor.
    """
    if not payload:
        return _EMPTY
    key = (config.compressor, config.level, bits, config.mem_level)
    # Removed until the message is compressed: a compressor that fails is not used again.
    compressor = _shared.compressors.pop(key, None) or _new_compressor(bits, config)
    compressed = compressor.compress(payload) + compressor.flush(zlib.Z_FULL_FLUSH)
    _shared.compressors[key] = compressor
    return compressed[: -len(_TAIL)]


class PerMessageDeflate:
    """The compressor and the inflater of one connection; zlib allocates no memory before the first message.

    Args:
        parameters: the agreed parameters.
        config: the level, the memory level and the compressor.
        client: True for the client role.
    """

    __slots__ = (
        "_bits",
        "_compressor",
        "_config",
        "_inflate_bits",
        "_inflater",
        "_no_inflate_takeover",
        "_no_takeover",
        "_streams",
    )

    def __init__(self, parameters: DeflateParameters, config: Deflate, *, client: bool) -> None:
        server = parameters.server_max_window_bits, parameters.server_no_context_takeover
        peer = parameters.client_max_window_bits, parameters.client_no_context_takeover
        own, other = (peer, server) if client else (server, peer)
        self._bits, self._no_takeover = own
        self._inflate_bits, self._no_inflate_takeover = other
        self._config = config
        self._compressor: Compressor | None = None
        self._inflater: zlib._Decompress | None = None
        self._streams = 0

    def compress(self, payload: bytes) -> bytes:
        """Compress one whole message (RFC 7692 section 7.2.1)."""
        compressor = self._compressor
        if compressor is None:
            if self._no_takeover:
                return compress_shared(payload, self._bits, self._config)
            compressor = self._compressor = _new_compressor(self._bits, self._config)
        if not payload:
            return _EMPTY
        return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[: -len(_TAIL)]

    def reset(self) -> None:
        """Start the next message with an empty window.

        Call it when a message that was compressed elsewhere is sent: the peer's window contains that message, and ours
        does not, so that references to earlier output would point to the wrong place.
        """
        self._compressor = None

    def decompress(self, data: bytes, limit: int, final: bool) -> bytes:
        """Inflate one piece of a message (RFC 7692 section 7.2.2).

        Args:
            data: the compressed piece.
            limit: bytes to which this piece and the rest of the message may inflate.
            final: True for the last piece, which can be empty.

        Raises:
            ProtocolError: 1007 for an invalid deflate stream, 1009 for more than `limit` bytes. The compression of the
                connection is unusable afterwards.
        """
        if final:
            data = data + _TAIL
        try:
            inflater, inflated = self._inflate(data, limit, final)
            if final and not inflater.eof:
                # The probe ends the stream, so it is a copy, except where the next message needs a new inflater anyway.
                probe = inflater if self._no_inflate_takeover else inflater.copy()
                if probe.decompress(_LAST_BLOCK) or not probe.eof:
                    raise ProtocolError(CloseCode.INVALID_PAYLOAD, "a compressed message is cut short")
        except zlib.error:
            raise ProtocolError(CloseCode.INVALID_PAYLOAD, "a compressed message is not a deflate stream") from None
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
                # A message that stops right after its stream lacks the byte that section 7.2.3.4 demands, but is clear.
                if final and data == _TAIL:
                    break
                self._streams += 1
                if self._streams == _MAX_STREAMS:
                    raise ProtocolError(
                        CloseCode.MESSAGE_TOO_BIG, f"a compressed message has more than {_MAX_STREAMS} streams"
                    )
                inflater = zlib.decompressobj(-self._inflate_bits)
            # zlib understands 0 as no limit, which is one more reason for the byte above it.
            inflated += inflater.decompress(data, max(limit, 0) + 1 - len(inflated))
            if len(inflated) > limit:
                raise ProtocolError(CloseCode.MESSAGE_TOO_BIG, "a message inflates to more than is allowed")
            data = inflater.unused_data
        return inflater, inflated


def _new_compressor(bits: int, config: Deflate) -> Compressor:
    if config.compressor is not None:
        return config.compressor(config.level, -bits, config.mem_level)
    return zlib.compressobj(config.level, zlib.DEFLATED, -bits, config.mem_level)


def _parse_parameters(parameters: list[tuple[str, str | None]]) -> dict[str, int | None] | None:
    """Parse the parameters of an offer or a response; return None if any of them is invalid."""
    parsed: dict[str, int | None] = {}
    for name, value in parameters:
        if name in parsed:
            return None
        if name in (_SERVER_NO_TAKEOVER, _CLIENT_NO_TAKEOVER):
            if value is not None:
                return None
            parsed[name] = None
        elif name in (_SERVER_BITS, _CLIENT_BITS):
            if value is not None and value not in _BITS:
                return None
            parsed[name] = None if value is None else _BITS[value]
        else:
            return None
    return parsed


def _accept(asked: dict[str, int | None], server_bits: int, config: Deflate) -> tuple[str, DeflateParameters]:
    server_no_takeover = config.server_no_context_takeover or _SERVER_NO_TAKEOVER in asked
    client_no_takeover = config.client_no_context_takeover or _CLIENT_NO_TAKEOVER in asked
    parts = [_NAME]
    if server_no_takeover:
        parts.append(_SERVER_NO_TAKEOVER)
    if client_no_takeover:
        parts.append(_CLIENT_NO_TAKEOVER)
    if _SERVER_BITS in asked:
        parts.append(f"{_SERVER_BITS}={server_bits}")
    client_bits = _MAX_BITS
    if _CLIENT_BITS in asked:
        offered = asked[_CLIENT_BITS] or _MAX_BITS
        if offered < _MIN_BITS:
            # The value is a promise that holds whatever the response says (RFC 7692 section 7.1.2.2), so the response
            # need not repeat it. An inflater with 9 bits reads a stream with 8.
            client_bits = _MIN_BITS
        else:
            client_bits = min(offered, config.client_max_window_bits)
            parts.append(f"{_CLIENT_BITS}={client_bits}")
    return "; ".join(parts), DeflateParameters(server_no_takeover, client_no_takeover, server_bits, client_bits)


def _bad_response(what: str) -> HandshakeError:
    return HandshakeError(f"the server answered with {what}", _SWITCHING_PROTOCOLS)
