"""The connection of one process to Redis: batches of commands, sent to the server that each topic belongs to."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

import anyio

from pywsapp._clients.redis_connection import Command
from pywsapp._clients.redis_url import RedisUrl
from pywsapp.brokers.base import BrokerConnection, Kept, Outgoing, Position, Receive
from pywsapp.brokers.redis.history import append_command, decode_payload, parse_history, payload_of, read_command
from pywsapp.brokers.redis.names import RedisNames
from pywsapp.brokers.redis.nodes import RedisNode, RedisNodes
from pywsapp.exceptions import ConfigurationError
from pywsapp.topics.names import TopicPattern, without_included

#: The types of replies that are published messages.
_MESSAGE_TYPES = (b"message", b"smessage", b"pmessage")


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
                command: Command = ("PSUBSCRIBE", *map(self._names.channel_pattern, prefixes))
                await node.subscriptions.execute([command], len(prefixes))
        await self._subscribe("SUBSCRIBE", [pattern.text for pattern in self._patterns if pattern.prefix is None])

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        publish = "SPUBLISH" if self._names.sharded else "PUBLISH"
        batches: dict[RedisNode, list[Command]] = {}
        with_script: set[RedisNode] = set()
        for topic, data, keep in messages:
            channel = self._names.channel(topic)
            node = self._nodes.of_channel(channel)
            commands = batches.setdefault(node, [])
            if keep is None:
                commands.append((publish, channel, payload_of(data)))
                continue
            # The first one of a batch carries the whole script, so it does not matter whether the server has forgotten
            # the script.
            commands.append(
                append_command(
                    self._names.key_prefix(topic),
                    self._run_id(node),
                    keep,
                    data,
                    (publish, channel),
                    by_hash=node in with_script,
                )
            )
            with_script.add(node)
        await _gather(node.commands.execute(commands) for node, commands in batches.items())

    async def subscribe(self, topics: Sequence[str]) -> None:
        await self._subscribe("SUBSCRIBE", [topic for topic in topics if not self._is_covered(topic)])

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        await self._subscribe("UNSUBSCRIBE", [topic for topic in topics if not self._is_covered(topic)])

    def _is_covered(self, topic: str) -> bool:
        """Return whether a pattern brings a topic. Redis would send each message once more for a subscription."""
        return any(pattern.matches(topic) for pattern in self._patterns)

    async def _subscribe(self, command: str, topics: Sequence[str]) -> None:
        channels: dict[RedisNode, list[bytes]] = {}
        for channel in map(self._names.channel, topics):
            channels.setdefault(self._nodes.of_channel(channel), []).append(channel)
        commands: dict[RedisNode, list[Command]]
        if self._names.sharded:  # all channels of one command would have to be in one slot
            commands = {node: [("S" + command, name) for name in names] for node, names in channels.items()}
        else:
            commands = {node: [(command, *names)] for node, names in channels.items()}
        await _gather(node.subscriptions.execute(commands[node], len(names)) for node, names in channels.items())

    async def read_history(self, topic: str, since: Position | None, max_bytes: int | None = None) -> Kept:
        node = self._nodes.of_channel(self._names.channel(topic))
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


async def _gather(work: Iterable[Coroutine[Any, Any, object]]) -> None:
    """Run coroutines at the same time; there may be none."""
    await asyncio.gather(*work)
