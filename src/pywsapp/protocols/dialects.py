"""The protocols that a `TopicComponent` speaks, by their subprotocols; each is made when the first client wants it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from pywsapp.codecs.base import Codec
from pywsapp.codecs.json_codec import JsonCodec
from pywsapp.codecs.message_pack import MessagePackCodec
from pywsapp.protocols.topics_v1.session import TopicsV1

if TYPE_CHECKING:
    from pywsapp.protocols.conversation import Dialect

TOPICS_V1 = "pywsapp.topics.v1"
TOPICS_V1_MSGPACK = "pywsapp.topics.v1.msgpack"


@functools.cache
def _codec(kind: type[Codec]) -> Codec:
    return kind()


@functools.cache
def _topics_v1(kind: type[Codec]) -> Dialect:
    return TopicsV1(_codec(kind))


#: The preferred one first; the first one is also that of clients that offer none.
DIALECTS: dict[str, Callable[[], Dialect]] = {TOPICS_V1: functools.partial(_topics_v1, JsonCodec)}
if find_spec("msgspec") is not None:
    DIALECTS[TOPICS_V1_MSGPACK] = functools.partial(_topics_v1, MessagePackCodec)


def dialect_of(subprotocol: str | None) -> Dialect:
    """Return the protocol of a connection."""
    return DIALECTS.get(subprotocol or TOPICS_V1, DIALECTS[TOPICS_V1])()


def codecs_of_dialects() -> Iterable[Codec]:
    """Return the codecs in which clients call procedures."""
    return _codec(JsonCodec), _codec(MessagePackCodec)
