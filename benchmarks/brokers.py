"""Brokers for the measurements: each a new server on a free port, with a temporary directory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environment import SetupError

_START_SECONDS = 60.0  # RabbitMQ needs some seconds
# Debian's rabbitmq-server on PATH changes to the user rabbitmq; the program in /usr/lib does not.
_PATH = os.pathsep.join(["/usr/lib/rabbitmq/bin", os.environ.get("PATH", ""), "/usr/sbin"])


@dataclass(frozen=True)
class RunningBroker:
    """A running broker: its URL, and the ID of its first process."""

    url: str
    pid: int


@contextlib.contextmanager
def running_broker(name: str) -> Iterator[RunningBroker]:
    """Run "redis", "rabbitmq" or "nats" until the end of the block.

    Raises:
        SetupError: it is not installed, or does not start.
    """
    program, package, configure = _BROKERS[name]
    path = shutil.which(program, path=_PATH)
    if path is None:
        raise SetupError(f"{program} is not installed; on Debian: apt-get install {package}")
    with tempfile.TemporaryDirectory(prefix="pywsapp-bench-") as directory:
        port = free_port()
        command, variables, url = configure(path, Path(directory), port)
        with (Path(directory) / "output").open("w") as log:
            process = subprocess.Popen(
                command,
                cwd=directory,
                env=os.environ | variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            if not _accepts_connections(port, process):
                output = (Path(directory) / "output").read_text(errors="replace").strip().splitlines()
                raise SetupError(f"{program} does not start: {' / '.join(output[-3:])}")
            yield RunningBroker(url, process.pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def free_port() -> int:
    with contextlib.closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _accepts_connections(port: int, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.1)
    return False


_Configuration = tuple[list[str], dict[str, str], str]


def _redis(path: str, directory: Path, port: int) -> _Configuration:
    options = f"--bind 127.0.0.1 --port {port} --save  --appendonly no".split(" ")
    return [path, *options], {}, f"redis://127.0.0.1:{port}"


def _nats(path: str, directory: Path, port: int) -> _Configuration:
    return [path, "-a", "127.0.0.1", "-p", str(port)], {}, f"nats://127.0.0.1:{port}"


def _rabbitmq(path: str, directory: Path, port: int) -> _Configuration:
    rights = {"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}
    user = {"name": "guest", "password": "guest", "tags": "administrator"}
    definitions = {"vhosts": [{"name": "/"}], "users": [user], "permissions": [rights]}
    (directory / "definitions.json").write_text(json.dumps(definitions))
    (directory / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{port}\nload_definitions = {directory}/definitions.json\n"
    )
    variables = {
        "HOME": str(directory),  # Erlang writes its cookie there
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(free_port()),
        "RABBITMQ_CONFIG_FILE": f"{directory}/rabbitmq",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_ENABLED_PLUGINS_FILE": f"{directory}/plugins",
        "RABBITMQ_LOG_BASE": f"{directory}/log",
        "RABBITMQ_MNESIA_BASE": f"{directory}/mnesia",
        "RABBITMQ_NODENAME": f"{directory.name}@localhost",
        "RABBITMQ_PID_FILE": f"{directory}/pid",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none",  # no busy waiting
    }
    # The node would start its name server (epmd) as a daemon that outlives it.
    command = ["sh", "-c", "epmd -port $ERL_EPMD_PORT & exec $0", path]
    return command, variables, f"amqp://guest:guest@127.0.0.1:{port}/"


_BROKERS: dict[str, tuple[str, str, Callable[[str, Path, int], _Configuration]]] = {
    "redis": ("redis-server", "redis-server", _redis),
    "rabbitmq": ("rabbitmq-server", "rabbitmq-server", _rabbitmq),
    "nats": ("nats-server", "nats-server", _nats),
}
