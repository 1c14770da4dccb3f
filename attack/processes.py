"""The attacked server and the attacking program: processes that answer lines with lines of JSON."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).resolve().parent
SERVERS = ("pywsapp", "websockets", "uvicorn")
_START_SECONDS = 60


class Child:
    """A process that answers each line with a line of JSON; `run_child` starts it.

    Args:
        process: the process.
        log: its standard error.

    Attributes:
        pid: its process ID.
    """

    def __init__(self, process: asyncio.subprocess.Process, log: IO[bytes]) -> None:
        self._process = process
        self._log = log
        self.pid = process.pid

    async def read(self, seconds: float) -> Any:
        """Return the next line; None if there is none within `seconds`, or if the process has ended."""
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), seconds)
        except (TimeoutError, asyncio.TimeoutError):
            return None
        return json.loads(line) if line else None

    async def ask(self, seconds: float) -> Any:
        """Write a line, and return the next line as `read` does."""
        assert self._process.stdin is not None
        with suppress(ConnectionError):
            self._process.stdin.write(b"\n")
            await self._process.stdin.drain()
        return await self.read(seconds)

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.returncode

    def kill(self) -> None:
        """Kill it."""
        with suppress(ProcessLookupError):
            self._process.kill()

    def log(self) -> str:
        """Return what it has logged, but not more than a million characters."""
        self._log.seek(0)
        return self._log.read(1_000_000).decode(errors="replace")


@asynccontextmanager
async def run_child(python: str, script: Path, *arguments: str, processor: int) -> AsyncIterator[Child]:
    """Run a script on one of the processors, and kill it at the end."""
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            python, str(script), *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        )
        pin(process.pid, processor)
        child = Child(process, log)
        try:
            yield child
        finally:
            child.kill()
            await process.wait()


def pin(pid: int, number: int) -> None:
    """Let a process run on one of the processors only, if there are several."""
    if not hasattr(os, "sched_setaffinity"):
        return
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) > 1:
        os.sched_setaffinity(pid, {processors[number]})


@dataclass
class ServerKind:
    """Which server is attacked.

    Args:
        name: one of `SERVERS`.
        python: the Python that it runs on.
        loop: the event loop of our own server.
    """

    name: str = SERVERS[0]
    python: str = field(default_factory=lambda: sys.executable)
    loop: str = "asyncio"

    @property
    def is_ours(self) -> bool:
        """Whether it is pywsapp."""
        return self.name == SERVERS[0]

    @asynccontextmanager
    async def run(self, arguments: tuple[str, ...]) -> AsyncIterator[tuple[Child, dict[str, int]]]:
        """Run it; return its process, and its ports by name.

        Args:
            arguments: of server.py. A server of another library gets --tls only.

        Raises:
            RuntimeError: it did not start.
        """
        with tempfile.TemporaryDirectory() as folder:
            tls = ("--tls", make_certificate(folder)) if "--tls" in arguments else ()
            script = HERE / "server.py" if self.is_ours else HERE / "peers" / f"{self.name}_server.py"
            if self.is_ours:
                others = [argument for argument in arguments if argument != "--tls"]
                arguments = (*tls, *others, "--loop", self.loop)
            else:
                arguments = tls
            async with run_child(self.python, script, *arguments, processor=0) as child:
                ports = await child.read(_START_SECONDS)
                if ports is None:
                    raise RuntimeError(f"the server did not start: {child.log()}")
                yield child, ports


def make_certificate(folder: str) -> str:
    """Make a certificate for 127.0.0.1, and return the path of a file with it and its key."""
    import trustme

    authority = trustme.CA()
    path = Path(folder) / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(path))
    return str(path)
