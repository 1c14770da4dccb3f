"""Idle connections that are held open while something else goes on."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from typing import IO

from benchmarks.measure import Bench, Failed, Server, parse, wsload_command
from benchmarks.scenarios import Run

OPENING_SECONDS = 60
MARGIN_SECONDS = 5  # between what has to fit in and the time that is asked of wsload
CONCURRENCY = "--concurrency 256"


@contextlib.contextmanager
def holding(bench: Bench, server: Server, count: int, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Hold idle connections open, from when all are open to the end of the block.

    Raises:
        Failed: they cannot be opened.
    """
    words = f"--mode idle --conns {count} --seconds {seconds + MARGIN_SECONDS:g} {CONCURRENCY}".split()
    command = wsload_command(bench, server, [*words, "--timeout", str(OPENING_SECONDS)])
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            first = stdout_of(process).readline()
            if first.strip() != "READY":
                status = process.wait()
                parse(first, status, "")
                raise Failed(f"{count} connections could not be opened")
            yield process
        finally:
            process.kill()


def finish(held: subprocess.Popen[str]) -> Run:
    """Wait until connections are no longer held, and give what wsload says of them."""
    out, err = held.communicate()
    return parse(out, held.returncode, err)


def stdout_of(process: subprocess.Popen[str]) -> IO[str]:
    """Give the pipe that a process started with one prints into."""
    assert process.stdout is not None
    return process.stdout
