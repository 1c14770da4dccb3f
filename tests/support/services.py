"""Servers of other people, each a process of its own on a free loopback port, to be killed and frozen.

    with redis_server() as redis:
        redis.url, redis.kill(), redis.start(), redis.freeze(), redis.thaw()

What is not installed is skipped, with the command that installs it; with `CI` set in the environment it fails.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from typing_extensions import Self

__all__ = [
    "Nats",
    "Rabbit",
    "Redis",
    "Service",
    "find_program",
    "free_port",
    "nats_server",
    "rabbitmq_server",
    "redis_cluster",
    "redis_server",
    "talk",
]

#: Seconds that a server may take to start.
PATIENCE = 30.0


def find_program(package: str, *names: str) -> str:
    """Give the path of the first of these programs that is installed; without one, skip or fail."""
    for name in names:
        if path := shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])):
            return path
    reason = f"needs {names[0]}: apt-get install {package}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def free_port() -> int:
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def talk(port: int, data: bytes, until: bytes) -> bytes:
    """Send bytes to a port of this machine, and give what comes back up to some others; raises OSError."""
    with closing(socket.create_connection(("127.0.0.1", port), 5)) as sock:
        sock.settimeout(5)
        sock.sendall(data)
        answer = b""
        while until not in answer:
            received = sock.recv(65536)
            if not received:
                raise ConnectionResetError(f"closed after {answer[:200]!r}")
            answer += received
        return answer


class Service:
    """A server; started when entered, killed when left, on the same port all the time.

    Args:
        command: gives the command line for a service, which has its port and directory by then.
        ready: asks it something; raises OSError while it cannot answer.
        environment: added to the environment.

    Attributes:
        port: a free one of 127.0.0.1.
        directory: a directory of its own, with a short path, which goes with it.
    """

    def __init__(
        self,
        command: Callable[[Service], Sequence[str]],
        ready: Callable[[Service], object],
        environment: dict[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="pywsapp-"))
        self.process: subprocess.Popen[bytes] | None = None
        self._command = command
        self._ready = ready
        self._environment = environment or {}

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def output(self) -> str:
        """What it wrote."""
        return (self.directory / "output").read_text(errors="replace")

    def start(self) -> None:
        """Start it, again perhaps, and wait until it answers."""
        assert self.process is None
        with open(self.directory / "output", "ab") as output:
            self.process = subprocess.Popen(
                [str(part) for part in self._command(self)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env={**os.environ, **self._environment},
                start_new_session=True,  # what it starts is killed with it
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self.process.poll() is None, f"it ended: {self.output}"
            assert time.monotonic() < deadline, f"it does not answer: {self.output}"
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            self._ready(self)
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """Let it die at once, with all that it has started."""
        if self.process is not None:
            self._signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """Let it end in order."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.kill()

    def freeze(self) -> None:
        """Let it do nothing from here on, while its connections stay open."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


class Redis(Service):
    """A redis-server, or what takes its place, that keeps nothing on disk unless told so."""

    def __init__(self, *options: str) -> None:
        self._options = options
        program = find_program("redis-server", "redis-server", "valkey-server")
        super().__init__(lambda service: [program, *self._arguments()], lambda service: self.ask("PING"))

    def _arguments(self) -> list[str]:
        return [
            *("--port", str(self.port)),
            *("--bind", "127.0.0.1"),
            *("--dir", str(self.directory)),
            *("--unixsocket", str(self.socket)),
            *("--save", "", "--appendonly", "no", "--daemonize", "no"),
            *self._options,
        ]

    @property
    def socket(self) -> Path:
        """Its Unix socket."""
        return self.directory / "redis.sock"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def ask(self, *words: str) -> str:
        """Give the answer to a command, as far as its last line; raises OSError while it loads, for instance."""
        command = f"*{len(words)}\r\n" + "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
        answer = talk(self.port, f"{command}*2\r\n$4\r\nECHO\r\n$7\r\nthe end\r\n".encode(), b"the end\r\n").decode()
        if answer.startswith(("-LOADING", "-MASTERDOWN", "-CLUSTERDOWN")):
            raise ConnectionError(answer)
        return answer.removesuffix("$7\r\nthe end\r\n").strip()


def redis_server(*options: str) -> Redis:
    """Make a server, to be entered; the options are added to its command line."""
    return Redis(*options)


@contextmanager
def redis_cluster(nodes: int = 3) -> Iterator[list[Redis]]:
    """Run a cluster whose nodes share the slots."""
    options = ("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no", "--cluster-node-timeout", "2000")
    servers: list[Redis] = []
    try:
        for _ in range(nodes):
            server = redis_server(*options, "--cluster-port", str(free_port()))
            servers.append(server)
            server.start()
        for number, server in enumerate(servers):
            first, last = (16384 * number // nodes, 16384 * (number + 1) // nodes - 1)
            assert server.ask("CLUSTER", "ADDSLOTSRANGE", str(first), str(last)) == "+OK"
        for server in servers[1:]:
            bus = server.ask("CONFIG", "GET", "cluster-port").split("\r\n")[-1]
            assert servers[0].ask("CLUSTER", "MEET", "127.0.0.1", str(server.port), bus) == "+OK"
        deadline = time.monotonic() + PATIENCE
        while not all(_knows(server, nodes) for server in servers):
            assert time.monotonic() < deadline, servers[0].ask("CLUSTER", "NODES")
            time.sleep(0.02)
        yield servers
    finally:
        for server in servers:
            server.__exit__()


def _knows(server: Redis, nodes: int) -> bool:
    ready = "cluster_state:ok" in server.ask("CLUSTER", "INFO")
    return ready and server.ask("CLUSTER", "SLOTS").startswith(f"*{nodes}\r\n")


class Rabbit(Service):
    """A RabbitMQ node of its own, which takes some seconds to start.

    Args:
        configuration: added to its configuration file.
        users: those besides guest: the password, and what they may configure, write and read.
    """

    def __init__(self, configuration: str = "", **users: tuple[str, str]) -> None:
        installed = find_program("rabbitmq-server", "rabbitmq-server")
        # Debian's program in the path changes to a user of its own
        inner = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
        self._program = str(inner if inner.exists() else installed)
        super().__init__(lambda _: ["sh", "-c", _RABBIT, self._program], self._greet)
        names = {"guest": ("guest", ".*"), **users}
        definitions = {
            "vhosts": [{"name": "/"}],
            "users": [
                {"name": name, "password": password, "tags": "administrator" if name == "guest" else ""}
                for name, (password, _) in names.items()
            ],
            "permissions": [
                {"user": name, "vhost": "/", "configure": rights, "write": rights, "read": rights}
                for name, (_, rights) in names.items()
            ],
        }
        (self.directory / "definitions.json").write_text(json.dumps(definitions))
        (self.directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\nload_definitions = {self.directory}/definitions.json\n"
            f"{configuration}\n"
        )
        self._environment |= {
            "HOME": str(self.directory),  # of the cookie
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(free_port()),
            "RABBITMQ_CONFIG_FILE": f"{self.directory}/rabbitmq",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{self.directory}/plugins",
            "RABBITMQ_LOG_BASE": f"{self.directory}/log",
            "RABBITMQ_MNESIA_BASE": f"{self.directory}/mnesia",
            "RABBITMQ_NODENAME": f"{self.directory.name}@localhost",
            "RABBITMQ_PID_FILE": f"{self.directory}/pid",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none",  # it waits without spinning
        }

    def _greet(self, _: Service) -> None:
        talk(self.port, b"AMQP\0\0\x09\x01", b"PLAIN")

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def evaluate(self, expression: str) -> str:
        """Run Erlang in it; takes a second or two."""
        ctl = Path(self._program).with_name("rabbitmqctl")
        command = [str(ctl), "eval", expression]
        return subprocess.run(
            command, env={**os.environ, **self._environment}, check=True, capture_output=True, text=True
        ).stdout


#: Its name server is not left to start by itself, as a daemon that stays.
_RABBIT = "epmd -port $ERL_EPMD_PORT & exec $0"


def rabbitmq_server(configuration: str = "", **users: tuple[str, str]) -> Rabbit:
    """Make a node, to be entered; with users beside guest: a password, and a pattern of what they may use."""
    return Rabbit(configuration, **users)


class Nats(Service):
    """A nats-server.

    Args:
        configuration: added to its configuration file.
    """

    def __init__(self, configuration: str = "") -> None:
        program = find_program("nats-server", "nats-server")
        super().__init__(
            lambda service: [program, "-c", f"{service.directory}/nats.conf"], lambda _: talk(self.port, b"", b"INFO")
        )
        (self.directory / "nats.conf").write_text(f"listen: 127.0.0.1:{self.port}\n{configuration}\n")

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"


def nats_server(configuration: str = "") -> Nats:
    """Make a server, to be entered."""
    return Nats(configuration)
