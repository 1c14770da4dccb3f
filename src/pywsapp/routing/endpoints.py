"""The endpoint for publishing on topics by signed HTTP requests.

    POST /publish
    X-Signature: t=1767225600,v1=<HMAC-SHA256 of "1767225600." and the body, hexadecimal>

    {"topic": "room:42", "text": "hello"}          or "base64" for a binary message

`"id"` is optional: a request that is repeated with the same id, because its outcome is not known, is delivered once.

The time in the signature may be up to five minutes wrong, and each process accepts a signature once. An attacker who
records a request can therefore repeat it for a few minutes, but only at another worker or machine.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

from pywsapp.component import MessageComponent
from pywsapp.exceptions import BrokerUnavailable, ConfigurationError, OutcomeUnknown, Refuse, TopicError
from pywsapp.http import Request, Response
from pywsapp.topics.topic import Topic

#: By how many seconds the clock of the signing program may be wrong.
TOLERANCE_SECONDS = 300
#: Signatures that are remembered; further requests in the same five minutes are refused with status 503.
MAX_REMEMBERED = 100_000
_SIGNATURE = re.compile(r"t=([0-9]{1,12}),v1=([0-9a-f]{64})")


def sign(key: str | bytes, body: bytes, now: float) -> str:
    """Return the X-Signature of a request.

    Args:
        key: the key shared with the server.
        body: the body of the request.
        now: seconds since 1970.
    """
    secret = key.encode() if isinstance(key, str) else key
    moment = str(int(now))
    return f"t={moment},v1={_digest(secret, moment, body)}"


class PublishEndpoint(MessageComponent):
    """Broadcasts the message of each signed POST request; `App.publish_endpoint` mounts it.

    Args:
        topic: returns the topic of a name; `App.topic`.
        key: a secret of at least 16 bytes, shared with the programs that publish.
        max_size: the bytes that the body of a request may have.
        clock: returns the time in seconds since 1970.

    Raises:
        ConfigurationError: the key is too short.
    """

    def __init__(
        self,
        topic: Callable[[str], Topic],
        key: str | bytes,
        max_size: int = 64 * 1024,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._topic = topic
        self._key = key.encode() if isinstance(key, str) else key
        self._max_size = max_size
        self._clock = clock
        self._seen: dict[str, float] = {}
        if len(self._key) < 16:
            raise ConfigurationError("the key needs at least 16 bytes; secrets.token_hex() makes a good one")

    def on_request(self, request: Request) -> Response | Awaitable[Response]:
        """Broadcast the message of a request.

        Raises:
            Refuse: the body is no message (400), the signature is wrong or missing (401), the method is not POST (405),
                the body is too large (413), the broker does not have the message (503), or the outcome is not known
                (504). The header X-Message-Id has the id for a repeated request.
        """
        if request.method != "POST":
            raise Refuse(405, {"Allow": "POST"}, "the method here is POST")
        return self._publish(request)

    async def _publish(self, request: Request) -> Response:
        body = await request.read(self._max_size)
        self._check(request.headers.get("x-signature", ""), body)
        name, message, message_id = _message(body)
        again = {"Retry-After": "1", "X-Message-Id": message_id}
        try:
            await self._topic(name).broadcast(message, message_id=message_id)
        except (TopicError, ConfigurationError) as exc:
            raise Refuse(400, body=str(exc)) from None
        except OutcomeUnknown as exc:
            raise Refuse(504, again, f"{exc}; repeat the request with this id") from None
        except BrokerUnavailable as exc:
            raise Refuse(503, again, f"{exc}; repeat the request with this id") from None
        return Response(status=204)

    def _check(self, signature: str, body: bytes) -> None:
        found = _SIGNATURE.fullmatch(signature)
        if found is None or not hmac.compare_digest(found[2], _digest(self._key, found[1], body)):
            raise Refuse(401, body="the signature is missing or wrong")
        now = self._clock()
        if abs(now - int(found[1])) > TOLERANCE_SECONDS:
            raise Refuse(401, body="the signature's time is more than five minutes wrong")
        while self._seen and next(iter(self._seen.values())) < now:
            del self._seen[next(iter(self._seen))]
        if found[2] in self._seen:
            raise Refuse(401, body="the signature was used already")
        if len(self._seen) >= MAX_REMEMBERED:
            raise Refuse(503, {"Retry-After": "10"}, "too many requests; publish through the broker instead")
        self._seen[found[2]] = now + 2 * TOLERANCE_SECONDS


def _message(body: bytes) -> tuple[str, str | bytes, str]:
    """Return the topic, the message and its id in a body; a new id if there is none."""
    try:
        fields: Any = json.loads(body)
        if not isinstance(fields, dict) or ("text" in fields) == ("base64" in fields):
            raise ValueError
        name, content = fields["topic"], fields.get("text", fields.get("base64"))
        message_id = fields.get("id", "") or secrets.token_hex(8)
        if not isinstance(name, str) or not isinstance(content, str) or not isinstance(message_id, str):
            raise ValueError
        return name, content if "text" in fields else base64.b64decode(content, validate=True), message_id
    except (ValueError, KeyError, RecursionError):
        raise Refuse(400, body='the body must be JSON: {"topic": ..., "text": ...}, or "base64"') from None


def _digest(key: bytes, moment: str, body: bytes) -> str:
    return hmac.new(key, moment.encode() + b"." + body, hashlib.sha256).hexdigest()
