"""The Redis servers of one broker connection: a single server, or the masters of a cluster.

On a cluster, a channel and the keys of its topic belong to a slot, and each slot belongs to one master. When slots move
or a master fails, a server says so by a reply (MOVED, or a subscription that ends unasked), or its connection is lost.
The whole broker connection counts as lost then, and the next one reads the table of slots anew. A slot without a master
loses nothing but the messages of its own topics.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

from redis.crc import key_slot

from pywsapp._clients.redis_connection import RedisConnection
from pywsapp._clients.redis_url import RedisUrl
from pywsapp.exceptions import BrokerUnavailable

_SLOTS = 16384
#: Seconds between two questions whether a slot without a master has one now.
_CHECK_SECONDS = 1.0


class RedisNode:
    """The two connections to one server.

    Attributes:
        run_id: a random name that the server chooses each time it starts.
    """

    def __init__(self, commands: RedisConnection, subscriptions: RedisConnection) -> None:
        self.commands = commands
        self.subscriptions = subscriptions
        self.run_id = b""

    async def open(self) -> None:
        """Connect twice.

        Raises:
            BrokerUnavailable: the server is a replica.
            Exception: the server cannot be reached, or refuses the login.
        """
        await self.commands.open()
        await self.subscriptions.open()
        server, replication = await self.commands.execute([("INFO", "server"), ("INFO", "replication")])
        if b"role:slave" in replication:
            raise BrokerUnavailable("the server is a replica: other servers do not get what is published there")
        if found := re.search(rb"run_id:(\w+)", server):
            self.run_id = found[1]

    async def aclose(self) -> None:
        await self.commands.aclose()
        await self.subscriptions.aclose()


class RedisNodes:
    """All servers of one broker connection.

    Args:
        url: the server, or any node of the cluster.
        health_seconds: seconds of silence after which a connection is lost.
        on_lost: as in `RedisConnection`, for all connections.
        on_message: as in `RedisConnection`, for those with subscriptions.
    """

    def __init__(
        self,
        url: RedisUrl,
        health_seconds: float,
        on_lost: Callable[[Exception], None],
        on_message: Callable[[Any], bool],
    ) -> None:
        self._url = url
        self._health_seconds = health_seconds
        self._on_lost = on_lost
        self._on_message = on_message
        self._nodes: list[RedisNode] = []
        self._slots: list[RedisNode | None] | None = None  # the master of each slot, on a cluster
        self._next_check = 0.0  # of slots without a master, in seconds of the loop's clock

    async def open_single(self) -> RedisNode:
        """Connect to the single server. Call `aclose` even if this raises."""
        return await self._open_node()

    async def open_cluster(self) -> None:
        """Connect to all masters of the cluster. Call `aclose` even if this raises."""
        seed = await self._open_node()
        (slots,) = await seed.commands.execute([("CLUSTER", "SLOTS")])
        masters: dict[tuple[bytes, int], RedisNode] = {}
        slots_of: list[RedisNode | None] = [None] * _SLOTS
        for first, last, (host, port, *_), *_ in slots:
            if (host, port) not in masters:
                address = {"host": host.decode()} if host else {}  # no host means the host of the seed
                masters[host, port] = await self._open_node(**address, port=port)
            slots_of[first : last + 1] = [masters[host, port]] * (last + 1 - first)
        self._slots = slots_of
        self._nodes.remove(seed)
        await seed.aclose()

    async def _open_node(self, **address: Any) -> RedisNode:
        def connection(on_message: Callable[[Any], bool] | None) -> RedisConnection:
            return RedisConnection(self._url.new_connection(**address), self._health_seconds, self._on_lost, on_message)

        node = RedisNode(connection(None), connection(self._on_message))
        self._nodes.append(node)
        await node.open()
        return node

    def of_channel(self, channel: bytes) -> RedisNode | None:
        """Return the server that carries a channel; None if the slot of the channel has no master."""
        return self._nodes[0] if self._slots is None else self._slots[key_slot(channel)]

    async def check_unserved(self) -> None:
        """Check whether a slot that had no master has one now; the cluster is asked once a second at most.

        Raises:
            BrokerUnavailable: it has; the next connection uses the new table of slots.
        """
        now = asyncio.get_running_loop().time()
        if self._slots is None or now < self._next_check:
            return
        self._next_check = now + _CHECK_SECONDS
        (slots,) = await self._nodes[0].commands.execute([("CLUSTER", "SLOTS")])
        for first, last, *_ in slots:
            if None in self._slots[first : last + 1]:
                raise BrokerUnavailable("the slots of the cluster have changed")

    async def aclose(self) -> None:
        for node in self._nodes:
            await node.aclose()
