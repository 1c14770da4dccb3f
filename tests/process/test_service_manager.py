"""A service manager: messages to its socket, its watchdog, and the sockets that it passes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import anyio
import pytest
from support.program import Program
from support.services import free_port
from support.serving import GUARD

from pywsapp import App, ConfigurationError
from pywsapp._process.service_manager import ServiceManager, passed_sockets, service_manager

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has systemd and abstract sockets"),
]

APP = """
from pywsapp import App, EchoServer

app = App("*", 0)
app.route("/", EchoServer())
app.http("/who", lambda request: f"{app.worker} {app.urls}")
"""


class Notified:
    """The socket of a service manager."""

    def __init__(self, address: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.settimeout(GUARD)
        self._sock.bind(address)

    def get(self) -> dict[str, str]:
        """Wait for the next message, and return its variables."""
        lines = self._sock.recv(4096).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def until(self, name: str) -> dict[str, str]:
        """Wait for a message with a variable; return it."""
        while name not in (found := self.get()):
            assert found == {"WATCHDOG": "1"}, f"expected {name}"
        return found

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notified]:
    """Open the socket of a service manager, which the programs of the test use."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    notified = Notified(str(tmp_path / "notify"))
    yield notified
    notified.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with the module `chat`."""
    (tmp_path / "chat.py").write_text(APP)
    return tmp_path


def test_start_and_end(manager: Notified, folder: Path) -> None:
    with Program(["-m", "pywsapp", "run", "chat"], cwd=folder) as program:
        assert manager.get() == {"READY": "1"}
        with urlopen(f"http://127.0.0.1:{program.port}/who", timeout=GUARD) as answer:
            assert answer.read()
        program.send(signal.SIGTERM)
        assert manager.get() == {"STOPPING": "1"}
        assert program.end() == 0


def test_workers_and_their_replacement(manager: Notified, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A message a second: the kernel keeps ten messages that the test has not read, and drops further ones.
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    with Program(["-m", "pywsapp", "run", "chat", "--workers", "2"], cwd=folder) as program:
        manager.until("READY")
        before = time.monotonic_ns() // 1000
        program.send(signal.SIGHUP)
        found = manager.until("RELOADING")
        assert before <= int(found["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert manager.until("READY") == {"READY": "1"}
        program.until("all workers are replaced")
        manager.until("WATCHDOG")
        (folder / "chat.py").write_text("broken")
        program.send(signal.SIGHUP)
        manager.until("RELOADING")
        manager.until("READY")
        program.until("the old workers stay")
        program.send(signal.SIGTERM)
        manager.until("STOPPING")
        assert program.end() == 0


def test_an_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"pywsapp-test-{os.getpid()}"
    notified = Notified(f"\0{name}")
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    service_manager().ready()
    assert notified.get() == {"READY": "1"}
    notified.close()


@pytest.mark.anyio
async def test_the_watchdog_gets_messages_while_the_event_loop_runs(tmp_path: Path) -> None:
    notified = Notified(str(tmp_path / "notify"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ServiceManager(str(tmp_path / "notify"), 0.02).keep_alive)
        for _ in range(3):
            assert await anyio.to_thread.run_sync(notified.get) == {"WATCHDOG": "1"}
        tasks.cancel_scope.cancel()
    notified.close()


@pytest.mark.parametrize(
    ("variables", "watchdog"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({}, None),
    ],
)
def test_which_watchdog(
    variables: dict[str, str], watchdog: float | None, manager: Notified, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert service_manager()._watchdog == watchdog


@pytest.mark.parametrize("path", ["", "relative", "vsock:2:1234"])
def test_other_addresses_are_ignored(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    service_manager().ready()


def test_a_manager_that_is_gone_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manager = ServiceManager(str(tmp_path / "notify"))
    manager.ready()
    manager.stopping()
    assert [record.getMessage() for record in caplog.records] == [
        "the service manager does not get messages (NOTIFY_SOCKET): No such file or directory"
    ]


# -- sockets that are passed -------------------------------------------------------------------------------------------

#: Puts inherited sockets where systemd does, and becomes the program.
PASS = """
import os, sys
count = int(sys.argv[1])
fds = [os.dup(int(text)) for text in sys.argv[2 : 2 + count]]
for number, fd in enumerate(fds):
    os.dup2(fd, 3 + number)
    os.set_inheritable(3 + number, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count))
