"""Measure the longest time of an echo while a server works on all of its connections.

The work is a ping to every connection, a broadcast to every connection, and the shutdown after SIGTERM. `probe.py`
sends the echoes, on connections of its own.
"""

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

IDLE_SECONDS = 5  # after opening, before the first ping
BROADCAST_SECONDS = 6
SHUTDOWN_SECONDS = 45

Samples = list[tuple[float, float]]


def measure(bench: Bench, contestant: Contestant, count: int, ping_seconds: float) -> dict[str, float]:
    """Return the longest times of an echo in milliseconds, and the duration of the shutdown in seconds.

    Raises:
        Failed: connections were not opened, or the server did not end.
    """
    hold = IDLE_SECONDS + ping_seconds + SHUTDOWN_SECONDS
    with serving(bench, contestant, PLAIN) as server, holding(bench, server, count, hold):
        figures = {"idle": longest(observe(bench, server, IDLE_SECONDS))}
        figures["ping"] = longest(observe(bench, server, ping_seconds))
        figures |= _shutdown(bench, server)
    with serving(bench, contestant, PLAIN) as server:
        figures["broadcast"] = longest(_broadcast(bench, server, count))
    return {name: value for name, value in figures.items() if value is not None}


@contextlib.contextmanager
def probing(bench: Bench, server: Server, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Run the probe during the block; the block begins when the probe is connected.

    Raises:
        Failed: the probe could not connect.
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
    """Wait until the probe ends; return its samples."""
    out, err = process.communicate()
    if process.returncode != 0:
        raise Failed(f"the probe ended with {process.returncode}: {err.strip()[-200:]}")
    samples: Samples = json.loads(out)["samples"]
    return samples


def observe(bench: Bench, server: Server, seconds: float) -> Samples:
    with probing(bench, server, seconds) as process:
        return samples_of(process)


def longest(samples: Samples, since: float = 0) -> float | None:
    """Return the longest round trip in milliseconds, among those that ended after `since`."""
    times = [taken for sent, taken in samples if sent + taken >= since]
    return 1000 * max(times) if times else None


def _shutdown(bench: Bench, server: Server) -> dict[str, float | None]:
    """Send SIGTERM to the server, and measure until it has ended."""
    with probing(bench, server, SHUTDOWN_SECONDS) as process:
        time.sleep(0.5)
        began = time.monotonic()
        os.kill(server.process.pid, signal.SIGTERM)
        try:
            server.process.wait(SHUTDOWN_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failed(f"the server did not end within {SHUTDOWN_SECONDS} s") from None
        return {"shutdown_seconds": time.monotonic() - began, "shutdown": longest(samples_of(process), began)}


def _broadcast(bench: Bench, server: Server, count: int) -> Samples:
    options = f"--mode broadcast --path /chat --size 64 --conns {count} --rate 2 --timeout {OPENING_SECONDS}"
    times = f"--seconds {BROADCAST_SECONDS + MARGIN_SECONDS} {CONCURRENCY}"
    command = wsload_command(bench, server, f"{options} {times}".split())
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
    """Wait until the publisher is connected, which is the last one: a server has an open file for each connection."""
    deadline = time.monotonic() + OPENING_SECONDS
    while sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in server.pids) <= count:
        if time.monotonic() > deadline:
            raise Failed(f"{count} connections could not be opened")
        time.sleep(0.1)
