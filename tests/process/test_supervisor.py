"""The supervisor in this process, with small programs as workers; `test_run_workers.py` has whole Apps."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from support.serving import GUARD

from pywsapp._process import supervisor as module
from pywsapp._process.supervisor import LONGEST_PAUSE, Supervisor, share
from pywsapp._process.worker_limits import WorkerLimits
from pywsapp._process.worker_process import Attach, WorkerProcess
from pywsapp._process.worker_stats import StatsOfWorkers
from pywsapp._server.bind import ListeningSocket, bind
from pywsapp.exceptions import ConfigurationError

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send"),
]

#: Sends its number and process ID on the bus, then does what it receives.
WORKER = """
import os, signal, sys, threading
import anyio
from pywsapp._process.worker_context import worker_context
context = worker_context()
def end(number, frame):
    sys.exit()
signal.signal(signal.SIGTERM, end)
{first}
threading.Thread(target=anyio.run, args=[context.report_alive], daemon=True).start()
context.bus.sendall(f"{{context.number}} {{os.getpid()}}\\n".encode())
context.listening()
while True:
    word = context.bus.recv(100)
    if word == b"crash":
        os._exit(3)
    elif word == b"stay":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    context.bus.sendall(word)
"""


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


class Bus:
    """The supervisor's end of one worker's bus."""

    def __init__(self, number: int, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.number = number
        self.sock = sock

    async def read(self) -> bytes:
        await anyio.wait_readable(self.sock)
        return self.sock.recv(100)

    async def ask(self, word: bytes) -> None:
        self.sock.send(word)
        assert await self.read() == word

    async def pid(self) -> int:
        """Read the number and the process ID of the worker; return the process ID."""
        number, pid = (await self.read()).split()
        assert int(number) == self.number
        return int(pid)

    async def ended(self) -> bool:
        return await self.read() == b""


class Buses:
    """The supervisor's ends of all buses."""

    def __init__(self) -> None:
        self.all: list[Bus] = []
        self._more = anyio.Event()

    def attach(self, number: int, sock: socket.socket) -> None:
        self.all.append(Bus(number, sock))
        self._more.set()

    async def of(self, number: int, process: int = 1) -> Bus:
        """Wait for the bus of the first, second, ... process of a worker."""
        while len(found := [bus for bus in self.all if bus.number == number]) < process:
            self._more = anyio.Event()
            await self._more.wait()
        return found[process - 1]


def supervisor_of(
    workers: int,
    command: list[str],
    *,
    limit: float = GUARD,
    limits: WorkerLimits | None = None,
    attach: Attach | None = None,
) -> Supervisor:
    limits = limits or WorkerLimits()
    return Supervisor([ListeningSocket(port=0)], workers, command, limit=limit, limits=limits, attach=attach)


@asynccontextmanager
async def supervised(
    buses: Buses, workers: int = 2, *, first: str = "", limit: float = GUARD, limits: WorkerLimits | None = None
) -> AsyncIterator[Supervisor]:
    """Run a supervisor until its workers listen, and stop it at the end."""
    command = [sys.executable, "-c", WORKER.format(first=first)]
    supervisor = supervisor_of(workers, command, limit=limit, limits=limits, attach=buses.attach)
    listening = anyio.Event()
    try:
        with anyio.fail_after(2 * GUARD):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(supervisor.run, listening.set)
                await listening.wait()
                yield supervisor
                supervisor.stop()
    finally:
        for bus in buses.all:
            bus.sock.close()


# -- the bus -----------------------------------------------------------------------------------------------------------


async def test_every_worker_process_has_its_own_bus() -> None:
    buses = Buses()
    async with supervised(buses) as supervisor:
        first, second = await buses.of(1), await buses.of(2)
        pids = {await first.pid(), await second.pid()}
        first.sock.send(b"crash")
        assert await first.ended()
        third = await buses.of(1, 2)
        pids.add(await third.pid())
        supervisor.replace()
        assert await third.ended()
        assert await second.ended()
        fourth, fifth = await buses.of(1, 3), await buses.of(2, 2)
        pids |= {await fourth.pid(), await fifth.pid()}
        assert len(pids) == len(buses.all) == 5
        await fourth.ask(b"hello")


async def test_without_attach_there_is_no_bus(capfd: pytest.CaptureFixture[str]) -> None:
    source = "import pywsapp._process.worker_context as module\nprint(f'bus {module.worker_context().bus}\\n', end='')"
    with pytest.raises(SystemExit):
        await Supervisor(
            [ListeningSocket(port=0)], 2, [sys.executable, "-c", source], limit=GUARD, limits=WorkerLimits()
        ).run(lambda: None)
    assert capfd.readouterr().out.split("\n")[:2] == ["bus None", "bus None"]


# -- ending ------------------------------------------------------------------------------------------------------------


async def test_worker_that_does_not_end_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    buses = Buses()
    async with supervised(buses, limit=0.1):
        bus = await buses.of(1)
        await bus.pid()
        await bus.ask(b"stay")
    assert "does not end in time and is killed" in caplog.text
    assert "was stopped, and was killed by SIGKILL" in caplog.text


