"""The codec in which the objects of a topic travel; see `App.topic_codec`."""

from __future__ import annotations

from collections.abc import Iterator

from pywsapp._messages.objects import codec_named
from pywsapp.codecs.base import Codec
from pywsapp.codecs.protobuf import ProtobufCodec
from pywsapp.exceptions import ConfigurationError
from pywsapp.topics.names import TopicPattern


class TopicCodecs:
    """The codecs of topics, by patterns. The topic registry creates one, and so does a publisher."""

    def __init__(self) -> None:
        self._rules: list[tuple[TopicPattern, Codec]] = []

    def __iter__(self) -> Iterator[tuple[TopicPattern, Codec]]:
        return iter(self._rules)

    def add(self, pattern: TopicPattern, codec: Codec) -> None:
        """Use a codec for the topics of a pattern that no earlier pattern matches.

        Raises:
            ConfigurationError: it is no codec, or a ProtobufCodec without a class.
        """
        if not isinstance(codec, Codec):
            raise ConfigurationError(f"a topic has one codec, an object such as MessagePackCodec(), not {codec!r}")
        if isinstance(codec, ProtobufCodec) and codec.kind is None:
            raise ConfigurationError("the codec of a topic needs the class of its objects: ProtobufCodec(MyClass)")
        self._rules.append((pattern, codec))

    def find(self, name: str) -> Codec | None:
        """Return the codec of a topic; None for JSON."""
        return next((codec for pattern, codec in self._rules if pattern.matches(name)), None)

    def named(self, topic: str, name: str) -> Codec | None:
        """Return the codec of a name, for objects on a topic; None if there is none.

        The name comes from another process, or from a history that was written before the topic had its codec. So the
        codecs that need no class are known on each topic.

        Raises:
            ConfigurationError: the library of the codec is not installed.
        """
        own = self.find(topic)
        return own if own is not None and own.name == name else codec_named(name)
