"""What every attacked server does beside serving: it names its ports, and answers questions of the attacking program.

The servers of other libraries run in an environment of their own, so this module needs anyio only.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable
from typing import Any

import anyio

#: Address space of another server, so that the machine survives one that takes all memory at once.
_MAX_ADDRESS_SPACE = 8 << 30


def raise_file_limit() -> None:
    """Allow this process as many open files as the system does."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def limit_memory() -> None:
    """Bound the address space of this process."""
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_ADDRESS_SPACE, _MAX_ADDRESS_SPACE))


def certificate() -> str | None:
    """Return the file after --tls on the command line of a server: a certificate and its key. None without --tls."""
    return sys.argv[sys.argv.index("--tls") + 1] if "--tls" in sys.argv else None


async def answer_questions(ports: dict[str, int], stats: Callable[[], dict[str, Any]] = dict) -> None:
    """Print the ports, then answer each line of the standard input with the numbers of this process.

    The process ends with the standard input, and so with the program that attacks it.

    Args:
        ports: the ports by name.
        stats: returns what the server counts.
    """
    print(json.dumps(ports), flush=True)
    limiter = anyio.CapacityLimiter(1)  # a thread of its own: an attack can occupy all others
    while await anyio.to_thread.run_sync(sys.stdin.readline, limiter=limiter, abandon_on_cancel=True):
        print(json.dumps({"tasks": len(anyio.get_running_tasks()), "stats": stats()}), flush=True)
    os._exit(0)
