"""Hold idle connections open during another measurement, and measure their memory and processor time.

scale.py uses it for the cost of idle connections, and for the longest time of an echo beside them (`stalls`).
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from typing import IO

from benchmarks.measure import Bench, Failed, Server, parse, wsload_command
from benchmarks.scenarios import Run

OPENING_SECONDS = 60
MARGIN_SECONDS = 5  # wsload runs longer than the other measurement by this
CONCURRENCY = "--concurrency 256"


@contextlib.contextmanager
def holding(bench: Bench, server: Server, count: int, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Open idle connections before the block, and hold them open until its end.

    Raises:
        Failed: a connection was not opened.
    """
    options = f"--mode idle --conns {count} --seconds {seconds + MARGIN_SECONDS:g} {CONCURRENCY}".split()
    command = wsload_command(bench, server, [*options, "--timeout", str(OPENING_SECONDS)])
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
    """Wait until wsload closes the connections; return its results."""
    out, err = held.communicate()
    return parse(out, held.returncode, err)


def stdout_of(process: subprocess.Popen[str]) -> IO[str]:
    """Return the pipe with the output of a process, which must have been started with one."""
    assert process.stdout is not None
    return process.stdout
