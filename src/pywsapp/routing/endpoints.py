"""The endpoint for publishing on topics by signed HTTP requests.

    POST /publish
    X-Signature: t=1767225600,v1=<HMAC-SHA256 of the lines "1767225600" and "/publish" and of the body, hexadecimal>

    {"topic": "room:42", "text": "hello"}          or "base64" for a binary message, or "data" for an object

`"data"` is any value of JSON but null: an object for `Topic.broadcast`, and a string is a text message.

`"id"` is optional: a request that is repeated with the same id, because its outcome is not known, is delivered once.

The signature is for one path, and each signature is accepted once. The time in it may be up to five minutes wrong. Used
signatures are remembered where the histories are (`pywsapp.topics.history.claims`): in the supervisor of the workers,
or in Redis. With other brokers each process remembers its own.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from pywsapp._clocks import wall_clock
from pywsapp._messages.objects import default_topic_codec
from pywsapp._trace_hooks import publishing
from pywsapp.brokers.envelope import Keys, keys_of
from pywsapp.component import MessageComponent
from pywsapp.exceptions import BrokerUnavailable, ConfigurationError, InvalidMessage, OutcomeUnknown, Refuse, TopicError
from pywsapp.http import Request, Response
from pywsapp.topics.history.claims import TooManyClaims
from pywsapp.topics.registry import TopicRegistry
from pywsapp.topics.topic import Topic

#: By how many seconds the clock of the signing program may be wrong.
TOLERANCE_SECONDS = 300
#: The fields that have the message; a body has one of them.
_KINDS = frozenset(("text", "base64", "data"))
_SIGNATURE = re.compile(r"t=([0-9]{1,12}),v1=([0-9a-f]{64})")


def sign(key: str | bytes, path: str, body: bytes, now: float) -> str:
    """Return the X-Signature of a request.

    Args:
        key: the key shared with the server.
        path: the path of the request, without percent-encoding and query.
        body: the body of the request.
        now: seconds since 1970.
    """
    secret = key.encode() if isinstance(key, str) else key
    moment = str(int(now))
    return f"t={moment},v1={_digest(secret, moment, path, body)}"


class PublishEndpoint(MessageComponent):
    """Broadcasts the message of each signed POST request; `App.publish_endpoint` mounts it.

    Args:
        topics: the topics; they remember which signatures were used.
        keys: a secret of at least 16 bytes, shared with the programs that publish, or several that are all accepted.
        max_size: the bytes that the body of a request may have.
        clock: returns the time in seconds since 1970.

    Raises:
        ConfigurationError: the key is too short.
    """

    def __init__(
        self,
        topics: TopicRegistry,
        keys: Keys,
        max_size: int,
        clock: Callable[[], float] = wall_clock,
    ) -> None:
        self._topics = topics
        self._keys = keys_of(keys)
        self._max_size = max_size
        self._clock = clock
        if any(len(key) < 16 for key in self._keys):
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
        # Before a mount has cut the path, so that a program signs the path that it asks for.
        path = (request._origin or request).path
        moment, digest = self._check(request.headers.get("x-signature", ""), path, body)
        name, message, message_id = _message(body)
        again = {"Retry-After": "1", "X-Message-Id": message_id}
        try:
            topic = self._topics.topic(name)
            if not await self._topics.history.claim(moment, digest):
                raise Refuse(401, body="the signature was used already")
            with publishing(self._topics.trace_hooks, request, name):
                await _broadcast(topic, message, message_id)
        except (TopicError, ConfigurationError) as exc:
            raise Refuse(400, body=str(exc)) from None
        except TooManyClaims:
            busy = {**again, "Retry-After": "10"}
            raise Refuse(503, busy, "too many requests; publish through the broker instead") from None
        except OutcomeUnknown as exc:
            raise Refuse(504, again, f"{exc}; repeat the request with this id") from None
        except BrokerUnavailable as exc:
            raise Refuse(503, again, f"{exc}; repeat the request with this id") from None
        return Response(status=204)

    def _check(self, signature: str, path: str, body: bytes) -> tuple[int, str]:
        """Return the time in a valid signature, and its digest."""
        found = _SIGNATURE.fullmatch(signature)
        if "\n" in path:  # it ends the path in what is signed
            found = None
        if found is None or not any(
            hmac.compare_digest(found[2].encode(), _digest(key, found[1], path, body).encode()) for key in self._keys
        ):
            raise Refuse(401, body="the signature is missing or wrong")
        if abs(self._clock() - int(found[1])) > TOLERANCE_SECONDS:
            raise Refuse(401, body="the signature's time is more than five minutes wrong")
        return int(found[1]), found[2]


def _message(body: bytes) -> tuple[str, Any, str]:
    """Return the topic, the message and its id in a body; a new id if there is none."""
    try:
        fields = default_topic_codec().decode(body.decode())
        if not isinstance(fields, dict):
            raise ValueError
        name, message_id = fields["topic"], fields.get("id", "") or secrets.token_hex(8)
        (kind,) = _KINDS & fields.keys()
        content = fields[kind]
        if not isinstance(name, str) or not isinstance(message_id, str):
            raise ValueError
        if content is None or (kind != "data" and not isinstance(content, str)):
            raise ValueError
        return name, base64.b64decode(content, validate=True) if kind == "base64" else content, message_id
    except (ValueError, KeyError, InvalidMessage):
        wanted = 'the body must be JSON: {"topic": ..., "text": ...}, or "base64" or "data" instead of "text"'
        raise Refuse(400, body=wanted) from None


def _broadcast(topic: Topic, message: Any, message_id: str) -> Awaitable[None]:
    try:
        return topic.broadcast(message, message_id=message_id)
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise Refuse(400, body=f"the topic cannot carry `data`: {exc}") from None


def _digest(key: bytes, moment: str, path: str, body: bytes) -> str:
    signed = f"{moment}\n{path}\n".encode("utf-8", "surrogateescape") + body
    return hmac.new(key, signed, hashlib.sha256).hexdigest()
