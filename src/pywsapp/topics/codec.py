"""The envelopes of one process: encoding, signing, decoding, and a count of those that cannot be decoded.

A process does not decode its own messages again when a broker sends them back. A plain message is recognised by its
first bytes, which name the process, and is dropped. A kept message has to be delivered when it comes back, since only
then its position is known. Its content is remembered under the bytes of its envelope until then. Both are safe with
signatures: a forged envelope that names this process is dropped, and remembered content is only used for the very bytes
that this process has signed itself.
"""

from __future__ import annotations

import logging
import secrets
from typing import Any

from pywsapp.brokers.base import MIB
from pywsapp.brokers.envelope import (
    SIGNATURE_BYTES,
    Envelope,
    EnvelopeError,
    decode_envelope,
    encode_envelope,
    envelope_start,
)
from pywsapp.exceptions import ConfigurationError
from pywsapp.topics.names import MAX_NAME_BYTES

logger = logging.getLogger("pywsapp")

#: Own messages that are remembered until they come back: as many as a relay queues. More are decoded like all others.
MAX_REMEMBERED = 10_000
MAX_REMEMBERED_BYTES = 16 * MIB
#: Bytes in which an own envelope names this process: in JSON, a topic's name is at most twice as long.
_MAX_START = 2 * MAX_NAME_BYTES + 100

Content = str | bytes


class EnvelopeCodec:
    """Encodes the messages of this process and decodes what a broker delivers. The topic registry creates one.

    Args:
        key: the secret that signs envelopes; None signs nothing.

    Attributes:
        origin: the name of this process on the broker, random for each codec.
        dropped: the number of envelopes that could not be decoded.

    Raises:
        ConfigurationError: the key is empty.
    """

    def __init__(self, key: str | bytes | None = None) -> None:
        self.origin = secrets.token_hex(8)
        self.dropped = 0
        self._key: bytes | None = None
        self._origin_bytes = self.origin.encode()
        self._start_at = 0
        if key is not None:
            self.use_key(key)
        self._remembered: dict[bytes, tuple[Content, int]] = {}
        self._remembered_bytes = 0

    @property
    def is_signing(self) -> bool:
        """Whether envelopes are signed."""
        return self._key is not None

    def use_key(self, key: str | bytes) -> None:
        """Sign envelopes with another key from now on.

        Raises:
            ConfigurationError: the key is empty.
        """
        if not key:
            raise ConfigurationError("the broker's key is empty; leave it out to sign nothing")
        self._key = key.encode() if isinstance(key, str) else key
        self._start_at = SIGNATURE_BYTES

    def encode(self, topic: str, content: Content, message_id: str | None = None) -> bytes:
        """Return the envelope of a message of this process."""
        return encode_envelope(Envelope(topic, content, self.origin, None, message_id), self._key)

    def encode_event(self, topic: str, event: dict[str, Any]) -> bytes:
        """Return the envelope of an event, by which processes talk to each other."""
        return encode_envelope(Envelope(topic, None, self.origin, event), self._key)

    def is_own(self, topic: str, data: bytes) -> bool:
        """Return whether an envelope begins like one of this process; its signature is not checked."""
        at = self._start_at
        if data.find(self._origin_bytes, at, at + _MAX_START) < 0:  # faster, and enough for most messages of others
            return False
        return data.startswith(envelope_start(topic, self.origin), at)

    def decode(self, topic: str, data: bytes) -> Envelope:
        """Return what an envelope holds, without decoding it if its content is remembered.

        Raises:
            EnvelopeError: it cannot be decoded, or its signature is wrong.
        """
        remembered = self._remembered.get(data) if self._remembered else None
        if remembered is not None:
            return Envelope(topic, remembered[0], self.origin)
        return decode_envelope(data, topic, self._key)

    def decode_or_drop(self, topic: str, data: bytes) -> Content | None:
        """Return the content of a message; None if it cannot be decoded, which is counted and logged."""
        try:
            return self.decode(topic, data).message
        except EnvelopeError as exc:
            self.drop(topic, exc)
            return None

    def drop(self, topic: str, exc: Exception) -> None:
        """Count an envelope that cannot be used. The log line comes at 1, 2, 4, 8, ..., for a peer can send many."""
        self.dropped += 1
        if self.dropped & (self.dropped - 1) == 0:
            logger.warning("dropped a message of the broker on %r: %s (%d so far)", topic[:100], exc, self.dropped)

    # -- own messages that come back with a position -----------------------------------------------------------------

    def remember(self, data: bytes, content: Content) -> None:
        """Remember the content of an own envelope until `forget`; the oldest ones are dropped when there are too many.

        Equal messages have equal envelopes, so their number is remembered too.
        """
        _, count = self._remembered.get(data, (content, 0))
        self._remembered[data] = content, count + 1
        if not count:
            self._remembered_bytes += len(data)
            while len(self._remembered) > MAX_REMEMBERED or self._remembered_bytes > MAX_REMEMBERED_BYTES:
                self._discard(next(iter(self._remembered)))

    def forget(self, data: bytes) -> None:
        """Forget the content of an envelope that has been delivered; nothing if it is not remembered."""
        content, count = self._remembered.get(data, ("", 0))
        if count > 1:
            self._remembered[data] = content, count - 1
        elif count:
            self._discard(data)

    def forget_all(self) -> None:
        """Forget all contents, because the broker delivers nothing any more."""
        self._remembered.clear()
        self._remembered_bytes = 0

    def _discard(self, data: bytes) -> None:
        del self._remembered[data]
        self._remembered_bytes -= len(data)
