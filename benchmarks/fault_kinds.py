"""The kinds of faults of a fault run, and what injects them at random moments."""

from __future__ import annotations

import argparse
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import anyio
import anyio.to_thread
from support.services import Redis

from benchmarks.fault_clients import Client
from benchmarks.fault_servers import Setup, is_running, send_signal

#: The shortest and the longest time of faults that end by themselves, in seconds.
AWAY_SECONDS = (0.2, 3.0)
FROZEN_SECONDS = (1.0, 6.0)
FULL_SECONDS = (0.5, 5.0)
CUT_SECONDS = (0.5, 8.0)
#: Each server gets a time of its own from these, until its connections to the broker are forwarded again.
HELD_BACK_SECONDS = (0.0, 8.0)
#: Seconds in which the supervisor must replace a worker that hangs; the supervisor itself can be frozen meanwhile.
_REPLACED_SECONDS = 40.0
_KILLED = "was killed by SIGKILL"
_HUNG = "hangs and is killed: its event loop has not run|the stacks of worker|does not end in time and is killed"
#: A worker can be stopped before it listens.
_STOPPED = f"{_HUNG}|hangs and is killed: it has not begun to listen"
_UNAVAILABLE = "is unavailable|has been unavailable for"


class Kind(NamedTuple):
    """A kind of faults.

    Args:
        name: its name in the command line.
        counted_as: its name in the results.
        every: seconds between two of them, on average.
        what: what happens, for the help.
        needs: what `Setup.has` must have.
        explains: a regular expression for the errors in the logs that it explains.
    """

    name: str
    counted_as: str
    every: float
    what: str
    needs: str = ""
    explains: str = "(?!)"


KINDS = {
    kind.name: kind
    for kind in (
        Kind("kill", "workers killed", 3.0, "a worker is killed", explains=_KILLED),
        Kind("stop", "workers stopped", 7.0, "a worker is stopped for a moment", explains=f"{_STOPPED}|{_KILLED}"),
        Kind("hang", "workers hung", 20.0, "a worker hangs until it is replaced", explains=f"{_HUNG}|{_KILLED}"),
        Kind("reload", "replacements of all workers", 15.0, "a server replaces all workers"),
        Kind("disconnect", "connections broken", 0.3, "a client breaks its connection"),
        Kind("freeze", "broker frozen", 20.0, "the broker, or the supervisor, is frozen", explains=_UNAVAILABLE),
        Kind("restart", "broker restarted", 12.0, "the broker is killed and restarted", "broker", _UNAVAILABLE),
        Kind("fill", "Redis full", 20.0, "Redis has no memory left", "redis", "refused .*OutOfMemoryError"),
        Kind("late", "uneven reconnects", 20.0, "servers lose the broker for different times", "broker", _UNAVAILABLE),
        Kind("cut", "network cut", 20.0, "no packet passes between servers and broker", "network", _UNAVAILABLE),
        Kind("mute", "answers cut", 20.0, "no packet of the broker reaches the servers", "network", _UNAVAILABLE),
    )
}


