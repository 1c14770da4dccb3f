"""The answer of a server that refuses: the beginning of its content, and a message without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote_plus

from pywsapp._connecting.arguments import ConnectArguments
from pywsapp._http_text import one_line
from pywsapp.exceptions import HandshakeError

#: Bytes of the content that are kept.
MAX_BODY = 1024
#: Seconds to wait for the content.
BODY_SECONDS = 1.0

_MAX_SHOWN = 150  # characters
_MAX_RAW = 4 * MAX_BODY  # with the heads of chunks
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[^\r\n]*\r\n")
_SHORTEST_SECRET = 4


class RefusalBody:
    """The content of an answer, as much of it as is kept.

    Args:
        exc: the answer, with the bytes that have arrived after its head.

    Attributes:
        is_complete: whether no more bytes are needed.
    """

    def __init__(self, exc: HandshakeError) -> None:
        self._raw = b""
        fields = exc.headers
        coding = "" if fields is None else (fields.get("transfer-encoding") or "")
        length = "" if fields is None else (fields.get("content-length") or "")
        self._is_chunked = coding.lower().endswith("chunked")
        self._length = min(int(length), MAX_BODY) if re.fullmatch(r"[0-9]{1,18}", length) else MAX_BODY
        self.is_complete = False
        self.receive(exc.body)

    def receive(self, data: bytes) -> None:
        """Add bytes of the content."""
        self._raw += data[: _MAX_RAW - len(self._raw)]
        if self._is_chunked:
            content, is_last = _without_chunks(self._raw)
            self.is_complete = is_last or len(content) >= MAX_BODY or len(self._raw) >= _MAX_RAW
        else:
            self.is_complete = len(self._raw) >= self._length

    @property
    def content(self) -> bytes:
        """The content that has arrived."""
        return _without_chunks(self._raw)[0][:MAX_BODY] if self._is_chunked else self._raw[: self._length]


def _without_chunks(raw: bytes) -> tuple[bytes, bool]:
    """Return the content of chunks (RFC 9112 section 7.1), and whether the last one has come."""
    content, at = b"", 0
    while (head := _CHUNK.match(raw, at)) is not None:
        size = int(head[1], 16)
        if size == 0:
            return content, True
        content += raw[head.end() : head.end() + size]
        at = head.end() + size + 2
    return content, False


def described(exc: HandshakeError, content: bytes, arguments: ConnectArguments) -> HandshakeError:
    """Return a refusal whose message has the beginning of the content, without what the client has sent as secrets."""
    secrets = secrets_of(arguments)
    message = without_secrets(str(exc), secrets)
    text = " ".join(without_secrets(content.decode("utf-8", "replace"), secrets).split())
    if text:
        message += ": " + one_line(text[:_MAX_SHOWN])
    return HandshakeError(message, exc.status, headers=exc.headers, body=content)


def secrets_of(arguments: ConnectArguments) -> list[str]:
    """Return the texts of a request that can be secrets: values of fields, cookies and parameters, tokens."""
    found: list[str] = []
    for name, value in arguments.fields:
        if name.lower() not in ("origin", "user-agent", "accept", "accept-language"):
            found += [value, *value.split(" "), *re.split("[=; ]+", value)]
    query = arguments.target.path.partition("?")[2]
    found.append(query)
    for part in query.split("&"):
        value = part.partition("=")[2]
        found += [value, unquote_plus(value)]
    for subprotocol in arguments.subprotocols:
        if subprotocol.startswith("bearer."):
            found += [subprotocol, subprotocol[len("bearer.") :]]
    return found


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """Return a text in which `...` stands for secrets."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "...")
    return text
