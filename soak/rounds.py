"""One round of a soak run: all visitors at the same time, with faults; then the checks that no fault disturbs."""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import anyio
from benchmarks.fault_record import Counts
from benchmarks.fault_run import FaultRun
from benchmarks.fault_servers import Setup
from benchmarks.faults import is_lossless

from soak import echoes, slow, stores, topics, users
from soak.measuring import processes
from soak.topics import Lobby
from soak.users import check_users
from soak.world import Kind, Problems, Visitor, World

KINDS: tuple[Kind, ...] = (*echoes.KINDS, *topics.KINDS, *users.KINDS, *stores.KINDS, *slow.KINDS)
STORE_KINDS = [kind for kind in KINDS if kind.uses_store]
#: Seconds in which everything works again after the last fault, also on a busy machine.
RECOVERY_SECONDS = 180.0
#: How often each server must serve a session and a ticket before everything works again.
_STORE_VISITS = 3


class Round:
    """One round for the servers that share a broker.

    Args:
        args: the options of the run; `seconds` is the time of the faults.
        setup: the servers and their broker.
        name: a part of the names of its topics, which no other round has.
        samples: the directory with the numbers of the workers.
        problems: where violations go.
        counts: what is counted, over all rounds.

    Attributes:
        step: what it does now.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        setup: Setup,
        name: str,
        samples: Path,
        problems: Problems,
        counts: Counter[str],
    ) -> None:
        self.run_of_rooms = FaultRun(args, setup, path="rooms", room=f"room:{name}")
        self.world = World(args, setup, self.run_of_rooms.faults, problems, counts)
        self.lobby = Lobby(self.run_of_rooms, self.world, f"lobby:{name}")
        self.step = "faults"
        self._samples = samples
        self._visitors = [
            Visitor(self.world, kind, self.run_of_rooms.new_rng())
            for kind in KINDS
            for _ in range(max(1, round(kind.visitors * float(args.scale))))
        ]
        random.Random(args.seed).shuffle(self._visitors)

    async def run(self) -> None:
        """Run until all clients have left."""
        world = self.world
        async with anyio.create_task_group() as tasks:
            for visitor in self._visitors:
                tasks.start_soon(visitor.run)
            async with anyio.create_task_group() as guests:
                guests.start_soon(self.lobby.run)
                await self.run_of_rooms.run_messages()
                self.step = "recovery"
                await self._until_recovered()
                self.step = "presence"
                self.lobby.is_over = True
            self.step = "users"
            await check_users(world, Visitor(world, KINDS[0], self.run_of_rooms.new_rng()))
            self.step = "leaving"
            world.is_over = True
        self._count_messages()

    # -- after the faults ----------------------------------------------------------------------------------------------

    async def _until_recovered(self) -> None:
        """Wait until all workers have their broker, and each server serves sessions and tickets."""
        problems, began = self.world.problems, time.monotonic()
        with anyio.move_on_after(RECOVERY_SECONDS) as waiting:
            while not self._has_all_workers():  # noqa: ASYNC110 - processes do not tell
                await anyio.sleep(0.1)
        if waiting.cancelled_caught:
            problems.add(f"{RECOVERY_SECONDS:g} s after the last fault the workers do not all have their broker")
        with anyio.move_on_after(RECOVERY_SECONDS) as waiting:
            async with anyio.create_task_group() as tasks:
                for server in self.world.setup.servers:
                    for kind in STORE_KINDS:
                        visitor = Visitor(self.world, kind, self.run_of_rooms.new_rng(), server)
                        tasks.start_soon(self._until_served, visitor)
        if waiting.cancelled_caught:
            problems.add(f"{RECOVERY_SECONDS:g} s after the last fault sessions and tickets do not work")
        self.world.counts["longest recovery, s"] = max(
            self.world.counts["longest recovery, s"], round(time.monotonic() - began)
        )

    async def _until_served(self, visitor: Visitor) -> None:
        served = 0
        while served < _STORE_VISITS:
            served = served + 1 if await visitor.visit() else 0

    def _has_all_workers(self) -> bool:
        setup = self.world.setup
        workers = [each for each in processes(setup.servers, self._samples) if each.role == "worker"]
        return len(workers) == len(setup.servers) * self.world.args.workers and all(
            each.numbers.get("broker_connected") for each in workers
        )

    def _count_messages(self) -> None:
        """Count the messages of the rooms, and add the promises that were broken to the problems."""
        args, counts, problems = self.world.args, self.world.counts, self.world.problems
        for record in self.run_of_rooms.records.values():
            found = record.counts()
            for key, number in asdict(found).items():
                counts[f"rooms: {key.replace('_', ' ')}"] += number
            if not is_kept(found, lossless=is_lossless(args)):
                examples = "; ".join(record.examples[:3])
                problems.add(f"rooms: {broken(found)}: {examples}")
        for text in self.run_of_rooms.faults.problems:
            problems.add(text)


def is_kept(found: Counts, *, lossless: bool) -> bool:
    """Return whether a topic has kept its promises."""
    return found.no_promise_broken and not (lossless and (found.reported_lost or found.interruptions))


def broken(found: Counts) -> str:
    """Return what is not 0 and should be."""
    names = ("missing", "duplicated", "out_of_order", "skipped", "conflicting", "refused_but_delivered")
    wrong = {name: getattr(found, name) for name in (*names, "reported_lost", "interruptions") if getattr(found, name)}
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in wrong.items())
