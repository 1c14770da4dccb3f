"""For how long a server is held up while something is done to all of its connections, seen from outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import machine
from benchmarks.contestants import Contestant
from benchmarks.environment import HERE
from benchmarks.hold import CONCURRENCY, MARGIN_SECONDS, OPENING_SECONDS, holding, stdout_of
from benchmarks.measure import Bench, Failed, Server, parse, serving, wsload_command
from benchmarks.scenarios import PLAIN

QUIET_SECONDS = 5  # after opening, before the first ping is due
BROADCAST_SECONDS = 6
DRAIN_SECONDS = 45

Samples = list[tuple[float, float]]


def measure(bench: Bench, contestant: Contestant, count: int, ping_seconds: float) -> dict[str, float]:
    """Give the longest echoes in milliseconds, and how long leaving took in seconds.

    Raises:
        Failed: one of the situations could not be made.
    """
    hold = QUIET_SECONDS + ping_seconds + DRAIN_SECONDS
    with serving(bench, contestant, PLAIN) as server, holding(bench, server, count, hold):
        figures = {"quiet": longest(observe(bench, server, QUIET_SECONDS))}
        figures["ping"] = longest(observe(bench, server, ping_seconds))
        figures |= _drain(bench, server)
    with serving(bench, contestant, PLAIN) as server:
        figures["broadcast"] = longest(_broadcast(bench, server, count))
    return {name: value for name, value in figures.items() if value is not None}


@contextlib.contextmanager
def probing(bench: Bench, server: Server, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Let the probe run beside the block, from when it is connected.

    Raises:
        Failed: it cannot connect.
    """
    program = [sys.executable, str(HERE / "probe.py"), str(server.port), "--seconds", f"{seconds:g}"]
    command = machine.pinned(bench.load_cpu, program)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            if stdout_of(process).readline().strip() != "READY":
                raise Failed("the probe could not connect")
            yield process
        finally:
            process.kill()


def samples_of(process: subprocess.Popen[str]) -> Samples:
    """Wait for the probe to end, and give its samples."""
    out, err = process.communicate()
    if process.returncode != 0:
        raise Failed(f"the probe ended with {process.returncode}: {err.strip()[-200:]}")
    samples: Samples = json.loads(out)["samples"]
    return samples


def observe(bench: Bench, server: Server, seconds: float) -> Samples:
    with probing(bench, server, seconds) as process:
        return samples_of(process)


def longest(samples: Samples, since: float = 0) -> float | None:
    """Give the longest round trip in milliseconds, of those that ended after a time."""
    times = [taken for sent, taken in samples if sent + taken >= since]
    return 1000 * max(times) if times else None


def _drain(bench: Bench, server: Server) -> dict[str, float | None]:
    """Ask the server to leave, as a supervisor does, and watch it do so."""
    with probing(bench, server, DRAIN_SECONDS) as process:
        time.sleep(0.5)
        asked = time.monotonic()
        os.kill(server.process.pid, signal.SIGTERM)
        try:
            server.process.wait(DRAIN_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failed(f"the server did not leave within {DRAIN_SECONDS} s") from None
        return {"leaving": time.monotonic() - asked, "drain": longest(samples_of(process), asked)}


def _broadcast(bench: Bench, server: Server, count: int) -> Samples:
    words = f"--mode broadcast --path /chat --size 64 --conns {count} --rate 2 --timeout {OPENING_SECONDS}"
    times = f"--seconds {BROADCAST_SECONDS + MARGIN_SECONDS} {CONCURRENCY}"
    command = wsload_command(bench, server, f"{words} {times}".split())
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            _wait_until_open(server, count)
            samples = observe(bench, server, BROADCAST_SECONDS)
            out, err = process.communicate()
            parse(out, process.returncode, err)
        finally:
            process.kill()
    return samples


def _wait_until_open(server: Server, count: int) -> None:
    """Wait for the publisher, the last that connects: a server has an open file for each connection."""
    deadline = time.monotonic() + OPENING_SECONDS
    while sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in server.pids) <= count:
        if time.monotonic() > deadline:
            raise Failed(f"{count} connections could not be opened")
        time.sleep(0.1)
