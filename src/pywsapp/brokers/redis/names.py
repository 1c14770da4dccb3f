"""The names of channels and keys in Redis."""

from __future__ import annotations

import re

from pywsapp.exceptions import ConfigurationError

_GLOB_CHARACTERS = re.compile(rb"[*?\[\\]")


class RedisNames:
    """The names that topics have in Redis.

    Redis Cluster computes the slot of a key or channel from what its first braces hold. So the keys of a topic, and on
    a cluster its channel too, have the topic in braces: all of them are then on one node.

    Args:
        prefix: the beginning of all names, without braces.
        sharded: whether sharded pub/sub is used, so that a channel must be in the slot of its topic's keys.

    Raises:
        ConfigurationError: the prefix contains a brace.
    """

    def __init__(self, prefix: str, *, sharded: bool) -> None:
        if "{" in prefix or "}" in prefix:
            raise ConfigurationError(
                f"the Redis prefix {prefix!r} contains a brace: Redis Cluster gives braces a meaning"
            )
        self.sharded = sharded
        self._prefix = prefix
        self._before_topic = f"{prefix}{{".encode() if sharded else prefix.encode()
        self._after_topic = b"}" if sharded else b""

    def key_prefix(self, topic: str) -> str:
        """Return what the names of a topic's keys begin with."""
        return f"{self._prefix}{{{_escaped(topic)}}}"

    def channel(self, topic: str) -> bytes:
        """Return the channel of a topic."""
        return (self.key_prefix(topic) if self.sharded else f"{self._prefix}{topic}").encode()

    def topic(self, channel: bytes) -> str:
        """Return the topic of a channel."""
        name = channel[len(self._before_topic) : len(channel) - len(self._after_topic)].decode("utf-8", "replace")
        return name[1:] if self.sharded and name[:1] == "\\" else name

    def channel_pattern(self, beginning: str) -> bytes:
        """Return the pattern of Redis for all topics with this beginning."""
        return _GLOB_CHARACTERS.sub(rb"\\\g<0>", f"{self._prefix}{beginning}".encode()) + b"*"


def _escaped(topic: str) -> str:
    """Escape a topic that begins with a closing brace, since the braces around it would be empty for Redis."""
    return f"\\{topic}" if topic[0] in "}\\" else topic
