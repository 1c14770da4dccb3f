"""What travels through a broker: one message in a JSON object, which any language can write and read.

    {"v": 1, "topic": "room:42", "from": "b9f0c1d2", "text": "hello"}

`v` is the version, and what it is not known for is dropped. `topic` must be the one it came on. `from` names the
process that published, so that it does not deliver its own messages twice; leave it out when publishing from elsewhere.
Then exactly one of `text` for a text message, `base64` for a binary one, or `event`, an object by which processes talk
to each other (presence). Fields that are not known are ignored.

With a shared key, 64 hexadecimal digits and a space stand before the object: the HMAC-SHA256 of its bytes. Then nothing
without them is taken. That keeps out those who may write to the broker and do not have the key; it does not stop them
from repeating on the same topic what they have seen there.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import reprlib
from base64 import b64decode, b64encode
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any

from pywsapp.exceptions import PywsappError

VERSION = 1
_SIGNED = 64 + 1
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
# What an encoder makes of a text is made by this. Most of the time that it takes for an object goes elsewhere.
_quoted = encode_basestring


class EnvelopeError(PywsappError):
    """What came from the broker is not an envelope, or not from somebody who has the key."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message on its way, or an event.

    Args:
        topic: where it goes.
        message: text or bytes; None for an event.
        origin: the process that published it; empty for a publisher elsewhere.
        event: what processes tell each other.
    """

    topic: str
    message: str | bytes | None
    origin: str = ""
    event: dict[str, Any] | None = None


def encode_envelope(envelope: Envelope, key: bytes | None = None) -> bytes:
    """Write an envelope, signed if there is a key."""
    topic, message, origin = envelope.topic, envelope.message, envelope.origin
    if envelope.event is not None:
        data = _encode_event(topic, origin, envelope.event)
    else:
        sender = f',"from":{_quoted(origin)}' if origin else ""
        if isinstance(message, str):
            content = f'"text":{_quoted(message)}'
        else:
            content = f'"base64":"{b64encode(message or b"").decode()}"'
        data = f'{{"v":{VERSION},"topic":{_quoted(topic)}{sender},{content}}}'.encode()
    return data if key is None else _signature(key, data) + data


def _encode_event(topic: str, origin: str, event: dict[str, Any]) -> bytes:
    fields = {"v": VERSION, "topic": topic, **({"from": origin} if origin else {}), "event": event}
    try:
        return _encode(fields).encode()
    except UnicodeEncodeError:  # an event may hold half a surrogate pair, which JSON can only say escaped
        return json.dumps(fields).encode()


def decode_envelope(data: bytes, topic: str, key: bytes | None = None) -> Envelope:
    """Read an envelope.

    Args:
        data: what came.
        topic: where it came.
        key: the shared key, or None if nothing is signed here.

    Raises:
        EnvelopeError: it is none.
    """
    if key is not None:
        signature, data = data[:_SIGNED], data[_SIGNED:]
        if not hmac.compare_digest(signature, _signature(key, data)):
            raise EnvelopeError("the signature is missing or wrong")
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise EnvelopeError(f"it is no JSON: {exc}") from None
    if not isinstance(fields, dict):
        raise EnvelopeError("it is no JSON object")
    if fields.get("v") != VERSION:
        raise EnvelopeError(f"its version is {reprlib.repr(fields.get('v')):.80}, not {VERSION}")
    if fields.get("topic") != topic:
        raise EnvelopeError("it belongs to another topic")
    origin = fields.get("from", "")
    if not isinstance(origin, str) or not _has_utf8(origin):
        raise EnvelopeError("its `from` is no text")
    return _with_content(fields, topic, origin)


def _has_utf8(text: str) -> bool:
    """Tell whether there is no half of a surrogate pair in it, which JSON can say."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _with_content(fields: dict[str, Any], topic: str, origin: str) -> Envelope:
    found = [name for name in ("text", "base64", "event") if name in fields]
    if len(found) != 1:
        raise EnvelopeError("it has not exactly one of text, base64 and event")
    content = fields[found[0]]
    if found == ["event"]:
        if not isinstance(content, dict):
            raise EnvelopeError("its event is no object")
        return Envelope(topic, None, origin, content)
    if not isinstance(content, str):
        raise EnvelopeError(f"its {found[0]} is no text")
    if found == ["text"]:
        if not _has_utf8(content):
            raise EnvelopeError("its text cannot be read: it has half of a surrogate pair")
        return Envelope(topic, content, origin)
    try:
        return Envelope(topic, b64decode(content, validate=True), origin)
    except ValueError as exc:
        raise EnvelopeError(f"its base64 cannot be read: {exc}") from None


def _signature(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).hexdigest().encode() + b" "
