"""Which topics keep a history, and how much of it."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from pywsapp._protocol.prepared import Sendable
from pywsapp.exceptions import ConfigurationError
from pywsapp.topics.names import TopicPattern


class Publication(NamedTuple):
    """A message of a topic with a history, before it is made into what clients get.

    Args:
        topic: the topic's name.
        position: where it stands; what a client sends back to go on from there.
        message: text or bytes; None tells that messages up to this position are lost.
    """

    topic: str
    position: str
    message: str | bytes | None


def wrap_as_json(publication: Publication) -> str:
    """Give `{"topic": ..., "position": ...}` with `"message"` for text, `"base64"` for bytes, or `"lost": true`."""
    fields: dict[str, object] = {"topic": publication.topic, "position": publication.position}
    message = publication.message
    if message is None:
        fields["lost"] = True
    elif isinstance(message, str):
        fields["message"] = message
    else:
        fields["base64"] = b64encode(message).decode()
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False)


Wrap = Callable[[Publication], Sendable]


@dataclass(frozen=True, slots=True)
class HistoryRule:
    """Which topics keep how much.

    Args:
        pattern: of their names.
        size: messages.
        seconds: how long, counted from the last one.
        wrap: makes what clients get of a publication.

    Raises:
        ConfigurationError: a number is not positive.
    """

    pattern: TopicPattern
    size: int
    seconds: float
    wrap: Wrap

    def __post_init__(self) -> None:
        if type(self.size) is not int or self.size < 1:
            raise ConfigurationError(f"a history keeps 1 message or more, not {self.size!r}")
        if not isinstance(self.seconds, (int, float)) or not self.seconds > 0:
            raise ConfigurationError(f"a history keeps messages for more than 0 seconds, not {self.seconds!r}")
