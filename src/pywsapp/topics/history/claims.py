"""Ids that are used once by all processes that share histories: the signatures of HTTP requests.

A history accepts a message with an id once (`Keep.id`). So a process that wants to use an id publishes a random token
with this id on a reserved topic, and then reads whether the history has its token. It works with every broker that
keeps histories, and the ids outlive the processes. Without such a broker each process has its own ids.

A history remembers a limited number of ids. So there are several topics for each minute, and a topic that has accepted
`MAX_IDS` of them accepts no more. The minute is that of the id, so an id belongs to one topic.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import anyio

from pywsapp.brokers.base import Keep
from pywsapp.exceptions import BrokerUnavailable, OutcomeUnknown, PywsappError
from pywsapp.topics.history.memory_store import MAX_PUBLISHERS, REMEMBERED, MemoryHistory
from pywsapp.topics.names import RESERVED

if TYPE_CHECKING:
    from pywsapp.brokers.relay import Relay

#: Ids that one topic accepts. There are 16 topics for each minute.
MAX_IDS = MAX_PUBLISHERS - 100
#: Seconds for which an id is remembered, at least.
SECONDS = 600
#: Seconds that a claim may take.
_CLAIM_SECONDS = 10.0


class TooManyClaims(PywsappError):
    """There are so many ids in one minute that one could be forgotten."""


async def claim(moment: int, name: str, relay: Relay | None, memory: MemoryHistory) -> bool:
    """Return whether an id is used for the first time. Blocks until the broker has answered.

    Args:
        moment: the time in the id, in seconds since 1970, which is not wrong by more than `SECONDS` / 2.
        name: the id, hexadecimal and at random.
        relay: the relay to the broker; None without one.
        memory: the histories of this process.

    Raises:
        BrokerUnavailable: the broker does not answer.
        TooManyClaims: there are too many ids.
    """
    topic = f"{RESERVED}used:{moment // 60}:{name[0]}"
    token = secrets.token_hex(8).encode()
    keep = Keep((name, 1), 2 * MAX_PUBLISHERS, SECONDS / REMEMBERED)
    if relay is None or not relay.broker.keeps_history:
        _check(memory.read(topic, None).position.offset)
        return memory.append(topic, token, keep) is not None
    try:
        with anyio.fail_after(_CLAIM_SECONDS):
            return await _claim_on(relay, topic, token, keep)
    except TimeoutError:
        raise BrokerUnavailable(f"{relay.broker.name} has not answered in time") from None


async def _claim_on(relay: Relay, topic: str, token: bytes, keep: Keep) -> bool:
    connection = relay.connection
    if connection is None:
        raise BrokerUnavailable(f"{relay.broker.name} is not connected")
    before = (await connection.read_history(topic, None)).position
    _check(before.offset)
    try:
        await relay.publish(topic, token, keep)
    except OutcomeUnknown as exc:  # of the claim only; the caller has published nothing
        raise BrokerUnavailable(str(exc)) from None
    kept = await connection.read_history(topic, before)
    return any(data == token for _, data in kept.messages)


def _check(offset: int) -> None:
    if offset >= MAX_IDS:
        raise TooManyClaims(f"there are more than {MAX_IDS} ids")
