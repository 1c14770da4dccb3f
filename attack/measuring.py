"""One run: clients before, during and after an attack, and what the server takes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import anyio

from attack.clients import Outcome, chat, come_and_go
from attack.link import Attack
from attack.processes import HERE, Child, ServerKind, run_child
from attack.results import SETTLE_SECONDS, Result, Usage

CLIENTS = 100
NEW_CLIENTS = 4
INTERVAL = 0.25  # seconds
#: Bytes at which a server is killed, so that the machine survives it.
KILLED_AT = 4 << 30
_START_SECONDS = 60
_ANSWER_SECONDS = 20
_LOOK_SECONDS = 0.05


def memory(pid: int) -> int:
    """Return the resident memory of a process in bytes; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def reset_peak(pid: int) -> None:
    """Let the kernel measure the most resident memory of a process anew."""
    with suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_memory(pid: int) -> int:
    """Return the most resident memory of a process since `reset_peak`, in bytes; 0 if it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


async def usage(server: Child) -> Usage:
    """Return what a server uses now."""
    answer = await server.ask(_ANSWER_SECONDS) if server.status is None else None
    try:
        files = len(os.listdir(f"/proc/{server.pid}/fd"))
    except OSError:
        files = 0
    if answer is None:
        return Usage(memory(server.pid), files)
    return Usage(memory(server.pid), files, answer["tasks"], answer["stats"])


class Run:
    """One run of attacks on a server.

    Args:
        attacks: run together.
        server: its process.
        ports: its ports by name.
        seconds: how long the attack takes.
        share: the part of the attackers of each attack that attacks.
    """

    def __init__(
        self, attacks: Sequence[Attack], server: Child, ports: dict[str, int], seconds: float, share: float
    ) -> None:
        self._server = server
        self._ports = ports
        self._seconds = seconds
        self._share = share
        self._quiet_seconds = min(2, max(0.5, seconds / 3))
        self._ended = asyncio.Event()
        self.result = Result(attacks, Outcome())

    async def measure(self) -> Result:
        """Run the clients and the attack; return what happened."""
        result, begin, ready = self.result, asyncio.Event(), asyncio.Semaphore(0)
        port = self._ports["plain"]
        clients = [
            asyncio.create_task(chat(port, str(number), INTERVAL, result.outcome, ready, begin))
            for number in range(CLIENTS)
        ]
        with anyio.fail_after(_START_SECONDS):
            for _ in range(CLIENTS):
                await ready.acquire()
        begin.set()
        await asyncio.sleep(self._quiet_seconds)
        result.before = await usage(self._server)
        reset_peak(self._server.pid)
        watching = asyncio.create_task(self._keep_watching())
        await self._attack()
        result.outcome.phase = "after"
        await self._settle()
        watching.cancel()
        result.outcome.stopping.set()
        await asyncio.gather(*clients)
        return result

    async def _attack(self) -> None:
        result, over = self.result, asyncio.Event()
        names = [attack.name for attack in result.attacks]
        arguments = (json.dumps(self._ports), str(self._share), *names)
        result.outcome.phase = "during"
        new = [
            asyncio.create_task(come_and_go(self._ports["plain"], INTERVAL, result.outcome, over))
            for _ in range(NEW_CLIENTS)
        ]
        async with run_child(sys.executable, HERE / "attacker.py", *arguments, processor=-1) as attacker:
            if await attacker.read(_START_SECONDS) is None:
                raise RuntimeError(f"the attackers did not start: {attacker.log()}")
            with anyio.move_on_after(self._seconds):
                await self._ended.wait()
            tally = await attacker.ask(_ANSWER_SECONDS)
            if tally is None:
                raise RuntimeError(f"the attackers did not answer: {attacker.log()}")
            result.tally = tally
        over.set()
        await asyncio.gather(*new)

    async def _keep_watching(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self._watch()

    def _watch(self) -> None:
        """Notice the peak of the memory, and the end of the server; kill it if it takes too much."""
        result = self.result
        result.peak = max(result.peak, peak_memory(self._server.pid))
        if result.ended is None and result.peak > KILLED_AT:
            self._server.kill()
            result.ended = f"the server was killed at {KILLED_AT >> 30} GiB"
        if result.ended is None and self._server.status is not None:
            result.ended = f"the server ended with {self._server.status}"
        if result.ended is not None:
            self._ended.set()

    async def _settle(self) -> None:
        """Wait until the server is back at its level, and at least as long as before the attack."""
        result, began = self.result, time.monotonic()
        while result.settled is None and result.ended is None and time.monotonic() - began < SETTLE_SECONDS:
            result.after = await usage(self._server)
            self._watch()
            if result.after.is_at_level_of(result.before):
                result.settled = time.monotonic() - began
            else:
                await asyncio.sleep(_LOOK_SECONDS)
        await asyncio.sleep(self._quiet_seconds - (time.monotonic() - began))
        result.after.memory = memory(self._server.pid)


async def measure(attacks: Sequence[Attack], kind: ServerKind, seconds: float, share: float = 1) -> Result:
    """Run attacks together on a new server; return what happened.

    Args:
        attacks: the attacks.
        kind: the server.
        seconds: how long they take.
        share: the part of the attackers of each attack that attacks.

    Raises:
        RuntimeError: the server did not start.
    """
    arguments = tuple(argument for attack in attacks for argument in attack.server)
    async with kind.run(arguments) as (server, ports):
        run = Run(attacks, server, ports, seconds, share)
        try:
            return await run.measure()
        finally:
            run.result.log = server.log()


def perform(attacks: Sequence[Attack], kind: ServerKind, seconds: float, share: float = 1) -> Result:
    """Run attacks as `measure` does, on an event loop of their own."""
    return asyncio.run(measure(attacks, kind, seconds, share))