async def test_cancelled_supervisor_ends_all_workers() -> None:
    buses = Buses()
    with anyio.CancelScope() as scope:
        async with supervised(buses):
            pids = [await (await buses.of(number)).pid() for number in (1, 2)]
            await buses.all[0].ask(b"stay")
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_stopped_while_workers_start() -> None:
    buses = Buses()
    command = [sys.executable, "-c", WORKER.format(first="context.bus.sendall(b'begun'); signal.pause()")]
    supervisor = Supervisor(
        [ListeningSocket(port=0)], 1, command, limit=GUARD, limits=WorkerLimits(), attach=buses.attach
    )

    def started() -> None:
        pytest.fail("no worker listens")

    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(supervisor.run, started)
            bus = await buses.of(1)
            assert await bus.read() == b"begun"
            supervisor.stop()
    with bus.sock:
        assert await bus.ended()


async def test_no_connection_is_accepted_while_workers_end() -> None:
    buses = Buses()
    async with supervised(buses, first="[os.close(fd) for fds in context.sockets for fd in fds]") as supervisor:
        port = int(supervisor.addresses[0][1].rpartition(":")[2])
        for number in (1, 2):
            bus = await buses.of(number)
            await bus.pid()
            await bus.ask(b"stay")
        assert not await refused(port)
        supervisor.stop()
        with anyio.fail_after(GUARD):
            while not await refused(port):
                await anyio.lowlevel.checkpoint()
        await bus.ask(b"still there")
        for bus in buses.all:
            bus.sock.send(b"crash")


async def refused(port: int) -> bool:
    try:
        async with await anyio.connect_tcp("127.0.0.1", port):
            return False
    except OSError:
        return True


# -- starting ----------------------------------------------------------------------------------------------------------


async def test_command_that_cannot_be_started(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    supervisor = Supervisor(
        [ListeningSocket(port=0)], 1, [str(tmp_path / "nothing")], limit=GUARD, limits=WorkerLimits()
    )
    with pytest.raises(SystemExit) as caught:
        await supervisor.run(lambda: None)
    assert caught.value.code == 1
    assert "worker 1 cannot be started: [Errno 2]" in caplog.text


async def test_replacement_that_does_not_listen_in_time(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    buses = Buses()
    async with supervised(buses, first="while 'HANGS' in os.environ: signal.pause()") as supervisor:
        old = await buses.of(1)
        await old.pid()
        monkeypatch.setenv("HANGS", "1")
        supervisor._limits = WorkerLimits(0.5)
        supervisor.replace()
        assert await (await buses.of(1, 2)).ended()
        while "the old workers stay" not in caplog.text:  # noqa: ASYNC110 - there is no event
            await anyio.sleep(0.01)
        await old.ask(b"still there")
        assert len(buses.all) == 4
    assert "hangs and is killed: it has not begun to listen for 0.5 s" in caplog.text


async def test_second_request_for_replacements_ends_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    buses = Buses()
    async with supervised(buses, 1, first="while 'HANGS' in os.environ: signal.pause()") as supervisor:
        monkeypatch.setenv("HANGS", "1")
        supervisor.replace()
        hanging = await buses.of(1, 2)
        monkeypatch.delenv("HANGS")
        supervisor.replace()
        await (await buses.of(1, 3)).pid()
        assert await hanging.ended()


async def test_replaced_while_a_crashed_worker_waits_for_its_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 1000.0)
    buses = Buses()
    async with supervised(buses, 1) as supervisor:
        old = await buses.of(1)
        await old.pid()
        old.sock.send(b"crash")
        assert await old.ended()
        supervisor.replace()
        await (await buses.of(1, 2)).pid()


async def test_pauses_double_up_to_a_bound_and_start_again_after_a_stable_time() -> None:
    slot = module._Slot(1, [])
    slot.worker = WorkerProcess(1, WorkerLimits(), StatsOfWorkers(1))
    pauses = [slot.pause() for _ in range(30)]
    for number, pause in enumerate(pauses):
        longest = min(0.1 * 2**number, LONGEST_PAUSE)
        assert 0.75 * longest <= pause <= longest
    slot.worker.listens = True
    assert slot.pause() >= 0.75 * LONGEST_PAUSE
    slot.worker.began -= 60
    assert slot.pause() <= 0.1


# -- sockets -----------------------------------------------------------------------------------------------------------


def shared(listener: ListeningSocket, count: int, check: Callable[[list[list[socket.socket]]], None]) -> None:
    with ExitStack() as opened:
        shares = share(listener, count)
        for sock in {sock for sockets in shares for sock in sockets}:
            opened.enter_context(sock)
        assert len(shares) == count
        check(shares)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere SO_REUSEPORT does not balance")
@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", ""])
def test_on_linux_every_worker_has_its_own_sockets_on_one_port(address: str) -> None:
    def check(shares: list[list[socket.socket]]) -> None:
        assert len({sock.fileno() for sockets in shares for sock in sockets}) == 3 * len(shares[0])
        assert len({sock.getsockname()[1] for sockets in shares for sock in sockets}) == 1
        assert all(sockets[0].getsockname() == shares[0][0].getsockname() for sockets in shares)

    shared(ListeningSocket(address=address, port=0), 3, check)


def test_unix_and_inherited_sockets_are_shared(tmp_path: Path) -> None:
    def check(shares: list[list[socket.socket]]) -> None:
        assert shares[0] == shares[1]

    shared(ListeningSocket(unix_path=str(tmp_path / "sock")), 2, check)
    (sock,) = bind(ListeningSocket(port=0))
    shared(ListeningSocket(fd=sock.detach()), 2, check)


def test_port_that_other_programs_share_is_in_use() -> None:
    with bind(ListeningSocket(port=0, reuse_port=hasattr(socket, "SO_REUSEPORT")))[0] as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"cannot listen on 127.0.0.1:{port}: the address is in use"):
            share(ListeningSocket(port=port), 2)
