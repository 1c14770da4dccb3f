#!/usr/bin/env python3
"""The attacking process: it prints a line when its attacks have begun, and what the server did when a line arrives.

attacker.py '{"plain": 8080}' fragments bombs
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from contextlib import suppress
from pathlib import Path

import anyio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from attack.control import raise_file_limit
from attack.link import Attack, Target
from attack.table import ATTACKS

_STARTED_AT_ONCE = 20
_PAUSE = 0.01
_BEGIN_SECONDS = 20


async def keep_attacking(attack: Attack, target: Target, attackers: int) -> None:
    """Run an attack until cancelled."""

    async def attacker() -> None:
        while True:
            with suppress(OSError):
                await attack.behave(target)
            await asyncio.sleep(_PAUSE)

    async with anyio.create_task_group() as tasks:
        for number in range(attackers):
            tasks.start_soon(attacker)
            if number % _STARTED_AT_ONCE == 0:  # more would overflow the queue of the listening socket
                await asyncio.sleep(_PAUSE / 5)


def has_begun(attack: Attack, target: Target) -> bool:
    """Return whether an attack has opened its first WebSocket, if it opens any."""
    return "101" not in attack.outcomes or target.tally["101"] > 0


async def attack_until_line(ports: dict[str, int], share: float, names: list[str]) -> None:
    """Run attacks together until a line arrives, and print what the server did to each of them.

    Args:
        ports: the ports of the server by name.
        share: the part of the attackers of each attack that attacks.
        names: the attacks.
    """
    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, stop.set)
    targets = {name: Target(ports) for name in names}
    async with anyio.create_task_group() as tasks:
        for name, target in targets.items():
            attackers = math.ceil(ATTACKS[name].attackers * share)
            tasks.start_soon(keep_attacking, ATTACKS[name], target, attackers)
        with anyio.move_on_after(_BEGIN_SECONDS):
            while not all(has_begun(ATTACKS[name], target) for name, target in targets.items()):  # noqa: ASYNC110
                await asyncio.sleep(_PAUSE)  # a tally has no event
        print(json.dumps(names), flush=True)
        await stop.wait()
        tally = {name: target.tally.copy() for name, target in targets.items()}
        tasks.cancel_scope.cancel()
    print(json.dumps(tally), flush=True)


if __name__ == "__main__":
    raise_file_limit()
    asyncio.run(attack_until_line(json.loads(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
