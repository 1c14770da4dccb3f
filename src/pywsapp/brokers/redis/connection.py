"""The connection of one process to Redis: batches of commands, sent to the server that each topic belongs to.

Redis answers each command by itself. An error, such as OOM or WRONGTYPE, says that one command was refused, not that
the connection is lost. The exception is a server that is not the master any more: then the connection counts as lost,
and the next one asks for the masters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import anyio
from redis.exceptions import MovedError, NoScriptError, ReadOnlyError, ResponseError

from pywsapp._clients.redis_connection import Command
from pywsapp._clients.redis_url import RedisUrl
from pywsapp.brokers.base import BrokerConnection, Kept, Outgoing, PartlyRefused, Position, Receive
from pywsapp.brokers.redis.history import append_command, decode_payload, parse_history, payload_of, read_command
from pywsapp.brokers.redis.names import RedisNames
from pywsapp.brokers.redis.nodes import RedisNode, RedisNodes
from pywsapp.exceptions import BrokerUnavailable, ConfigurationError
from pywsapp.topics.names import RESERVED, TopicPattern, without_included

#: The types of replies that are published messages.
_MESSAGE_TYPES = (b"message", b"smessage", b"pmessage")
#: Replies after which the connection is replaced: the slot, or all of them, has another master.
_OTHER_MASTER = (MovedError, ReadOnlyError)
_NO_MASTER = "a part of the cluster has no master"


class RedisBrokerConnection(BrokerConnection):
    """The connections to all servers. The whole is lost when one of them is.

    Args:
        url: the server, or any node of the cluster.
        names: the names of channels and keys.
        receive: called with each received message.
        health_seconds: seconds of silence after which a connection is lost.
        durable: as in `RedisBroker`.
    """

    def __init__(
        self, url: RedisUrl, names: RedisNames, receive: Receive, *, health_seconds: float, durable: bool
    ) -> None:
        self._names = names
        self._nodes = RedisNodes(url, health_seconds, self._note_lost, self._handle_message)
        self._durable = durable
        self._receive = receive
        self._patterns: list[TopicPattern] = []
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self, patterns: Sequence[str]) -> None:
        """Connect, and subscribe to the patterns. Call `aclose` even if this raises.

        Raises:
            ConfigurationError: there are patterns, and sharded pub/sub is used, which has none.
            Exception: a server cannot be reached, or refuses the login.
        """
        # Redis sends a message once for each pattern that matches.
        self._patterns = without_included(map(TopicPattern, patterns))
        prefixes = [pattern.prefix for pattern in self._patterns if pattern.prefix is not None]
        if self._names.sharded:
            if prefixes:
                raise ConfigurationError(
                    f"a Redis Cluster with sharded pub/sub carries no patterns such as '{prefixes[0]}*'"
                )
            await self._nodes.open_cluster()
        else:
            node = await self._nodes.open_single()
            if prefixes:
                commands = [("PSUBSCRIBE", self._names.channel_pattern(prefix)) for prefix in prefixes]
                await node.subscriptions.execute(commands)
        names = [pattern.text for pattern in self._patterns if pattern.prefix is None]
        await self._subscribe("SUBSCRIBE", names, with_covered=True)

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        async def publish_on(node: RedisNode, places: Sequence[int]) -> list[Any]:
            return await self._publish_on(node, [messages[place] for place in places])

        await self._on_nodes(enumerate(message.topic for message in messages), publish_on)

    async def _publish_on(self, node: RedisNode, messages: Sequence[Outgoing]) -> list[Any]:
        """Publish messages on the server of their topics, and return the replies."""
        commands, has_script = [], False
        for message in messages:
            # The first one of a batch carries the whole script, so it does not matter whether the server has forgotten
            # the script.
            commands.append(self._publish_command(node, message, by_hash=has_script))
            has_script = has_script or message.keep is not None
        replies = await node.commands.try_execute(commands)
        # Redis refused the first one before it has read the script.
        missed = [place for place, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missed:
            repeated = [self._publish_command(node, messages[place], by_hash=False) for place in missed]
            for place, reply in zip(missed, await node.commands.try_execute(repeated), strict=True):
                replies[place] = reply
        return replies

    def _publish_command(self, node: RedisNode, message: Outgoing, *, by_hash: bool) -> Command:
        topic, data, keep = message
        publish = "SPUBLISH" if self._names.sharded else "PUBLISH", self._names.channel(topic)
        if keep is None:
            return (*publish, payload_of(data))
        keys, run_id, is_reserved = self._names.key_prefix(topic), self._run_id(node), topic.startswith(RESERVED)
        return append_command(keys, run_id, keep, data, publish, by_hash=by_hash, is_reserved=is_reserved)

    async def subscribe(self, topics: Sequence[str]) -> None:
        await self._subscribe("SUBSCRIBE", topics)

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        await self._subscribe("UNSUBSCRIBE", topics)

    async def _subscribe(self, command: str, topics: Sequence[str], *, with_covered: bool = False) -> None:
        async def subscribe_on(node: RedisNode, places: Sequence[int]) -> list[Any]:
            return await node.subscriptions.try_execute(
                [(command, self._names.channel(topics[place])) for place in places]
            )

        command = "S" + command if self._names.sharded else command
        places = ((place, topic) for place, topic in enumerate(topics) if with_covered or not self._is_covered(topic))
        await self._on_nodes(places, subscribe_on)

    def _is_covered(self, topic: str) -> bool:
        """Return whether a pattern brings a topic. Redis would send each message once more for a subscription."""
        return any(pattern.matches(topic) for pattern in self._patterns)

    async def _on_nodes(
        self,
        topics: Iterable[tuple[int, str]],
        execute: Callable[[RedisNode, Sequence[int]], Awaitable[list[Any]]],
    ) -> None:
        """Execute a command for each topic, on the server that the topic belongs to.

        Args:
            topics: the topics, and their places in the sequence of the caller.
            execute: takes a server and the places of its topics, and returns the replies.

        Raises:
            PartlyRefused: a server refused some of the commands.
            ResponseError: a server is not the master of a topic any more.
            Exception: a connection is lost.
        """
        places: dict[RedisNode, list[int]] = {}
        refused: dict[int, str] = {}
        for place, topic in topics:
            node = self._nodes.of_channel(self._names.channel(topic))
            if node is None:
                refused[place] = _NO_MASTER
            else:
                places.setdefault(node, []).append(place)
        if refused:
            await self._nodes.check_unserved()
        replies = await asyncio.gather(*(execute(node, found) for node, found in places.items()))
        for found, answers in zip(places.values(), replies, strict=True):
            for place, reply in zip(found, answers, strict=True):
                if isinstance(reply, _OTHER_MASTER):
                    raise reply
                if isinstance(reply, ResponseError):
                    refused[place] = f"{type(reply).__name__}: {reply}"
        if refused:
            raise PartlyRefused(refused)

    async def read_history(self, topic: str, since: Position | None, max_bytes: int | None = None) -> Kept:
        node = self._nodes.of_channel(self._names.channel(topic))
        if node is None:
            raise BrokerUnavailable(_NO_MASTER)
        command = read_command(self._names.key_prefix(topic), self._run_id(node), since, max_bytes)
        (reply,) = await node.commands.execute([command])
        return parse_history(reply, since)

    def _run_id(self, node: RedisNode) -> bytes:
        """Return the run id for histories, which begin a new epoch when it changes. A durable server has none."""
        return b"" if self._durable else node.run_id

    async def wait_lost(self) -> None:
        await asyncio.shield(self._lost)

    async def aclose(self) -> None:
        self._note_lost(None)
        with anyio.CancelScope(shield=True):  # closing does not wait for a server
            await self._nodes.aclose()

    def _handle_message(self, reply: Any) -> bool:
        """Handle a reply if it is a published message, and return whether it was one."""
        if not isinstance(reply, list) or reply[0] not in _MESSAGE_TYPES:
            return False
        data, position = decode_payload(reply[-1])
        if not self._lost.done():
            self._receive(self._names.topic(reply[-2]), data, position)
        return True

    def _note_lost(self, reason: Exception | None) -> None:
        if self._lost.done():
            return
        if reason is None:
            self._lost.set_result(None)
        else:
            self._lost.set_exception(reason)
            self._lost.exception()  # no warning when no task awaits it
