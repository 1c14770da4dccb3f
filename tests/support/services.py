"""Real servers (Redis, RabbitMQ, NATS, memcached), each in a process of its own, which tests can kill and freeze.

Each has a free port.

    with redis_server() as redis:
        redis.url, redis.kill(), redis.start(), redis.freeze(), redis.thaw()

A test whose server is not installed is skipped; the reason names the command that installs the server. With `CI` set
in the environment, the test fails instead.
"""

from __future__ import annotations

import functools
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
from itertools import cycle
from pathlib import Path
from random import SystemRandom

import pytest
from typing_extensions import Self

__all__ = [
    "Memcached",
    "Nats",
    "Rabbit",
    "Redis",
    "Service",
    "find_program",
    "free_port",
    "memcached_server",
    "nats_server",
    "rabbitmq_server",
    "redis_cluster",
    "redis_server",
    "talk",
]

#: Seconds after which a server that does not start or stop is an error.
START_TIMEOUT = 30.0

#: Ports that the kernel gives to no socket by itself. Each process that runs tests has every 64th of them.
_PORTS = range(20000, 32768)
_SHARES = 64


def find_program(package: str, *names: str) -> str:
    """Return the path of the first program that is installed; otherwise skip the test, or fail it in CI."""
    for name in names:
        if path := shutil.which(
            name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
        ):
            return path
    reason = f"needs {names[0]}: apt-get install {package}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@functools.cache
def _own_ports() -> Iterator[int]:
    """Return the ports of this process, again and again; the first one stays in use, and marks the others as taken."""
    for first in _PORTS[:_SHARES]:
        mark = socket.socket()
        with suppress(OSError):
            mark.bind(("127.0.0.1", first))
            _marks.append(mark)
            ports = _PORTS[first + _SHARES - _PORTS.start :: _SHARES]
            return cycle(SystemRandom().sample(ports, len(ports)))
        mark.close()
    raise RuntimeError("too many processes run tests")


_marks: list[socket.socket] = []


def free_port() -> int:
    """Return a port of 127.0.0.1 that stays free: another process, of any run of the tests, returns other ports."""
    while True:
        port = next(_own_ports())
        with suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            return port


def talk(port: int, data: bytes, until: bytes) -> bytes:
    """Send bytes to a port of 127.0.0.1, and return the answer once it contains `until`.

    Raises:
        OSError: the port refuses the connection, closes it, or does not answer within `START_TIMEOUT`.
    """
    with closing(socket.create_connection(("127.0.0.1", port), START_TIMEOUT)) as sock:
        sock.sendall(data)
        answer = b""
        while until not in answer:
            received = sock.recv(65536)
            if not received:
                raise ConnectionResetError(f"closed after {answer[:200]!r}")
            answer += received
        return answer


