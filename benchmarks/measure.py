"""Start one server and one load, each pinned to a processor, and measure them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import contestants, machine, scenarios
from benchmarks.contestants import Contestant
from benchmarks.environment import HERE, Environment
from benchmarks.scenarios import Run, Scenario

SETTLE_SECONDS = 0.3  # from the first accepted connection until the first load
FRESH_SECONDS = 0.3  # memory is read once all connections are open, so holding them for longer adds nothing
FIRST_PORT = 21000
LAST_PORT = 32767  # the next port begins the ephemeral range, which wsload connects from


class Failed(Exception):
    """A run has no result; the message says why."""


class Ports:
    """Allocates ports below the ephemeral range, each one once: sockets in TIME_WAIT then disturb no later server."""

    def __init__(self, first: int = FIRST_PORT) -> None:
        self._next = first

    def take(self) -> int:
        while self._next <= LAST_PORT:
            port, self._next = self._next, self._next + 1
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
        raise Failed("no free port is left")


@dataclass
class Bench:
    """The settings of all runs.

    Args:
        environment: the paths of the programs.
        logs: the directory for the output of servers.
        server_cpu: the processor that servers are pinned to; None for all processors.
        load_cpu: the processor that the load is pinned to; None for all processors.
        seconds: the measured time of a run.
        warmup: the time before the measured time, in seconds.
        ports: the ports of the servers.
    """

    environment: Environment
    logs: Path
    server_cpu: int | None = 0
    load_cpu: int | None = 1
    seconds: float = 2
    warmup: float = 0.5
    ports: Ports = field(default_factory=Ports)


class Server:
    """A running contestant."""

    def __init__(self, bench: Bench, contestant: Contestant, instance: str) -> None:
        self.port = bench.ports.take()
        name = "".join(letter if letter.isalnum() else "-" for letter in contestant.name)
        self.log = bench.logs / f"{name}-{instance}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                machine.pinned(bench.server_cpu, self._command(bench.environment, contestant, instance)),
                cwd=bench.logs,
                env=_variables(bench.environment, contestant),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_until_it_listens()
        except BaseException:
            self.stop()
            raise

    @property
    def pids(self) -> list[int]:
        return machine.process_tree(self.process.pid)

    def _command(self, environment: Environment, contestant: Contestant, instance: str) -> list[str]:
        runners = {
            contestants.PYWSAPP: str(environment.pywsapp),
            contestants.PEERS: str(environment.peers),
            contestants.NODE: "node",
        }
        script = str(HERE / "peers" / contestant.script)
        deflate = "on" if instance == scenarios.DEFLATE else "off"
        command = [runners[contestant.kind], script, "--port", str(self.port), "--deflate", deflate]
        if instance == scenarios.TLS and environment.tls is not None:
            command += ["--tls", *map(str, environment.tls)]
        return [*command, *contestant.options]

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Failed(f"the server ended with {self.process.returncode}: {self.log_tail()}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    time.sleep(SETTLE_SECONDS)
                    return
            time.sleep(0.05)
        raise Failed(f"the server did not listen within 15 s: {self.log_tail()}")

    def log_tail(self) -> str:
        return " / ".join(self.log.read_text(errors="replace").strip().splitlines()[-2:])[-300:]

    def stop(self) -> None:
        """End the server and its child processes, which are one process group."""
        for signum, seconds in ((signal.SIGTERM, 3), (signal.SIGKILL, 5)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signum)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
                break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


@contextlib.contextmanager
def serving(bench: Bench, contestant: Contestant, instance: str) -> Iterator[Server]:
    """Run a contestant until the end of the block; before the block, warm it up with a short load.

    Raises:
        Failed: it did not start.
    """
    server = Server(bench, contestant, instance)
    try:
        tls = ["--tls"] if instance == scenarios.TLS else []
        with contextlib.suppress(Failed):  # imports and code paths of the first use
            load(bench, server, ["--conns", "16", *tls], seconds=0.2, warmup=0.1)
        yield server
    finally:
        server.stop()


def _variables(environment: Environment, contestant: Contestant) -> dict[str, str]:
    variables = {name: value for name, value in os.environ.items() if name not in ("PYWSAPP_PURE", "PYTHONPATH")}
    variables["PYTHONDONTWRITEBYTECODE"] = "1"
    if environment.node_modules is not None:
        variables["NODE_PATH"] = str(environment.node_modules)
    return variables | contestant.variables


def wsload_command(bench: Bench, server: Server, arguments: Sequence[str]) -> list[str]:
    """Return the command that puts a load on a server and watches its processes."""
    watched = [word for pid in server.pids for word in ("--watch", str(pid))]
    command = [str(bench.environment.wsload), "--port", str(server.port), *arguments, *watched]
    return machine.pinned(bench.load_cpu, command)


def load(bench: Bench, server: Server, arguments: Sequence[str], *, seconds: float, warmup: float) -> Run:
    """Put a load on a server; return the results of wsload, with the processor time of other processes.

    Raises:
        Failed: wsload found an error, or had no results.
    """
    times = ["--seconds", f"{seconds:g}", "--warmup", f"{warmup:g}"]
    command = wsload_command(bench, server, [*arguments, *times])
    pids = server.pids
    busy = machine.busy_seconds()
    used_by_server, used_by_children = machine.cpu_seconds(pids), machine.children_seconds()
    began = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + warmup + 90)
    except subprocess.TimeoutExpired:
        raise Failed("wsload did not finish") from None
    elapsed = time.monotonic() - began
    foreign = machine.busy_seconds() - busy
    foreign -= machine.cpu_seconds(pids) - used_by_server + machine.children_seconds() - used_by_children
    run = parse(done.stdout, done.returncode, done.stderr)
    run["foreign_cpu_pct"] = round(100 * max(0.0, foreign) / elapsed, 1)
    return run


def parse(stdout: str, status: int, stderr: str) -> Run:
    """Parse the last line of wsload's output.

    Raises:
        Failed: there is no such line, or it contains an error.
    """
    try:
        run: dict[str, Any] = json.loads(stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise Failed(f"wsload ended with {status}: {stderr.strip()[-200:]}") from None
    if status != 0:
        raise Failed(str(run.get("first_error", f"wsload ended with {status}")))
    return run


Record = Callable[[Contestant, Scenario, Run], None]


def measure(bench: Bench, contestant: Contestant, chosen: Sequence[Scenario], record: Record) -> None:
    """Measure scenarios of a contestant, with a new server for each `instance` that they need."""
    groups: dict[str, list[Scenario]] = {}
    for scenario in chosen:
        if contestant.supports(scenario.name, scenario.instance):
            is_fresh = scenario.instance == scenarios.FRESH
            groups.setdefault(scenario.name if is_fresh else scenario.instance, []).append(scenario)
    for group in groups.values():
        try:
            _measure_group(bench, contestant, group, record)
        except Failed as exc:
            for scenario in group:
                record(contestant, scenario, {"failure": str(exc)})


def _measure_group(bench: Bench, contestant: Contestant, group: Sequence[Scenario], record: Record) -> None:
    with serving(bench, contestant, group[0].instance) as server:
        for scenario in group:
            is_fresh = scenario.instance == scenarios.FRESH
            seconds = FRESH_SECONDS if is_fresh else bench.seconds * scenario.longer
            try:
                run = load(bench, server, scenario.arguments, seconds=seconds, warmup=bench.warmup)
            except Failed as exc:
                run = {"failure": str(exc), "log": server.log_tail()}
            record(contestant, scenario, run)


def exit_on_sigterm() -> None:
    """Raise SystemExit at SIGTERM, so that started processes are stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
