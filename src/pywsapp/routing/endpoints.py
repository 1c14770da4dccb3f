"""Endpoints that every application can switch on: the health check, and publishing on topics by signed HTTP requests.

    POST /publish
    X-Signature: t=1767225600,v1=<HMAC-SHA256 of "1767225600." and the body, hexadecimal>

    {"topic": "room:42", "text": "hello"}          or "base64" for a binary message

The time in the signature may be five minutes off, and each signature is good once in each process: so a request that
somebody has overheard can be sent again for a few minutes, and only to another worker or machine.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from pywsapp.component import MessageComponent
from pywsapp.exceptions import BrokerUnavailable, ConfigurationError, Refuse, TopicError
from pywsapp.http import Request, Response
from pywsapp.topics.topic import Topic

#: How many seconds the clock of whoever signs may be off.
TOLERANCE_SECONDS = 300
#: Signatures that are remembered; more in five minutes are answered with 503.
MAX_REMEMBERED = 100_000
_FRESH = {"Cache-Control": "no-store"}
_SIGNATURE = re.compile(r"t=([0-9]{1,12}),v1=([0-9a-f]{64})")


def sign(key: str | bytes, body: bytes, now: float) -> str:
    """Give the X-Signature of a request.

    Args:
        key: the key shared with the server.
        body: of the request.
        now: seconds since 1970.
    """
    secret = key.encode() if isinstance(key, str) else key
    moment = str(int(now))
    return f"t={moment},v1={_digest(secret, moment, body)}"


class PublishEndpoint(MessageComponent):
    """Answers signed POST requests by broadcasting what they carry; to be mounted.

    Args:
        topic: gives the topic of a name; `App.topic`.
        key: a secret of at least 16 bytes, shared with whoever publishes.
        max_size: bytes of a request's body.
        clock: gives the time in seconds since 1970.

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
        """Publish.

        Raises:
            Refuse: 400 for what is no message, 401 without a good signature, 405 for what is no POST, 413 for too
                much, 503 if the broker does not take it.
        """
        if request.method != "POST":
            raise Refuse(405, {"Allow": "POST"}, "publishing is a POST request")
        return self._publish(request)

    async def _publish(self, request: Request) -> Response:
        body = await request.read(self._max_size)
        self._check(request.headers.get("x-signature", ""), body)
        name, message = _message(body)
        try:
            await self._topic(name).broadcast(message)
        except (TopicError, ConfigurationError) as exc:
            raise Refuse(400, body=str(exc)) from None
        except BrokerUnavailable as exc:
            raise Refuse(503, {"Retry-After": "1"}, str(exc)) from None
        return Response(status=204)

    def _check(self, signature: str, body: bytes) -> None:
        found = _SIGNATURE.fullmatch(signature)
        if found is None or not hmac.compare_digest(found[2], _digest(self._key, found[1], body)):
            raise Refuse(401, body="the signature is missing or wrong")
        now = self._clock()
        if abs(now - int(found[1])) > TOLERANCE_SECONDS:
            raise Refuse(401, body="the signature is too old, or of the future")
        while self._seen and next(iter(self._seen.values())) < now:
            del self._seen[next(iter(self._seen))]
        if found[2] in self._seen:
            raise Refuse(401, body="the signature has been used")
        if len(self._seen) >= MAX_REMEMBERED:
            raise Refuse(503, {"Retry-After": "10"}, "too much is published here; use a broker")
        self._seen[found[2]] = now + 2 * TOLERANCE_SECONDS


def _message(body: bytes) -> tuple[str, str | bytes]:
    """Read the topic and the message of a body."""
    try:
        fields: Any = json.loads(body)
        if not isinstance(fields, dict) or ("text" in fields) == ("base64" in fields):
            raise ValueError
        name, content = fields["topic"], fields.get("text", fields.get("base64"))
        if not isinstance(name, str) or not isinstance(content, str):
            raise ValueError
        return name, content if "text" in fields else base64.b64decode(content, validate=True)
    except (ValueError, KeyError, RecursionError):
        raise Refuse(400, body='the body must be JSON: {"topic": ..., "text": ...}, or "base64"') from None


def _digest(key: bytes, moment: str, body: bytes) -> str:
    return hmac.new(key, moment.encode() + b"." + body, hashlib.sha256).hexdigest()


def health(*, stopping: bool) -> Response:
    """Make the answer: 200 if clients are welcome, 503 if the server is about to end."""
    if stopping:
        return Response.json({"status": "stopping"}, 503, _FRESH)
    return Response.json({"status": "ok"}, headers=_FRESH)
