"""Rules of histories: the topics, how much they keep, and the form of a kept message for clients."""

from __future__ import annotations

import json
import logging
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from pywsapp._http_text import one_line
from pywsapp._log_fields import log_fields
from pywsapp._messages.objects import (
    ObjectContent,
    PreparedObject,
    content_of,
    is_object_content,
    object_in,
    prepared_content,
    prepared_here,
)
from pywsapp._protocol.prepared import PreparedMessage, Sendable
from pywsapp.brokers.base import HISTORY_BYTES, Position
from pywsapp.codecs.kinds import Encodable
from pywsapp.exceptions import ConfigurationError, InvalidMessage
from pywsapp.topics.names import TopicPattern

logger = logging.getLogger("pywsapp")

#: The largest size and time, which every broker accepts; 31 years stand for "for ever".
MOST = 10**9
_RAW = (str, bytes, bytearray, memoryview)


class Publication(NamedTuple):
    """A message of a topic with a history, from which `wrap` makes what clients get.

    Args:
        topic: the topic's name.
        position: its position in the history; a client sends it back to recover from there.
        message: text or bytes, and an object as JSON text, or in the codec of `App.topic_codec`; None if it says that
            the messages up to this position are lost.
    """

    topic: str
    position: str
    message: str | bytes | None


class _InJson:
    """A publication as event streams send it: the object, which is in the codec of its topic, becomes JSON when needed.

    Args:
        topic: as for `Publication`.
        position: as for `Publication`.
        content: the object.
    """

    __slots__ = ("_content", "position", "topic")

    def __init__(self, topic: str, position: str, content: ObjectContent) -> None:
        self.topic = topic
        self.position = position
        self._content = content

    @property
    def message(self) -> str | bytes:
        """The JSON text of the object; the object as it is if it has none."""
        return content_of(PreparedObject(self._content).form_for(None))


def wrap_as_json(publication: Publication) -> str | dict[str, object]:
    """Return `{"topic": ..., "position": ...}` with `"message"` for text, `"base64"` for bytes, or `"lost": true`.

    If an object was broadcast, `"message"` is that object, and each connection gets all this in its codec.
    """
    fields: dict[str, object] = {"topic": publication.topic, "position": publication.position}
    message = publication.message
    if is_object_content(message):
        with suppress(InvalidMessage):  # another program can have published what the codec cannot read
            return fields | {"message": object_in(message)}
    if message is None:
        fields["lost"] = True
    elif isinstance(message, str):
        fields["message"] = message
    else:
        fields["base64"] = b64encode(message).decode()
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False)


Wrap = Callable[[Publication], Sendable | Encodable]


@dataclass(frozen=True, slots=True)
class HistoryRule:
    """The history of the topics of a pattern.

    Args:
        pattern: of the topics.
        size: the number of messages that a topic keeps.
        seconds: how long it keeps them, counted from the last one.
        wrap: makes what clients get of a publication.
        max_bytes: bytes of the messages that a topic keeps.

    Raises:
        ConfigurationError: a number is not positive, or more than 1,000,000,000.
    """

    pattern: TopicPattern
    size: int
    seconds: float
    wrap: Wrap
    max_bytes: int = HISTORY_BYTES

    def __post_init__(self) -> None:
        if type(self.size) is not int or self.size < 1:
            raise ConfigurationError(f"a history keeps 1 message or more, not {self.size!r}")
        if not isinstance(self.seconds, (int, float)) or not self.seconds > 0:
            raise ConfigurationError(f"a history keeps messages for more than 0 seconds, not {self.seconds!r}")
        if self.size > MOST or self.seconds > MOST:
            raise ConfigurationError(f"a history keeps at most 1000000000 messages or seconds, not {self!r:.200}")
        if type(self.max_bytes) is not int or self.max_bytes < 1:
            raise ConfigurationError(f"a history keeps 1 byte or more, not {self.max_bytes!r}")

    def prepare(self, name: str, position: Position, content: str | bytes | None) -> PreparedMessage | None:
        """Return what clients get of a message, None if the application's `wrap` fails; the failure is logged."""
        try:
            publication = Publication(name, str(position), content)
            wrapped = self.wrap(publication)
            if isinstance(wrapped, _RAW):
                message = prepared_content(wrapped)
            else:
                message = prepared_here(wrapped, codec=content.codec if is_object_content(content) else None)
            if is_object_content(content) and content.codec is not None:
                message.publication = _InJson(name, publication.position, content)
            else:
                message.publication = publication
            return message
        except Exception:
            logger.exception(
                "the message %s on %r could not be wrapped",
                one_line(str(position)),
                name,
                extra=log_fields("history.wrap_failed", topic=name, position=str(position)),
            )
            return None
