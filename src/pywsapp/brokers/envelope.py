"""The envelope: what travels through a broker. It is one JSON object, which any language can write and read.

    {"v": 1, "topic": "room:42", "from": "b9f0c1d2", "text": "hello"}

`v` is the version; envelopes of other versions are dropped. `topic` must be the topic that the envelope came on. `from`
names the process that published it, so that this process does not deliver it twice; other publishers leave it out. `id`
is optional: a process delivers a message with the same id on the same topic once, so it can be published again.

There is exactly one of `text` for a text message, `base64` for a binary message, or `event`, an object by which
processes talk to each other (presence). `object` is optional: if it is true, the text is the JSON of an object; if it
is the name of a codec, the text or the bytes are an object in that codec. Connections with another codec get the object
in theirs. `traceparent` is optional: the trace in which the message was published, as W3C Trace Context writes it. Only
a process with `pywsapp.telemetry` writes and reads it. Unknown fields are ignored.

With a shared key, 64 hexadecimal digits and a space precede the object: the HMAC-SHA256 of its bytes. An envelope
without a valid signature is then dropped. A signed envelope needs `from`, and `n`: a number that grows with each
envelope of that publisher, the time in microseconds since 1970. So a program that can write to the broker and does not
have the key can neither send messages nor repeat what it has seen (`pywsapp.topics.replays`).

Several keys can be accepted at the same time, so that a key can be replaced without an interruption. The first one
signs.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import reprlib
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from json.encoder import encode_basestring
from typing import Any

from pywsapp._messages.objects import ObjectBytes, ObjectText, codec_named, object_content
from pywsapp.brokers.message_ids import is_message_id
from pywsapp.codecs.base import Codec
from pywsapp.exceptions import ConfigurationError, PywsappError

#: One key, or several of which the first one signs.
Keys = str | bytes | Sequence[str | bytes]
#: Returns the codec of a topic and a name.
FindCodec = Callable[[str, str], Codec | None]

VERSION = 1
#: Numbers are below this, so that they are exact in languages whose numbers are doubles.
MAX_NUMBER = 2**53
#: Characters of the name of a process. Names are remembered, and there can be many.
MAX_ORIGIN = 200
#: Bytes of a signature, with the space after it.
SIGNATURE_BYTES = 64 + 1
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
#: Quotes inside of a text are escaped, so only a name of a field can match.
_TRACEPARENT = re.compile(rb'[{,]\s*"traceparent"\s*:\s*"([0-9a-f-]{55})"')
_MAX_BEFORE_TRACEPARENT = 2_000  # bytes; a topic and a sender can have 800, and other publishers can write spaces
# The encoder writes a str by this function. Encoding a whole object takes several times as long.
_quoted = encode_basestring


class EnvelopeError(PywsappError):
    """A message from the broker is not an envelope, or its signature is wrong."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message or an event on its way through a broker.

    Args:
        topic: the name of its topic.
        message: text or bytes; None for an event.
        origin: the process that published it; empty for another publisher.
        event: what processes exchange, for instance presence; None for a message.
        id: recognises a message that is published again; None if it has none.
        number: grows with each signed envelope of its publisher; 0 for an envelope that is not signed.
    """

    topic: str
    message: str | bytes | None
    origin: str = ""
    event: dict[str, Any] | None = None
    id: str | None = None
    number: int = 0


class EnvelopeNumbers:
    """The numbers of the signed envelopes of one publisher: the time in microseconds, and always larger than before.

    Attributes:
        last: the last number.
    """

    def __init__(self) -> None:
        self.last = 0

    def __next__(self) -> int:
        self.last = max(self.last + 1, time.time_ns() // 1000)
        return self.last


def keys_of(keys: Keys | None) -> tuple[bytes, ...]:
    """Return the keys that a program names, the one that signs first; none for None.

    Raises:
        ConfigurationError: a key is empty, or there is none in a sequence.
    """
    if keys is None:
        return ()
    found = (keys,) if isinstance(keys, (str, bytes)) else tuple(keys)
    if not found or not all(found):
        raise ConfigurationError("the broker's key is empty; leave it out to sign nothing")
    return tuple(key.encode() if isinstance(key, str) else bytes(key) for key in found)


def encode_envelope(envelope: Envelope, key: bytes | None = None, traceparent: str | None = None) -> bytes:
    """Encode an envelope, and sign it if there is a key.

    Args:
        envelope: the envelope.
        key: signs it.
        traceparent: the context of the trace in which a message is published; None without one.
    """
    if envelope.event is not None:
        data = _encode_event(envelope)
    else:
        message = envelope.message
        if isinstance(message, str):
            content = f'"text":{_quoted(message)}}}'
            if type(message) is ObjectText:
                content = f'"object":{_codec_field(message)},{content}'
        else:
            content = f'"base64":"{b64encode(message or b"").decode()}"}}'
            if type(message) is ObjectBytes:
                content = f'"object":{_codec_field(message)},{content}'
        if envelope.id is not None:
            content = f'"id":{_quoted(envelope.id)},{content}'
        if envelope.number:
            content = f'"n":{envelope.number},{content}'
        if traceparent is not None:
            content = f'"traceparent":"{traceparent}",{content}'
        data = envelope_start(envelope.topic, envelope.origin) + content.encode()
    return data if key is None else _signature(key, data) + data


def envelope_start(topic: str, origin: str) -> bytes:
    """Return the bytes that the envelopes of a process on a topic begin with, after the signature."""
    sender = f'"from":{_quoted(origin)},' if origin else ""
    return f'{{"v":{VERSION},"topic":{_quoted(topic)},{sender}'.encode()


def traceparent_in(data: bytes) -> str | None:
    """Return the context of the trace in which an envelope was published; None if it has none near its start."""
    found = _TRACEPARENT.search(data, 0, _MAX_BEFORE_TRACEPARENT)
    return None if found is None else found[1].decode()


def _codec_field(content: ObjectText | ObjectBytes) -> str:
    return "true" if content.codec is None else _quoted(content.codec.name)


def _encode_event(envelope: Envelope) -> bytes:
    fields: dict[str, Any] = {"v": VERSION, "topic": envelope.topic}
    if envelope.origin:
        fields["from"] = envelope.origin
    if envelope.number:
        fields["n"] = envelope.number
    fields["event"] = envelope.event
    try:
        return _encode(fields).encode()
    except UnicodeEncodeError:  # an event may contain half a surrogate pair, which JSON can only express escaped
        return json.dumps(fields).encode()


def has_signature(data: bytes, keys: Sequence[bytes]) -> bool:
    """Return whether an envelope has a signature that was made with one of the keys."""
    signature, content = data[:SIGNATURE_BYTES], data[SIGNATURE_BYTES:]
    return any(hmac.compare_digest(signature, _signature(key, content)) for key in keys)


def decode_envelope(
    data: bytes, topic: str, keys: Sequence[bytes] = (), find_codec: FindCodec | None = None
) -> Envelope:
    """Decode an envelope.

    Args:
        data: the bytes from the broker.
        topic: the topic that they came on.
        keys: the accepted keys; none if envelopes are not signed.
        find_codec: returns the codec of a topic and a name, None if there is none; by default of a name alone.

    Raises:
        EnvelopeError: this is not an envelope, it belongs to another topic, its signature is wrong, or it has an object
            in a codec that is not known.
        ConfigurationError: the library of the codec is not installed.
    """
    if keys:
        if not has_signature(data, keys):
            raise EnvelopeError("the signature is missing or wrong")
        data = data[SIGNATURE_BYTES:]
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise EnvelopeError(f"it is not JSON: {exc}") from None
    if not isinstance(fields, dict):
        raise EnvelopeError("it is not a JSON object")
    if fields.get("v") != VERSION:
        raise EnvelopeError(f"its version is {reprlib.repr(fields.get('v')):.80}, not {VERSION}")
    if fields.get("topic") != topic:
        raise EnvelopeError("it belongs to another topic")
    origin = fields.get("from", "")
    if not isinstance(origin, str) or len(origin) > MAX_ORIGIN or not has_utf8(origin):
        raise EnvelopeError(f"its `from` is not a text of at most {MAX_ORIGIN} characters")
    if "id" in fields and not is_message_id(fields["id"]):
        raise EnvelopeError("its `id` is not an id")
    envelope = _with_content(fields, topic, origin, find_codec)
    return _with_number(envelope, fields.get("n")) if keys else envelope


def _with_number(envelope: Envelope, number: Any) -> Envelope:
    if not envelope.origin or type(number) is not int or not 0 < number < MAX_NUMBER:
        raise EnvelopeError("it is signed, but does not have `from` and a number `n`")
    return replace(envelope, number=number)


def has_utf8(text: str) -> bool:
    """Return whether a text has a UTF-8 form. Half a surrogate pair, which JSON can express, has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _with_content(fields: dict[str, Any], topic: str, origin: str, find_codec: FindCodec | None) -> Envelope:
    found = [name for name in ("text", "base64", "event") if name in fields]
    if len(found) != 1:
        raise EnvelopeError("it does not have exactly one of text, base64 and event")
    content = fields[found[0]]
    if found == ["event"]:
        if not isinstance(content, dict):
            raise EnvelopeError("its event is not an object")
        return Envelope(topic, None, origin, content)
    if not isinstance(content, str):
        raise EnvelopeError(f"its {found[0]} is not text")
    if found == ["text"]:
        if not has_utf8(content):
            raise EnvelopeError("its text has half of a surrogate pair and no UTF-8 form")
    else:
        try:
            content = b64decode(content, validate=True)
        except ValueError as exc:
            raise EnvelopeError(f"its base64 cannot be decoded: {exc}") from None
    if "object" in fields:
        content = _with_codec(content, topic, fields["object"], find_codec)
    return Envelope(topic, content, origin, id=fields.get("id"))


def _with_codec(content: str | bytes, topic: str, name: Any, find_codec: FindCodec | None) -> str | bytes:
    """Return a content as an object, if the field `object` says so."""
    if name is True and isinstance(content, str):
        return ObjectText(content)
    if not isinstance(name, str):
        return content
    codec = codec_named(name) if find_codec is None else find_codec(topic, name)
    if codec is None:
        raise EnvelopeError(f"its object has the codec {reprlib.repr(name)}, which this topic does not have here")
    if codec.is_binary != isinstance(content, bytes):
        raise EnvelopeError(f"its object has the codec {name!r}, but is {'not ' * codec.is_binary}binary")
    return object_content(content, codec)


def _signature(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).hexdigest().encode() + b" "