class Faults:
    """Injects faults into a run.

    Args:
        args: the options of `faults.py`.
        setup: the servers and the broker.
        clients: the clients, whose connections are broken.
        accepted: returns the number of messages that were accepted so far.
        rng: chooses the victims and the moments.

    Attributes:
        counts: how many faults of each kind there were.
        latest: when the latest fault of each kind began, by its name, in seconds of the monotonic clock.
        accepted_meanwhile: how many messages were accepted during the faults of each kind.
        problems: what did not recover, as texts.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        setup: Setup,
        clients: Sequence[Client],
        accepted: Callable[[], int],
        rng: random.Random,
    ) -> None:
        self._args = args
        self._setup = setup
        self._clients = clients
        self._accepted = accepted
        self._rng = rng
        self._broker_lock = anyio.Lock()  # the faults of the broker's process do not overlap
        self.counts: Counter[str] = Counter()
        self.latest: dict[str, float] = {}
        self.accepted_meanwhile: Counter[str] = Counter()
        self.problems: list[str] = []

    async def inject(self) -> None:
        """Inject faults of all kinds for the seconds of the run."""
        async with anyio.create_task_group() as tasks:
            for name, fault in (
                ("kill", self.kill_worker),
                ("stop", self.stop_worker),
                ("hang", self.hang_worker),
                ("reload", self.replace_workers),
                ("disconnect", self.break_connection),
                ("freeze", self.freeze_broker),
                ("restart", self.restart_broker),
                ("fill", self.fill_redis),
                ("late", self.hold_back_servers),
                ("cut", self.cut_network),
                ("mute", self.cut_answers),
            ):
                if self._setup.has(KINDS[name].needs):
                    tasks.start_soon(self._repeat, name, fault)

    async def _repeat(self, name: str, fault: Callable[[], Awaitable[None]]) -> None:
        """Inject a fault at random moments, every so many seconds on average (0: never), and wait for its end.

        The first one comes within this time, so that a run which is long enough has each kind.
        """
        every, end = getattr(self._args, name), time.monotonic() + self._args.seconds
        moment = time.monotonic() + self._rng.uniform(0, every)
        while every and moment < end:
            await anyio.sleep(max(0.0, moment - time.monotonic()))
            before = self._accepted()
            await fault()
            self.accepted_meanwhile[KINDS[name].counted_as] += self._accepted() - before
            moment = time.monotonic() + self._rng.expovariate(1 / every)

    def _count(self, name: str) -> None:
        self.counts[KINDS[name].counted_as] += 1
        self.latest[name] = time.monotonic()

    # -- workers -----------------------------------------------------------------------------------------------------

    async def kill_worker(self, pid: int | None = None) -> None:
        """Kill a worker, a random one by default."""
        if pid is None:
            pid = self._random_worker()
        if pid is not None:
            send_signal(pid, signal.SIGKILL)
            self._count("kill")

    async def stop_worker(self) -> None:
        """Suspend a worker for a moment."""
        if (pid := self._random_worker()) is not None:
            send_signal(pid, signal.SIGSTOP)
            self._count("stop")
            await self._sleep(AWAY_SECONDS)
            send_signal(pid, signal.SIGCONT)

    async def hang_worker(self) -> None:
        """Suspend a worker, or block its event loop by a handler, until its supervisor has replaced it."""
        pids = [client.worker for client in self._clients if client.conn is not None and client.worker]
        if not pids:
            return
        pid, is_blocked = self._rng.choice(pids), self._rng.random() < 0.5
        self._count("hang")
        with anyio.move_on_after(_REPLACED_SECONDS):
            while is_running(pid):  # again and again, because other faults can wake it
                if is_blocked:
                    self._block(pid)
                else:
                    send_signal(pid, signal.SIGSTOP)
                await anyio.sleep(0.5)
            return
        self.problems.append(f"worker process {pid} hung for {_REPLACED_SECONDS:g} s and was not replaced")

    def _block(self, pid: int) -> None:
        for client in self._clients:
            if client.worker == pid:
                client.send_command(block=2 * _REPLACED_SECONDS)

    async def replace_workers(self) -> None:
        """Have a server replace all its workers."""
        if victims := self._setup.victims():
            self._count("reload")
            send_signal(self._rng.choice(victims).process.pid, signal.SIGHUP)

    def _random_worker(self) -> int | None:
        workers = [pid for server in self._setup.victims() for pid in server.workers()]
        return self._rng.choice(workers) if workers else None

    # -- the broker and the network ----------------------------------------------------------------------------------

    async def freeze_broker(self) -> None:
        """Suspend the broker for some seconds. The broker of the local bus is the supervisor."""
        async with self._broker_lock:
            broker, supervisor = self._setup.broker, self._rng.choice(self._setup.servers).process.pid
            broker.freeze() if broker is not None else send_signal(supervisor, signal.SIGSTOP)
            self._count("freeze")
            await self._sleep(FROZEN_SECONDS)
            broker.thaw() if broker is not None else send_signal(supervisor, signal.SIGCONT)

    async def restart_broker(self) -> None:
        """Kill the broker, and start it after some seconds."""
        assert self._setup.broker is not None
        async with self._broker_lock:
            await anyio.to_thread.run_sync(self._setup.broker.kill)
            self._count("restart")
            await self._sleep(AWAY_SECONDS)
            await anyio.to_thread.run_sync(self._setup.broker.start)

    async def fill_redis(self) -> None:
        """Let Redis have no memory for new data for some seconds; it answers each write with an error."""
        async with self._broker_lock:
            await self._limit_memory(1)
            self._count("fill")
            await self._sleep(FULL_SECONDS)
            await self._limit_memory(0)

    async def _limit_memory(self, size: int) -> None:
        assert isinstance(self._setup.broker, Redis)
        words = ("CONFIG", "SET", "maxmemory", str(size))
        assert await anyio.to_thread.run_sync(self._setup.broker.ask, *words) == "+OK"

    async def hold_back_servers(self) -> None:
        """Break the connections of all servers to the broker; each one reaches it again after a time of its own."""
        seconds = [self._rng.uniform(*HELD_BACK_SECONDS) for _ in self._setup.proxies]
        for proxy, time_of_its_own in zip(self._setup.proxies, seconds, strict=True):
            proxy.hold_back(time_of_its_own)
        self._count("late")
        await anyio.sleep(max(seconds))

    async def cut_network(self) -> None:
        """Let no packet pass between servers and broker for some seconds."""
        assert self._setup.network is not None
        await anyio.to_thread.run_sync(self._setup.network.cut)
        self._count("cut")
        await self._sleep(CUT_SECONDS)
        await anyio.to_thread.run_sync(self._setup.network.restore)

    async def cut_answers(self) -> None:
        """Let no packet of the broker reach the servers for some seconds."""
        assert self._setup.network is not None
        await anyio.to_thread.run_sync(self._setup.network.cut_answers)
        self._count("mute")
        await self._sleep(CUT_SECONDS)
        await anyio.to_thread.run_sync(self._setup.network.restore_answers)

    # -- clients -----------------------------------------------------------------------------------------------------

    async def break_connection(self) -> None:
        """Break the connection of a client."""
        self._rng.choice(self._clients).break_connection()
        self._count("disconnect")

    async def _sleep(self, limits: tuple[float, float]) -> None:
        await anyio.sleep(self._rng.uniform(*limits))
