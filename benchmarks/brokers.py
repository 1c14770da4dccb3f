"""Brokers to measure with: each a server of its own on a free port, with a directory that goes with it."""

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

from benchmarks.environment import Unable

_PATIENCE = 60.0  # RabbitMQ takes some seconds
# Debian's rabbitmq-server in the path changes to a user of its own; the one in /usr/lib does not.
_PATH = os.pathsep.join(["/usr/lib/rabbitmq/bin", os.environ.get("PATH", ""), "/usr/sbin"])


@dataclass(frozen=True)
class Running:
    """A broker that runs: where, and its first process."""

    url: str
    pid: int


@contextlib.contextmanager
def running(name: str) -> Iterator[Running]:
    """Run "redis", "rabbitmq" or "nats" for as long as the block lasts.

    Raises:
        Unable: it is not installed, or does not start.
    """
    program, package, make = _KNOWN[name]
    path = shutil.which(program, path=_PATH)
    if path is None:
        raise Unable(f"no {program} here; on Debian: apt-get install {package}")
    with tempfile.TemporaryDirectory(prefix="pywsapp-bench-") as folder:
        port = free_port()
        command, variables, url = make(path, Path(folder), port)
        with (Path(folder) / "output").open("w") as log:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=os.environ | variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            if not _answers(port, process):
                said = (Path(folder) / "output").read_text(errors="replace").strip().splitlines()
                raise Unable(f"{program} does not start: {' / '.join(said[-3:])}")
            yield Running(url, process.pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def free_port() -> int:
    with contextlib.closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _answers(port: int, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.1)
    return False


_Made = tuple[list[str], dict[str, str], str]


def _redis(path: str, folder: Path, port: int) -> _Made:
    options = f"--bind 127.0.0.1 --port {port} --save  --appendonly no".split(" ")
    return [path, *options], {}, f"redis://127.0.0.1:{port}"


def _nats(path: str, folder: Path, port: int) -> _Made:
    return [path, "-a", "127.0.0.1", "-p", str(port)], {}, f"nats://127.0.0.1:{port}"


def _rabbitmq(path: str, folder: Path, port: int) -> _Made:
    rights = {"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}
    user = {"name": "guest", "password": "guest", "tags": "administrator"}
    definitions = {"vhosts": [{"name": "/"}], "users": [user], "permissions": [rights]}
    (folder / "definitions.json").write_text(json.dumps(definitions))
    (folder / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{port}\nload_definitions = {folder}/definitions.json\n"
    )
    variables = {
        "HOME": str(folder),  # of the cookie
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(free_port()),
        "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
        "RABBITMQ_LOG_BASE": f"{folder}/log",
        "RABBITMQ_MNESIA_BASE": f"{folder}/mnesia",
        "RABBITMQ_NODENAME": f"{folder.name}@localhost",
        "RABBITMQ_PID_FILE": f"{folder}/pid",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none",  # it waits without spinning
    }
    # Its name server is not left to start by itself, as a daemon that stays.
    command = ["sh", "-c", "epmd -port $ERL_EPMD_PORT & exec $0", path]
    return command, variables, f"amqp://guest:guest@127.0.0.1:{port}/"


_KNOWN: dict[str, tuple[str, str, Callable[[str, Path, int], _Made]]] = {
    "redis": ("redis-server", "redis-server", _redis),
    "rabbitmq": ("rabbitmq-server", "rabbitmq-server", _rabbitmq),
    "nats": ("nats-server", "nats-server", _nats),
}
