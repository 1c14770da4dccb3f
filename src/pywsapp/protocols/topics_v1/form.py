"""The form in which clients of `pywsapp.topics.v1` get messages of topics, in one codec."""

from __future__ import annotations

import logging
from base64 import b64encode
from typing import TYPE_CHECKING, Any

from pywsapp._http_text import one_line
from pywsapp._log_fields import log_fields
from pywsapp._messages.objects import is_object_content, object_in
from pywsapp.exceptions import InvalidMessage
from pywsapp.protocols.conversation import FormedMessage
from pywsapp.topics.delivery import DeliveryForm

if TYPE_CHECKING:
    from pywsapp.brokers.base import Position
    from pywsapp.codecs.base import Codec
    from pywsapp.topics.codec import Content
    from pywsapp.topics.presence.topic_presence import PresenceDiff

logger = logging.getLogger("pywsapp")


class TopicsV1Form(DeliveryForm):
    """The delivery form of clients with one codec.

    Args:
        codec: the codec.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    def prepare(self, name: str, position: Position | None, content: Content | None) -> FormedMessage:
        """Return what the clients get of a message of a topic."""
        fields: dict[str, Any] = {"type": "message" if content is not None else "lost", "topic": name}
        if position is not None:
            fields["position"] = str(position)
        return self._formed(fields, content)

    def prepare_direct(self, content: Content) -> FormedMessage:
        """Return what a client gets of a message that was sent to its connection or its user, not on a topic."""
        return self._formed({"type": "message"}, content)

    def prepare_presence(self, name: str, diff: PresenceDiff) -> FormedMessage:
        """Return what the clients get of changes of presence in a topic."""
        changed = {key: after for key, (_, after) in diff.changed.items()}
        fields = {"type": "presence", "topic": name, "joined": diff.joined, "left": list(diff.left), "changed": changed}
        return FormedMessage(encoded(self._codec, fields))

    def _formed(self, fields: dict[str, Any], content: Content | None) -> FormedMessage:
        if is_object_content(content):
            try:
                return FormedMessage(encoded(self._codec, fields | {"data": object_in(content)}))
            except (TypeError, ValueError, OverflowError, RecursionError, InvalidMessage) as exc:
                # Another program can have published anything, and other codecs have values that JSON has not.
                if logger.isEnabledFor(logging.DEBUG):  # every message of the topic can come here
                    logger.debug(
                        "clients get an object as %r carries it: %s",
                        fields.get("topic"),
                        one_line(str(exc)),
                        extra=log_fields("message.no_form", topic=str(fields.get("topic")), error=str(exc)),
                    )
                content = str(content) if isinstance(content, str) else bytes(content)
        if isinstance(content, str) or (content is not None and self._codec.is_binary):
            fields["data"] = content
        elif content is not None:
            fields["base64"] = b64encode(content).decode()
        return FormedMessage(encoded(self._codec, fields))


def encoded(codec: Codec, fields: dict[str, Any]) -> str | bytes:
    """Return a message in a codec. MessagePack has integers of 64 bits, so a larger one becomes text there.

    Raises:
        TypeError: a part of the message has no form in the codec.
        ValueError: a part of the message is out of range.
    """
    try:
        return codec.encode(fields)
    except OverflowError:
        return codec.encode(_with_small_integers(fields))


def _with_small_integers(value: Any) -> Any:
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    if isinstance(value, dict):
        return {key: _with_small_integers(one) for key, one in value.items()}
    return [_with_small_integers(one) for one in value] if isinstance(value, list) else value