class Service:
    """A server, as a context manager: it starts at the beginning of the block and is killed at the end.

    Args:
        command: returns the command line for a service, whose port and directory are set.
        ready: asks the server something; raises OSError while the server cannot answer.
        environment: added to the environment of the process.

    Attributes:
        port: a port of 127.0.0.1, which stays the same over restarts.
        directory: a directory with a short path, which is deleted at the end.
        start_timeout: seconds after which a server that does not answer is an error.
    """

    start_timeout = START_TIMEOUT

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
        """The output of the server so far."""
        return (self.directory / "output").read_text(errors="replace")

    def start(self) -> None:
        """Start or restart the server, and wait until it answers."""
        assert self.process is None
        with open(self.directory / "output", "ab") as output:
            self.process = subprocess.Popen(
                [str(part) for part in self._command(self)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env={**os.environ, **self._environment},
                start_new_session=True,  # kill() reaches the child processes too
            )
        deadline = time.monotonic() + self.start_timeout
        while not self._is_ready():
            assert self.process.poll() is None, f"the server has ended: {self.output}"
            assert time.monotonic() < deadline, f"the server does not answer: {self.output}"
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        try:
            self._ready(self)
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """Kill the server and its child processes at once."""
        if self.process is not None:
            self._signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """Terminate the server and wait for its end."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(START_TIMEOUT)
        self.kill()

    def freeze(self) -> None:
        """Suspend the process; its connections stay open."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume the process."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


class Redis(Service):
    """A redis-server or valkey-server. It writes nothing to the disk unless an option makes it."""

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
        """The path of the Unix socket."""
        return self.directory / "redis.sock"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def ask(self, *words: str) -> str:
        """Send a command, and return the answer in the format of the protocol, without the last line end.

        Raises:
            OSError: the server does not answer, or is not ready; for example, it still loads its data.
        """
        command = f"*{len(words)}\r\n" + "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
        answer = talk(self.port, f"{command}*2\r\n$4\r\nECHO\r\n$7\r\nthe end\r\n".encode(), b"the end\r\n").decode()
        if answer.startswith(("-LOADING", "-MASTERDOWN", "-CLUSTERDOWN")):
            raise ConnectionError(answer)
        return answer.removesuffix("$7\r\nthe end\r\n").strip()


def redis_server(*options: str) -> Redis:
    """Return a server that is not started yet; the options are added to its command line."""
    return Redis(*options)


@contextmanager
def redis_cluster(nodes: int = 3) -> Iterator[list[Redis]]:
    """Run a cluster without replicas; each node has the same number of slots."""
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
        deadline = time.monotonic() + START_TIMEOUT
        while not all(_has_nodes(server, nodes) for server in servers):
            assert time.monotonic() < deadline, servers[0].ask("CLUSTER", "NODES")
            time.sleep(0.02)
        yield servers
    finally:
        for server in servers:
            server.__exit__()


def _has_nodes(server: Redis, nodes: int) -> bool:
    ready = "cluster_state:ok" in server.ask("CLUSTER", "INFO")
    return ready and server.ask("CLUSTER", "SLOTS").startswith(f"*{nodes}\r\n")


class Rabbit(Service):
    """A RabbitMQ node; it needs some seconds to start.

    Args:
        configuration: added to its configuration file.
        users: the users besides guest. The value is a password, and a pattern of the names that the user may
            configure, write and read.
    """

    start_timeout = 90.0  # on a busy machine it needs half a minute

    def __init__(self, configuration: str = "", **users: tuple[str, str]) -> None:
        installed = find_program("rabbitmq-server", "rabbitmq-server")
        # Debian's program in the path changes to another user.
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
            "HOME": str(self.directory),  # Erlang writes its cookie there
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(free_port()),
            "RABBITMQ_CONFIG_FILE": f"{self.directory}/rabbitmq",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{self.directory}/plugins",
            "RABBITMQ_LOG_BASE": f"{self.directory}/log",
            "RABBITMQ_MNESIA_BASE": f"{self.directory}/mnesia",
            "RABBITMQ_NODENAME": f"{self.directory.name}@localhost",
            "RABBITMQ_PID_FILE": f"{self.directory}/pid",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none",  # no busy waiting
        }

    def _greet(self, _: Service) -> None:
        talk(self.port, b"AMQP\0\0\x09\x01", b"PLAIN")

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def evaluate(self, expression: str) -> str:
        """Evaluate an Erlang expression in the node, and return the output. This takes one or two seconds."""
        ctl = Path(self._program).with_name("rabbitmqctl")
        command = [str(ctl), "eval", expression]
        return subprocess.run(
            command, env={**os.environ, **self._environment}, check=True, capture_output=True, text=True
        ).stdout


#: Starts the name server of Erlang (epmd) too; the node would start one as a daemon that outlives the test.
_RABBIT = "epmd -port $ERL_EPMD_PORT & exec $0"


def rabbitmq_server(configuration: str = "", **users: tuple[str, str]) -> Rabbit:
    """Return a node that is not started yet; the arguments are those of `Rabbit`."""
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
    """Return a server that is not started yet; the argument is that of `Nats`."""
    return Nats(configuration)


class Memcached(Service):
    """A memcached."""

    def __init__(self) -> None:
        program = find_program("memcached", "memcached")
        super().__init__(
            lambda service: [program, "-l", "127.0.0.1", "-p", str(service.port), "-U", "0", "-m", "16", "-u", "root"],
            lambda service: self.ask("version"),
        )

    @property
    def url(self) -> str:
        return f"memcached://127.0.0.1:{self.port}"

    def ask(self, command: str) -> str:
        """Send a command with a short answer, and return the answer.

        Raises:
            OSError: the server does not answer.
        """
        return talk(self.port, f"{command}\r\nmn\r\n".encode(), b"MN\r\n").decode().removesuffix("MN\r\n").strip()


def memcached_server() -> Memcached:
    """Return a server that is not started yet."""
    return Memcached()
