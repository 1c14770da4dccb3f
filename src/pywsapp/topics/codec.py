"""The envelopes of one process: encoding, signing, decoding, and a count of those that cannot be decoded.

A process does not decode its own messages again when a broker sends them back. A plain message is recognised by its
first bytes, which name the process, and is dropped. A kept message has to be delivered when it comes back, since only
then its position is known. Its content is remembered under the bytes of its envelope until then. Both are safe with
signatures: a forged envelope that names this process is dropped, and remembered content is only used for the very bytes
that this process has signed itself.

With signatures, an envelope that was received before is recognised by its number, see `replays`.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import Any

from pywsapp._log_fields import log_fields
from pywsapp._trace_hooks import TraceHooks
from pywsapp.brokers.base import MIB, Position, Receive
from pywsapp.brokers.envelope import (
    SIGNATURE_BYTES,
    Envelope,
    EnvelopeError,
    EnvelopeNumbers,
    Keys,
    decode_envelope,
    encode_envelope,
    envelope_start,
    has_signature,
    keys_of,
)
from pywsapp.exceptions import ConfigurationError, PywsappError
from pywsapp.topics.names import MAX_NAME_BYTES
from pywsapp.topics.replays import GrowingNumbers, ReplayGuard
from pywsapp.topics.topic_codecs import TopicCodecs

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
        keys: the secret that signs envelopes, or several that are accepted, the one that signs first; None signs
            nothing.
        codecs: the codecs of objects, by topic; None for JSON on all topics.

    Attributes:
        origin: the name of this process on the broker, random for each codec.
        keys: the secrets that all processes share, the one that signs first; none without signatures.
        dropped: the number of envelopes that could not be decoded.
        is_signing: whether envelopes are signed.
        guard: recognises repetitions of signed envelopes.

    Raises:
        ConfigurationError: the key is empty.
    """

    def __init__(self, keys: Keys | None = None, codecs: TopicCodecs | None = None) -> None:
        self.origin = secrets.token_hex(8)
        self.dropped = 0
        self._find_codec = (TopicCodecs() if codecs is None else codecs).named
        self.keys: tuple[bytes, ...] = ()
        self._key: bytes | None = None  # the one that signs
        self._write: Callable[[Envelope, bytes | None], bytes] = encode_envelope
        self._numbers = EnvelopeNumbers()
        self.guard = ReplayGuard()
        self._origin_bytes = self.origin.encode()
        self._start_at = 0
        self.use_keys(keys)
        self._remembered: dict[bytes, tuple[Content, int, int]] = {}
        self._remembered_bytes = 0

    def use_keys(self, keys: Keys | None) -> None:
        """Sign envelopes with other keys from now on.

        Raises:
            ConfigurationError: a key is empty.
        """
        self.keys = keys_of(keys)
        self._key = self.keys[0] if self.keys else None
        self.is_signing = bool(self.keys)
        self._start_at = SIGNATURE_BYTES if self.keys else 0

    def encode(self, topic: str, content: Content, message_id: str | None = None) -> bytes:
        """Return the envelope of a message of this process."""
        return self._write(Envelope(topic, content, self.origin, None, message_id, self._next_number()), self._key)

    def trace(self, hooks: TraceHooks | None, receive: Receive) -> Receive:
        """Write the contexts of traces into the envelopes of messages from now on.

        Args:
            hooks: returns the contexts; None without traces.
            receive: handles envelopes from the broker.

        Returns:
            what handles envelopes in place of `receive`: it reads their contexts.
        """
        if hooks is None:
            return receive
        self._write = lambda envelope, key: encode_envelope(envelope, key, hooks.traceparent())
        return hooks.around_receive(receive, self._is_delivered)

    def _is_delivered(self, topic: str, data: bytes, position: Position | None) -> bool:
        """Return whether an envelope is no echo of this process, and has a valid signature if it needs one."""
        if position is None and self.is_own(topic, data):
            return False
        return not self.keys or has_signature(data, self.keys)

    def encode_event(self, topic: str, event: dict[str, Any]) -> bytes:
        """Return the envelope of an event, by which processes talk to each other."""
        return encode_envelope(Envelope(topic, None, self.origin, event, number=self._next_number()), self._key)

    def _next_number(self) -> int:
        return 0 if self._key is None else next(self._numbers)

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
        if remembered is not None and self.is_own(topic, data):
            return Envelope(topic, remembered[0], self.origin, number=remembered[1])
        return decode_envelope(data, topic, self.keys, self._find_codec)

    def decode_kept(self, topic: str, data: bytes, seen: GrowingNumbers) -> Content | None:
        """Return the content of a message from a history; None if it is no valid one, which is counted and logged.

        Args:
            topic: the topic's name.
            data: the envelope.
            seen: the numbers of the messages before it.
        """
        try:
            envelope = self.decode(topic, data)
            if envelope.message is None:
                raise EnvelopeError("it is in a history, but it is not a message")
            last = seen.add(envelope.origin, envelope.number) if self.is_signing else None
            if last is not None and last >= envelope.number:
                raise EnvelopeError("it is in a history twice")
        except (EnvelopeError, ConfigurationError) as exc:  # the latter: the library of its codec is not installed
            self.drop(topic, exc)
            return None
        return envelope.message

    def drop(self, topic: str, exc: Exception) -> None:
        """Count an envelope that cannot be used. The log line comes at 1, 2, 4, 8, ..., for a peer can send many."""
        self.dropped += 1
        if self.dropped & (self.dropped - 1) == 0:
            unexpected = None if isinstance(exc, PywsappError) else exc
            logger.warning(
                "dropped a message of the broker on %r: %s (%d so far)",
                topic[:100],
                exc if unexpected is None else repr(exc)[:200],
                self.dropped,
                exc_info=unexpected,
                extra=log_fields("broker.invalid_message", topic=topic, error=str(exc), count=self.dropped),
            )

    # -- own messages that come back with a position -----------------------------------------------------------------

    def remember(self, data: bytes, content: Content) -> None:
        """Remember the content of the envelope that was encoded last until `forget`.

        When there are too many, the oldest ones are dropped. Equal messages have equal envelopes without signatures, so
        how many there are is remembered too.
        """
        _, number, count = self._remembered.get(data, (content, self._numbers.last, 0))
        self._remembered[data] = content, number, count + 1
        if not count:
            self._remembered_bytes += len(data)
            while len(self._remembered) > MAX_REMEMBERED or self._remembered_bytes > MAX_REMEMBERED_BYTES:
                self._discard(next(iter(self._remembered)))

    def forget(self, data: bytes) -> None:
        """Forget the content of an envelope that has been delivered; nothing if it is not remembered."""
        content, number, count = self._remembered.get(data, ("", 0, 0))
        if count > 1:
            self._remembered[data] = content, number, count - 1
        elif count:
            self._discard(data)

    def forget_all(self) -> None:
        """Forget all contents, because the broker delivers nothing any more."""
        self._remembered.clear()
        self._remembered_bytes = 0

    def _discard(self, data: bytes) -> None:
        del self._remembered[data]
        self._remembered_bytes -= len(data)
