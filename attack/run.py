#!/usr/bin/env python3
"""Attack a server while 100 other clients use it, and check that they are served.

    run.py                                  every attack, 10 seconds each, on asyncio
    run.py fragments bombs --loop uvloop    two attacks
    run.py --seconds 1 --outcomes           short runs that check outcomes and memory, but no latencies

For each attack a new server process runs on a processor of its own if there are two. The clients exchange 16-byte
messages, and others connect anew all the time. The output has the latency of their echoes, the time of their handshakes
and the memory of the server.

Exit status: 1 if a client was not served, if 1 % of the echoes took longer than 100 ms, or if the server took more than
its memory; 2 if a server did not start.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import anyio

# Started as a program, only this file's folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from attack.attacks import ATTACKS, Attack, keep_attacking
from attack.clients import Outcome, chat, come_and_go

CLIENTS = 100
NEW_CLIENTS = 4
INTERVAL = 0.25  # seconds
MAX_LATENCY = 0.1  # seconds, of 99 % of the echoes
#: Bytes that the server may take beside those before the attack: 4 MiB for each attacking connection, at most 50.
MAX_MEMORY = 200 * 1024 * 1024
_START_SECONDS = 30


@contextlib.contextmanager
def running_server(loop: str) -> Iterator[tuple[int, int]]:
    """Run the server; return its process ID and its port."""
    script = str(Path(__file__).with_name("server.py"))
    with subprocess.Popen([sys.executable, script, "--loop", loop], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise SystemExit(2)
            pin(process.pid, 0)
            yield process.pid, int(line)
            if process.poll() is not None:
                raise SystemExit(f"the server ended with {process.returncode}")
        finally:
            process.kill()


def pin(pid: int, number: int) -> None:
    """Let a process run on one of the processors only, if there are several."""
    if not hasattr(os, "sched_setaffinity"):
        return
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) > 1:
        os.sched_setaffinity(pid, {processors[number]})


def memory(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def attack_forever(name: str, port: int) -> None:
    """Attack until the process is killed."""
    asyncio.run(keep_attacking(ATTACKS[name], port))


async def measure(attack: Attack, port: int, pid: int, seconds: float) -> tuple[Outcome, int]:
    """Run the clients during an attack; return what they saw, and how much memory the server took."""
    outcome, begin, ready = Outcome(), asyncio.Event(), asyncio.Semaphore(0)
    tasks = [asyncio.create_task(chat(port, INTERVAL, outcome, ready, begin)) for _ in range(CLIENTS)]
    tasks += [asyncio.create_task(come_and_go(port, INTERVAL, outcome, begin)) for _ in range(NEW_CLIENTS)]
    with anyio.fail_after(_START_SECONDS):
        for _ in range(CLIENTS):
            await ready.acquire()
    before = most = memory(pid)
    attacker = multiprocessing.get_context("spawn").Process(target=attack_forever, args=(attack.name, port))
    attacker.start()
    try:
        pin(attacker.pid or 0, -1)
        begin.set()
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            await asyncio.sleep(0.05)
            most = max(most, memory(pid))
    finally:
        attacker.kill()
        attacker.join()
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            outcome.failures.append(f"a client failed: {result!r}")
    await asyncio.sleep(0)  # the transports that the clients aborted end
    return outcome, most - before


def percentile(values: list[float], part: float) -> float:
    """Return the value that `part` of the values do not exceed; infinity without values."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))] if values else float("inf")


def faults(outcome: Outcome, grown: int, *, latencies: bool) -> list[str]:
    """Return what was not as promised."""
    found = sorted(set(outcome.failures))
    if not outcome.latencies or not outcome.handshakes:
        found.append("no client was served")
    if latencies and percentile(outcome.latencies, 0.99) > MAX_LATENCY:
        found.append(f"1 % of the echoes took longer than {1000 * MAX_LATENCY:g} ms")
    if grown > MAX_MEMORY:
        found.append(f"the server took {grown >> 20} MiB, more than {MAX_MEMORY >> 20} MiB")
    return found


def perform(attack: Attack, loop: str, seconds: float) -> tuple[Outcome, int]:
    """Run one attack on a new server; return what the clients saw, and how much memory the server took in bytes."""
    with running_server(loop) as (pid, port):
        return asyncio.run(measure(attack, port, pid, seconds))


def main() -> int:
    """Run the attacks, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"{', '.join(ATTACKS)}; all by default")
    parser.add_argument("--loop", choices=["asyncio", "uvloop", "trio"], default="asyncio")
    parser.add_argument("--seconds", type=float, default=10, help="of each attack (default: 10)")
    parser.add_argument("--outcomes", action="store_true", help="check no latencies")
    args = parser.parse_args()
    unknown = set(args.attacks) - set(ATTACKS)
    if unknown:
        parser.error(f"there is no attack {min(unknown)!r}")
    print(f"{'attack':22} {'echoes':>7} {'median':>9} {'99 %':>9} {'longest':>9} {'handshake':>10} {'memory':>9}")
    failed = False
    for name in args.attacks or ATTACKS:
        outcome, grown = perform(ATTACKS[name], args.loop, args.seconds)
        found = faults(outcome, grown, latencies=not args.outcomes)
        times = [statistics.median(outcome.latencies or [float("inf")])]
        times += [percentile(outcome.latencies, 0.99), percentile(outcome.latencies, 1)]
        times.append(percentile(outcome.handshakes, 0.99))
        cells = [f"{1000 * seconds:9.1f}" for seconds in times]
        print(f"{name:22} {len(outcome.latencies):7}", *cells, f"{grown / (1 << 20):7.1f} MiB", flush=True)
        for fault in found:
            print(f"    {fault}")
        failed = failed or bool(found)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
