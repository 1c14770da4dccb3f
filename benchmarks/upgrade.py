#!/usr/bin/env python3
"""Replace servers of an old version of pywsapp by servers of this one, and count the messages of their clients.

    upgrade.py                          the version before is the previous commit
    upgrade.py --old v0.1.0 --nodes 6   that of a tag, and six servers
    upgrade.py --pause 10 --rate 500    more time between two steps, and more messages

All servers share one Redis. Clients publish numbered messages, or receive them from their last position on, and some
are present as users. They know the addresses of all servers, as from a load balancer. Then, for each server, one of
this version starts beside it, and SIGTERM ends the old one. After each step all servers must agree on the users who
are present. At the end everything is counted; see `fault_record`. The program needs git, Linux, the packages of the
tests and redis-server.

Exit status: 1 if a message is missing, duplicated or out of order, if its loss was reported, if servers do not agree on
the users, or if a log has an error; 2 if git does not have the old version, or redis-server is not installed.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tarfile
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

# Started as a program, only this file's folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from support.services import redis_server

from benchmarks.fault_app import HISTORY_SIZE
from benchmarks.fault_clients import Guest
from benchmarks.fault_log import unexplained
from benchmarks.fault_record import Counts
from benchmarks.fault_run import FaultRun
from benchmarks.fault_servers import Server, Setup
from benchmarks.faults import AGREEMENT_SECONDS
from benchmarks.faults import arguments as fault_arguments
from benchmarks.measure import exit_on_sigterm

ROOT = Path(__file__).resolve().parent.parent
#: What a version consists of here: the package, and the program that uses it.
_FILES = ("src", "benchmarks/fault_app.py")
#: Seconds until a server listens.
_START_SECONDS = 30.0
_GUESTS = 6


class NoVersion(Exception):
    """Git does not have the version."""


def extract(revision: str, folder: Path) -> Path:
    """Write the files of a version into a new directory, and return it.

    Raises:
        NoVersion: git is missing, this is not a repository, or it does not have the version.
    """
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", revision, *_FILES]
    try:
        archive = subprocess.run(command, check=True, capture_output=True).stdout
    except FileNotFoundError as exc:
        raise NoVersion("git is not installed") from exc
    except subprocess.CalledProcessError as exc:
        raise NoVersion(f"git has no version {revision}: {exc.stderr.decode(errors='replace').strip()}") from exc
    folder.mkdir()
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


class Upgrade(FaultRun):
    """A run in which the servers are upgraded one after the other.

    Args:
        args: the options of this program, with those of `faults.py`.
        setup: the Redis; `start` adds the servers.
        versions: the directory with the old version, and the one with this version.
        folder: a directory for logs.
    """

    def __init__(self, args: argparse.Namespace, setup: Setup, versions: tuple[Path, Path], folder: Path) -> None:
        self._old, self._new = versions
        self._folder = folder
        self.logs: list[Path] = []
        self.steps: list[str] = []
        self.problems: list[str] = []
        self._guests: list[Guest] = []
        for _ in range(args.nodes):
            setup.servers.append(self.start(args, setup, self._old))
        super().__init__(args, setup)

    def start(self, args: argparse.Namespace, setup: Setup, version: Path) -> Server:
        """Start a server of a version."""
        assert setup.broker is not None
        self.logs.append(self._folder / f"{len(self.logs)}.log")
        return Server(
            args,
            f"redis://127.0.0.1:{setup.broker.port}",
            None,
            self.logs[-1],
            program=version / _FILES[1],
            environment={"PYTHONPATH": str(version / "src"), "PYWSAPP_PURE": "1"},
        )

    async def run_messages(self) -> None:
        """Run the messages, with users who are present meanwhile."""
        self._guests = [Guest(f"guest {n}", "lobby:1", self.urls, self.new_rng()) for n in range(_GUESTS)]
        async with anyio.create_task_group() as clients:
            for guest in self._guests:
                clients.start_soon(guest.run)
            await super().run_messages()
            for guest in self._guests:
                guest.stop()

    async def disturb(self) -> None:
        """Upgrade all servers, one after the other, in place of faults."""
        await self._check("only the old version")
        for number, old in enumerate(list(self.setup.servers), 1):
            await self._replace(old)
            await self._check(f"server {number} of {self.args.nodes} replaced")

    async def _replace(self, old: Server) -> None:
        new = await anyio.to_thread.run_sync(self.start, self.args, self.setup, self._new)
        await self._until_listening(new)
        self.urls.append(new.url)  # all clients share this list
        self.urls.remove(old.url)
        await anyio.to_thread.run_sync(old.stop)
        if old.process.returncode != 0:
            self.problems.append(f"an old server ended with status {old.process.returncode}")
        self.setup.servers[self.setup.servers.index(old)] = new

    async def _until_listening(self, server: Server) -> None:
        with anyio.move_on_after(_START_SECONDS) as waited:
            while "http://" not in server.log.read_text(errors="replace"):  # noqa: ASYNC110 - of another process
                await anyio.sleep(0.05)
        if waited.cancelled_caught:
            self.problems.append(f"a server does not listen after {_START_SECONDS:g} s")

    async def _check(self, step: str) -> None:
        """Let messages pass for a while, then wait until all guests get the same users."""
        await anyio.sleep(self.args.pause)
        seconds = await self.seconds_until_agreement(self._guests)
        accepted = sum(len(record.accepted) for record in self.records.values())
        self.steps.append(f"{step}: {accepted:,} messages so far, users agreed after {seconds:.1f} s")
        if seconds >= AGREEMENT_SECONDS:
            self.problems.append(f"{step}: the servers do not agree on the users")


def stop_all(servers: list[Server]) -> None:
    for server in servers:
        server.stop()


def perform(args: argparse.Namespace) -> dict[str, Any]:
    """Run the servers and clients, upgrade the servers, and return the results.

    Raises:
        NoVersion: git does not have the old version.
    """
    with tempfile.TemporaryDirectory(prefix="pywsapp-upgrade-") as name, ExitStack() as stack:
        folder = Path(name)
        old = extract(args.old, folder / "old")
        redis = stack.enter_context(redis_server())
        setup = Setup(redis, None)
        stack.callback(stop_all, setup.servers)
        run = Upgrade(args, setup, (old, ROOT), folder)
        anyio.run(run.run)
        log = "".join(path.read_text(errors="replace") for path in run.logs)
    counts = [record.counts() for record in run.records.values()]
    return {
        "counts": {key: sum(getattr(each, key) for each in counts) for key in asdict(Counts())},
        "connects": sum(client.connects for client in (*run.listeners, *run.publishers)),
        "steps": run.steps,
        "problems": [
            *run.problems,
            *(example for record in run.records.values() for example in record.examples),
            *unexplained(log, [], levels=("WARNING", "ERROR", "CRITICAL")),
        ],
    }


def is_kept(found: dict[str, Any]) -> bool:
    """Return whether nothing was lost, doubled or reported."""
    counts = Counts(**found["counts"])
    lossless = counts.delivered == counts.expected > 0 and not counts.reported_lost and not counts.interruptions
    return lossless and counts.no_promise_broken and not found["problems"]


def report(title: str, found: dict[str, Any]) -> int:
    """Print the results, and return the exit status."""
    print(f"{title}\n")
    for line in (*found["steps"], ""):
        print(line)
    for key, number in found["counts"].items():
        print(f"{key.replace('_', ' '):32}{number:>10,}")
    print(f"{'connections of clients':32}{found['connects']:>10,}")
    for line in found["problems"]:
        print(f"  {line}")
    kept = is_kept(found)
    print("\nnothing is lost or doubled" if kept else "\nPROMISES BROKEN")
    return 0 if kept else 1


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--old", default="HEAD~1", help="a revision of git (default: %(default)s)")
    add("--nodes", type=int, default=3, help="servers (default: %(default)s)")
    add("--workers", type=int, default=2, help="of each server (default: %(default)s)")
    add("--loop", choices=("asyncio", "uvloop", "trio"), default="uvloop", help="default: %(default)s")
    add("--pause", type=float, default=5.0, help="seconds between two steps (default: %(default)s)")
    add("--rate", type=float, default=120, help="messages/s of all publishers (default: %(default)s)")
    add("--listeners", type=int, default=24, help="default: %(default)s")
    add("--publishers", type=int, default=8, help="default: %(default)s")
    add("--topics", type=int, default=2, help="default: %(default)s")
    add("--seed", type=int, default=random.randrange(1000), help="default: a random one")
    others = fault_arguments(["--broker", "redis", "--history", str(HISTORY_SIZE)])
    return argparse.Namespace(**{**vars(others), **vars(parser.parse_args(words))})


def main() -> int:
    args = arguments()
    exit_on_sigterm()
    try:
        found = perform(args)
    except (NoVersion, pytest.skip.Exception) as exc:
        print(f"upgrade.py: {exc}", file=sys.stderr)
        return 2
    return report(
        f"{args.old} to this version, {args.nodes} x {args.workers} workers on {args.loop}, seed {args.seed}", found
    )


if __name__ == "__main__":
    sys.exit(main())
