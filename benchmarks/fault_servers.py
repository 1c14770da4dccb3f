"""What a fault run consists of, besides its clients: servers, a broker, and the ways between them."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from support.services import Redis, Service, free_port

from benchmarks import machine
from benchmarks.fault_network import Network
from benchmarks.fault_proxy import Proxy

_APP = Path(__file__).with_name("fault_app.py")


#: The brokers that keep a history; the local bus is one of them.
_BROKERS_WITH_HISTORY = ("none", "redis", "redis-volatile")


def keeps_history(args: argparse.Namespace) -> bool:
    """Return whether the broker of a run keeps the messages of topics."""
    return args.broker in _BROKERS_WITH_HISTORY


class Server:
    """A server program with workers; no fault ends its supervisor.

    Args:
        args: the options of `faults.py`.
        broker: the URL of the broker; None for the local bus.
        network: where it runs; None for the namespace of this program.
        log: the file for its output.
        program: the program, which takes the options of `fault_app.py`.
        options: further options of the program.
        environment: added to the environment of the program.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        broker: str | None,
        network: Network | None,
        log: Path,
        *,
        program: Path = _APP,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        host = "127.0.0.1" if network is None else network.server_host
        port = free_port()
        self.url = f"ws://{host}:{port}/"
        self.log = log
        history = args.history if keeps_history(args) else 0
        command = f"--address {host} --port {port} --workers {args.workers} --worker-timeout {args.worker_timeout}"
        command += f" --loop {args.loop} --history {history}" + (f" --broker {broker}" if broker is not None else "")
        inside = network.command if network is not None else []
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*inside, sys.executable, str(program), *command.split(), *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(_APP.parent.parent / "src"), **(environment or {})},
            )

    def workers(self) -> list[int]:
        """Return the process IDs of the workers."""
        return machine.process_tree(self.process.pid)[1:]

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            for pid in machine.process_tree(self.process.pid):
                send_signal(pid, signal.SIGKILL)
            self.process.wait()


@dataclass
class Setup:
    """Servers, and what carries messages between them.

    Args:
        broker: the process of the broker; None for the local bus.
        network: the namespace of the servers; None if it is that of this program.
        servers: the servers, which are running.
        proxies: the way of each server to the broker; none for the local bus.
        spared: servers whose workers no fault kills, stops or replaces.
    """

    broker: Service | None
    network: Network | None
    servers: list[Server] = field(default_factory=list)
    proxies: list[Proxy] = field(default_factory=list)
    spared: list[Server] = field(default_factory=list)

    def victims(self) -> list[Server]:
        """Return the servers whose workers a fault can kill, stop or replace."""
        return [server for server in self.servers if server not in self.spared]

    def has(self, need: str) -> bool:
        """Return whether the setup has what a kind of faults needs: "", "broker", "redis" or "network"."""
        present = {
            "": True,
            "broker": self.broker is not None,
            "redis": isinstance(self.broker, Redis),
            "network": self.network is not None,
        }
        return present[need]


def send_signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
