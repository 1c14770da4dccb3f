"""A message of a client is a request or refused, and data that is published reaches clients in both codecs.

An input is a message in one of the two codecs. What a request publishes gets the form of each codec, and shows the same
data there.
"""

from __future__ import annotations

import json
from typing import Any

from harness import check_text, fuzz, instrumented

with instrumented():
    from pywsapp.brokers.base import Position
    from pywsapp.codecs import Codec, JsonCodec, MessagePackCodec
    from pywsapp.exceptions import InvalidMessage
    from pywsapp.protocols.client import ABSENT
    from pywsapp.protocols.conversation import content_for
    from pywsapp.protocols.errors import RequestError, as_request_error
    from pywsapp.protocols.topics_v1.form import TopicsV1Form
    from pywsapp.protocols.topics_v1.messages import MAX_ID, read_request

CODECS: tuple[Codec, ...] = (JsonCodec(), MessagePackCodec())
FORMS = [TopicsV1Form(codec) for codec in CODECS]
AT = Position("5f3c9a01", 17)
#: Characters of the longest text of an error: a text of the client is cut.
MAX_ERROR = 500


def check_published(data: Any) -> None:
    """Check the forms of data that has a form in JSON."""
    try:
        content = content_for(data)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return
    for codec, form in zip(CODECS, FORMS, strict=True):
        message = form.prepare("room:1", AT, content)
        text = message.payload if codec.is_binary else message.payload.decode()
        found = codec.decode(text)
        assert (found["type"], found["topic"], found["position"]) == ("message", "room:1", "17-5f3c9a01")
        assert ("data" in found) != ("base64" in found)
        if isinstance(data, str) or (isinstance(data, bytes) and codec.is_binary):
            assert found["data"] == data
        if isinstance(codec, JsonCodec) and "data" in found and not isinstance(data, str):
            assert found["data"] == codec.decode(str(content))


def one_input(data: bytes) -> None:
    """Run one input: a message in MessagePack, and the same bytes as text in JSON."""
    for codec, message in ((CODECS[1], data), (CODECS[0], data.decode("utf-8", "replace"))):
        try:
            request = read_request(codec.decode(message))
        except (InvalidMessage, RequestError) as exc:
            error = as_request_error(exc)
            assert error is not None
            check_text(exc, MAX_ERROR)
            continue
        assert request.id is None or 0 < request.id <= MAX_ID
        assert request.id is not None or request.type in ("publish", "call")
        if request.type == "publish":
            check_published(request.fields.get("data", request.fields.get("base64", ABSENT)))


def seeds() -> list[bytes]:
    requests: list[dict[str, Any]] = [
        {"type": "connect", "id": 1, "token": "t", "session": "a" * 16},
        {"type": "subscribe", "id": MAX_ID, "topic": "room:1", "since": None, "presence": True, "track": {}},
        {"type": "subscribe", "id": 1, "topic": "room:1", "since": "17-5f3c9a01"},
        {"type": "unsubscribe", "id": 1, "topic": "room:1"},
        {"type": "track", "id": 1, "topic": "room:1", "meta": [1]},
        {"type": "publish", "topic": "room:1", "data": {"a": [1, 2.5, None, "\N{GRINNING FACE}", 2**70]}},
        {"type": "publish", "id": 2, "topic": "room:1", "base64": "AA==", "key": "a.b:c"},
        {"type": "call", "method": "add", "params": [1]},
        {"type": "refresh", "id": 1, "token": "t"},
        {"type": "ping"},
    ]
    texts = [json.dumps(request).encode() for request in requests]
    packed = [_packed(request) for request in requests if "data" not in request]
    more = [{"type": "publish", "topic": "t", "data": value} for value in (b"\0", {1: 2}, {None: 1}, float("nan"))]
    return [*texts, *packed, *map(_packed, more), b"{", b"\x80", b"[]"]


def _packed(value: Any) -> bytes:
    packed = CODECS[1].encode(value)
    assert isinstance(packed, bytes)
    return packed


if __name__ == "__main__":
    fuzz(one_input, seeds())