os.execv(sys.executable, [sys.executable, *sys.argv[2 + count :]])
"""


def activated(sockets: list[socket.socket], folder: Path, *arguments: str) -> Program:
    fds = [sock.fileno() for sock in sockets]
    start = ["-c", PASS, str(len(fds)), *map(str, fds), "-u", "-m", "pywsapp", "run", "chat", *arguments]
    return Program(start, pass_fds=fds, cwd=folder)


@pytest.fixture
def listening() -> Iterator[Callable[[], tuple[socket.socket, int]]]:
    """Open listening sockets as a service manager does."""
    opened: list[socket.socket] = []

    def open_one() -> tuple[socket.socket, int]:
        # The fds in the program are 3 and 4, so those of this process must be higher.
        sock = socket.create_server(("127.0.0.1", 0))
        opened.append(sock)
        return sock, sock.getsockname()[1]

    yield open_one
    for sock in opened:
        sock.close()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_app_listens_on_the_sockets_that_are_passed(
    workers: str, folder: Path, listening: Callable[[], tuple[socket.socket, int]]
) -> None:
    (first, first_port), (second, second_port) = listening(), listening()
    with activated([first, second], folder, "--workers", workers) as program:
        program.until("pywsapp .* on ")
        for port in (first_port, second_port):
            with urlopen(f"http://127.0.0.1:{port}/who", timeout=GUARD) as answer:
                assert answer.read()
        program.send(signal.SIGTERM)
        assert program.end() == 0


def test_an_explicit_port_comes_first(folder: Path, listening: Callable[[], tuple[socket.socket, int]]) -> None:
    sock, port = listening()
    with activated([sock], folder, "--port", "0") as program:
        assert program.port != port
        program.send(signal.SIGTERM)
        assert program.end() == 0


def test_too_few_sockets() -> None:
    app = App()
    app.listen(port=0)
    with pytest.raises(ConfigurationError, match="passes 1 of the 2 sockets that the App listens on"):
        app._runner.change_listening().use_passed([3])


@pytest.mark.parametrize(
    ("variables", "fds"),
    [
        ({"LISTEN_FDS": "2", "LISTEN_PID": "1"}, []),
        ({"LISTEN_FDS": "2"}, []),
        ({"LISTEN_FDS": "x", "LISTEN_PID": str(os.getpid())}, []),
        ({"LISTEN_FDS": "0", "LISTEN_PID": str(os.getpid())}, []),
        ({"LISTEN_FDS": "99999", "LISTEN_PID": str(os.getpid())}, []),
        ({}, []),
    ],
)
def test_sockets_of_other_programs_are_left_alone(
    variables: dict[str, str], fds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYWSAPP_LISTEN_FDS", "5")  # of a program that has started this one
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert list(passed_sockets(is_worker=False)) == fds
    assert "LISTEN_FDS" not in os.environ
    assert list(passed_sockets(is_worker=True)) == []


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="apt-get install systemd")
def test_systemd_socket_activate(folder: Path) -> None:
    port = free_port()
    command = ["systemd-socket-activate", "-l", f"127.0.0.1:{port}", "-E", "PYTHONPATH", sys.executable]
    process = subprocess.Popen(
        [*command, "-m", "pywsapp", "run", "chat"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        assert b"Listening on" in process.stderr.readline()
        with urlopen(f"http://127.0.0.1:{port}/who", timeout=GUARD) as answer:
            assert answer.read().startswith(b"None")
    finally:
        process.kill()
        process.communicate()
