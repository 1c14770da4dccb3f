"""`App.run(workers=...)` in its own processes: shared sockets, signals, crashes, replacements and output."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.program import BlockingClient, Program, both_libraries, every_backend
from support.serving import CLOSE, GUARD, TEXT, frame

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send")

#: Seconds; shorter than the time limits of 30 seconds that a test could reach by mistake.
SOON = 25
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere SO_REUSEPORT does not balance")

#: An App whose connections send the number and the process ID of their worker; a message can make it crash.
WORKER_INFO = """
import os, sys, signal
import anyio
from pywsapp import App, MessageComponent, Options

def write_line(text):
    sys.stdout.write(text + "\\n")  # in one write, because other processes write too

class WorkerInfo(MessageComponent):
    def on_open(self, conn):
        conn.send(f"{{app.worker}} {{os.getpid()}}")
    def on_message(self, conn, message):
        if message == "crash":
            os._exit(3)

app = App("*", 0, options=Options({options}))
app.route("/", WorkerInfo())
"""

#: Shortens the times that a worker has to end, for handlers that do not end.
SHORT_LIMITS = """
from pywsapp._process import running, signals
running._SPARE_SECONDS = running._BROKER_SECONDS = running._HANDSHAKE_GRACE = signals._CANCEL_SECONDS = 0.3
"""


def worker_info(options: str = "") -> str:
    return WORKER_INFO.format(options=options)


class Client(BlockingClient):
    """A client that knows the worker it is connected to."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        number, pid = self.frame()[1].split()
        self.worker, self.pid = int(number), int(pid)


@contextmanager
def one_of_each(port: int, workers: int) -> Iterator[dict[int, Client]]:
    """Connect until every worker has a client."""
    with ExitStack() as opened:
        reached: dict[int, Client] = {}
        for _ in range(200):
            client = Client(port)
            if client.worker in reached:
                client.sock.close()
                continue
            reached[client.worker] = opened.enter_context(client)
            if len(reached) == workers:
                break
        assert sorted(reached) == list(range(1, workers + 1))
        yield reached


# -- sharing -----------------------------------------------------------------------------------------------------------


@every_backend
def test_workers_share_the_port_and_drain_at_sigterm(run: str) -> None:
    source = f"""{worker_info()}
app.on_startup(lambda: write_line(f"startup {{app.worker}}"))
app.on_shutdown(lambda: write_line(f"shutdown {{app.worker}}"))
app.run({run}, workers=2)
write_line(f"behind run {{app.worker}}")
"""
    with Program(source) as program, one_of_each(program.port, 2) as clients:
        pids = {client.pid for client in clients.values()} | {program.process.pid}
        assert len({os.getpgid(pid) for pid in pids}) == 3, "a terminal sends SIGINT to a process group"
        program.send(signal.SIGTERM)
        assert [client.receive_close() for client in clients.values()] == [1012, 1012]
        assert program.end(SOON) == 0
    lines = program.output.splitlines()
    assert sorted(line for line in lines if line.startswith("startup")) == ["startup 1", "startup 2"]
    assert sorted(line for line in lines if line.startswith("shutdown")) == ["shutdown 1", "shutdown 2"]
    assert lines[-1] == "behind run None"
    assert program.output.count("behind run") == 1
    assert (
        len(re.findall(r" INFO pywsapp [\w.]+: 2 workers on \w+: http://127.0.0.1:\d+( \(.*\))?\n", program.output))
        == 1
    )
    assert program.output.count("http://") == 1
    assert program.output.count("repeat the signal to end at once") == 1
    assert "Traceback" not in program.output


@ON_LINUX
def test_connections_are_spread_evenly() -> None:
    with Program(f"{worker_info()}app.run(workers=4)") as program, ExitStack() as opened:
        port = program.port
        reached = [opened.enter_context(Client(port)).worker for _ in range(400)]
        # A worker gets 100 on average, with a standard deviation of 9: one run in ten million is off by 50.
        assert all(abs(reached.count(number) - 100) < 50 for number in (1, 2, 3, 4))


def test_all_addresses_and_listeners_are_shared() -> None:
    source = (
        f'{worker_info()}app = App("*", 0, "")\napp.listen(port=0)\napp.route("/", WorkerInfo())\napp.run(workers=2)'
    )
    with Program(source) as program:
        urls = program.until(r"2 workers on \w+: (http[^(\n]*)")[1].split()
        for port in {int(url.rpartition(":")[2]) for url in urls}:
            with one_of_each(port, 2):
                pass
        program.send(signal.SIGTERM)
        assert program.end(SOON) == 0


def test_unix_socket_is_shared_and_its_file_is_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "chat.sock"
    source = f'{worker_info()}app = App("*", unix_path={str(path)!r})\napp.http("/", lambda _: str(app.worker))\n'
    with Program(f"{source}app.run(workers=2)") as program:
        program.until(f"2 workers on .* unix:{path}\n")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(GUARD)
            sock.connect(str(path))
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert sock.makefile("rb").read()[-1:] in (b"1", b"2")
        program.send(signal.SIGTERM)
        assert program.end(SOON) == 0
    assert not path.exists()


def test_inherited_socket_is_shared() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.set_inheritable(True)
        port, fd = sock.getsockname()[1], sock.fileno()
        program = Program(
            f'{worker_info()}app = App("*", fd={fd})\napp.route("/", WorkerInfo())\napp.run(workers=2)', pass_fds=[fd]
        )
        with program:
            assert program.port == port
            with Client(port) as client:
                assert client.worker in (1, 2)
            program.send(signal.SIGTERM)
            assert program.end(SOON) == 0


def test_a_program_that_a_worker_starts_is_not_a_worker() -> None:
    source = f"""{worker_info()}
import subprocess
print(subprocess.check_output([sys.executable, "-c", "import os; print('PYWSAPP_WORKER' in os.environ)"], text=True))
app.run(workers=2)
"""
    with Program(source) as program:
        program.port  # noqa: B018 - waits until all listen
        assert program.output.count("False") == 3
        program.send(signal.SIGTERM)
        assert program.end(SOON) == 0


# -- ending ------------------------------------------------------------------------------------------------------------


@every_backend
def test_second_sigint_ends_at_once_with_130(run: str) -> None:
    source = f"""{SHORT_LIMITS}{worker_info()}
class Hangs(WorkerInfo):
    async def on_message(self, conn, message):
        with anyio.CancelScope(shield=True):
            await anyio.sleep_forever()
    def on_close(self, conn):
        write_line(f"on_close {{conn.close_code}}")
app.route("/hangs", Hangs())
app.run({run}, workers=2)
"""
    with (
        Program(source) as program,
        one_of_each(program.port, 2),
        BlockingClient(program.port, trailing=frame(TEXT), path="/hangs") as hanging,
    ):
        hanging.frame()
        program.send(signal.SIGINT)
        assert hanging.frame()[0] == CLOSE
        assert program.process.poll() is None
        program.send(signal.SIGINT)
        assert program.end(SOON) == 130
    assert "SIGINT again: ending at once" in program.output
    assert "Traceback" not in program.output


def test_second_signal_calls_the_shutdown_hooks_of_workers() -> None:
    source = f"""{worker_info()}
class Hangs(WorkerInfo):
    async def on_message(self, conn, message):
        await anyio.sleep_forever()
app.route("/hangs", Hangs())
app.on_shutdown(lambda: write_line(f"shutdown {{app.worker}}"))
app.run(workers=2)
"""
    with Program(source) as program:
        clients = [BlockingClient(program.port, trailing=frame(TEXT), path="/hangs") for _ in range(20)]
        for client in clients:
            client.frame()
        program.send(signal.SIGTERM)
        assert all(client.frame()[0] == CLOSE for client in clients)
        program.send(signal.SIGTERM)
        assert program.end(SOON) == 130
    for client in clients:
        client.sock.close()
    assert sorted(re.findall(r"^shutdown (\d)$", program.output, re.MULTILINE)) == ["1", "2"]


def test_signals_to_a_worker_itself_do_not_count_twice() -> None:
    """systemd sends SIGTERM to every process of a service, and the supervisor sends it as well."""
    with Program(f"{worker_info()}app.run(workers=2)") as program, one_of_each(program.port, 2) as clients:
        pids = [client.pid for client in clients.values()]
        for pid in pids:
            os.kill(pid, signal.SIGHUP)
        for pid in (*pids, program.process.pid, *pids):
            os.kill(pid, signal.SIGTERM)
        assert [client.receive_close() for client in clients.values()] == [1012, 1012]
        assert program.end(SOON) == 0
    assert "starting another" not in program.output


def test_handler_that_does_not_end_does_not_stop_the_drain() -> None:
    source = f"""{SHORT_LIMITS}{worker_info("drain_timeout=0.2, on_close_timeout=0.2")}
class Hangs(WorkerInfo):
    def on_message(self, conn, message):
        write_line("begun")
        while True:
            pass
app.route("/hangs", Hangs())
app.run(workers=2)
"""
    with Program(source) as program, BlockingClient(program.port, path="/hangs") as client:
        client.sock.sendall(frame(TEXT))
        program.until("begun")
        program.send(signal.SIGTERM)
        assert program.end(SOON) == 0
    assert re.search(r"worker \d \(process \d+\) was stopped, and ended with status 1", program.output)


def test_workers_drain_when_the_supervisor_is_killed() -> None:
    with Program(f"{worker_info()}app.run(workers=2)") as program, one_of_each(program.port, 2) as clients:
        program.process.kill()
        assert [client.receive_close() for client in clients.values()] == [1012, 1012]
        program.end()  # the end of the output, so all processes that write to it have ended


def test_signal_before_workers_listen() -> None:
    source = f"""{worker_info()}
@app.on_startup
async def hang():
    write_line("starting")
    await anyio.sleep_forever()
app.run(workers=2)
"""
    with Program(source) as program:
        program.until(r"(?s)starting.*starting")
        program.send(signal.SIGTERM)
        assert program.end(SOON) == 0
    assert "pywsapp 0" not in program.output


# -- crashes -----------------------------------------------------------------------------------------------------------


@both_libraries
def test_crashed_worker_is_restarted_and_the_others_continue(run: str) -> None:
    with Program(f"{worker_info()}app.run({run}, workers=3)") as program, one_of_each(program.port, 3) as clients:
        clients[1].sock.sendall(frame(TEXT, b"crash"))
        os.kill(clients[2].pid, signal.SIGKILL)
        for number, what in ((1, "ended with status 3"), (2, "was killed by SIGKILL")):
            program.until(
                rf"ERROR worker {number} \(process {clients[number].pid}\) {what}; starting another one in 0\.1 s"
            )
        with one_of_each(program.port, 3) as again:  # new clients wait and are not refused
            assert again[1].pid != clients[1].pid
            assert again[2].pid != clients[2].pid
            assert again[3].pid == clients[3].pid
        program.send(signal.SIGTERM)
        assert clients[3].receive_close() == 1012
        assert program.end(SOON) == 0


def test_worker_that_crashes_again_and_again_is_started_less_and_less_often() -> None:
    source = f"""{worker_info()}
if app.worker == 1:
    app.on_startup(lambda: os._exit(7))
app.run(workers=2)
"""
    with Program(source) as program:
        program.until(r"(?s)(worker 1 [^\n]* ended with status 7; starting another one.*){4}")
        program.send(signal.SIGTERM)
        assert program.end(SOON) == 0
    pauses = [float(pause) for pause in re.findall(r"starting another one in ([\d.]+) s", program.output)]
    for pause, longest in zip(pauses, (0.1, 0.2, 0.4, 0.8), strict=False):
        assert 0.75 * longest - 0.06 <= pause <= longest
    assert "2 workers on" in program.output, "the other one serves"


def test_no_worker_listens() -> None:
    # No worker is started again before the other one has ended too.
    source = f"""{worker_info()}
from pywsapp._process import supervisor
supervisor.FIRST_PAUSE = 1000.0
@app.on_startup
def fail():
    raise LookupError("no database")
app.run(workers=2)
"""
    with Program(source) as program:
        assert program.end(SOON) == 1
    assert program.output.count("no database") == 2, "both say why, at the same time, so their lines can mix"
    assert program.output.endswith(" ERROR no worker listens; their output above says why\n")
    assert "SystemExit" not in program.output
    assert "ExceptionGroup" not in program.output


# -- replacing ---------------------------------------------------------------------------------------------------------


class Visitors:
    """Threads that connect and do a handshake again and again, and store their failures."""

    def __init__(self, port: int, threads: int = 2) -> None:
        self.reached: list[int] = []
        self.failures: list[Exception] = []
        self._port = port
        self._stop = threading.Event()
        self._more = threading.Condition()
        self._threads = [threading.Thread(target=self._visit) for _ in range(threads)]

    def __enter__(self) -> Visitors:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_more(self, count: int) -> None:
        """Wait until so many more have connected."""
        with self._more:
            enough = len(self.reached) + count
            assert self._more.wait_for(lambda: len(self.reached) >= enough or self.failures, GUARD)

    def _visit(self) -> None:
        while not self._stop.is_set() and not self.failures:
            try:
                with Client(self._port) as client, self._more:
                    self.reached.append(client.pid)
                    self._more.notify_all()
            except Exception as exc:
                self.failures.append(exc)


@both_libraries
def test_sighup_replaces_the_workers_and_no_client_is_refused(run: str) -> None:
    source = f"{worker_info()}app.run({run}, workers=2)"
    with Program(source) as program, one_of_each(program.port, 2) as old:
        with Visitors(program.port) as visitors:
            visitors.wait_for_more(20)
            for times in (1, 2):
                program.send(signal.SIGHUP)
                if times == 1:
                    assert [old[1].receive_close(), old[2].receive_close()] == [1012, 1012], "in this order"
                program.until(rf"(?s)(all workers are replaced.*){{{times}}}")
                visitors.wait_for_more(20)
        assert visitors.failures == []
        gone = {client.pid for client in old.values()}
        assert gone & set(visitors.reached)
        assert not gone & set(visitors.reached[-20:])
        with one_of_each(program.port, 2) as new:
            assert not gone & {client.pid for client in new.values()}
        program.send(signal.SIGTERM)
        assert program.end(SOON) == 0
    assert "ERROR" not in program.output
    # On a busy machine the system can suspend a worker in the middle of a handler.
    assert re.findall("WARNING(?!.* has been blocking the event loop).*", program.output) == []


def test_sighup_loads_new_code(tmp_path: Path) -> None:
    script = tmp_path / "chat.py"
    script.write_text(f"{worker_info()}app.run(workers=2)")
    with Program([str(script)]) as program, one_of_each(program.port, 2) as old:
        script.write_text(
            f"{worker_info()}WorkerInfo.on_open = lambda self, conn: conn.send('new 1')\napp.run(workers=2)"
        )
        program.send(signal.SIGHUP)
        assert [old[1].receive_close(), old[2].receive_close()] == [1012, 1012]
        program.until("all workers are replaced")
        with BlockingClient(program.port) as client:
            assert client.frame() == (TEXT, b"new 1")


def test_new_code_that_does_not_run_keeps_the_old_workers(tmp_path: Path) -> None:
    script, good = tmp_path / "chat.py", worker_info("close_timeout=0.1")
    script.write_text(f"{good}app.run(workers=2)")
    with Program([str(script)]) as program, one_of_each(program.port, 2) as old:
        for mistake, status in (("1 / 0", 1), ("os._exit(5)", 5), ("app.listen(port=0)", 1)):
            script.write_text(f"{good}{mistake}\napp.run(workers=2)")
            before = len(program.output)
            program.send(signal.SIGHUP)
            what = rf"the new worker 1 \(process \d+\) ended with status {status}; the old workers stay"
            program.until(rf"(?s)^.{{{before}}}.*ERROR {what}")
        assert "restart the supervisor, because SIGHUP does not change its addresses" in program.output
        with one_of_each(program.port, 2) as still:
            assert {client.pid for client in still.values()} == {client.pid for client in old.values()}
        script.write_text(f"{good}app.run(workers=2)")
        program.send(signal.SIGHUP)
        program.until("all workers are replaced")


#: Makes a worker of this version think that its supervisor has another one.
OTHER_PROTOCOL = """
import json, os
settings = os.environ["PYWSAPP_WORKER"]
os.environ["PYWSAPP_WORKER"] = json.dumps({**json.loads(settings), "protocol": 0})
"""


def test_a_worker_of_another_version_than_its_supervisor_keeps_the_old_workers(tmp_path: Path) -> None:
    script, good = tmp_path / "chat.py", worker_info("close_timeout=0.1")
    script.write_text(f"{good}app.run(workers=2)")
    with Program([str(script)]) as program, one_of_each(program.port, 2) as old:
        script.write_text(f"{OTHER_PROTOCOL}\n{good}app.run(workers=2)")
        program.send(signal.SIGHUP)
        program.until(r"the new worker 1 \(process \d+\) ended with status 1; the old workers stay")
        assert "restart the program, because SIGHUP does not upgrade the supervisor" in program.output
        with one_of_each(program.port, 2) as still:
            assert {client.pid for client in still.values()} == {client.pid for client in old.values()}


# -- output and messages -----------------------------------------------------------------------------------------------


def test_log_lines_carry_the_worker() -> None:
    source = f"""{worker_info()}
import logging
class Fails(WorkerInfo):
    def on_open(self, conn):
        raise LookupError("no such room")
app.route("/fails", Fails())
app.run(workers=2)
"""
    with Program(source) as program, Client(program.port), BlockingClient(program.port, path="/fails"):
        program.until(r"\d\d:\d\d:\d\d,\d+ worker [12] ERROR Fails failed for <Connection \d+ /fails ")


def test_own_logging_can_show_the_worker() -> None:
    own = """
import logging
handler = logging.StreamHandler()
handler.setFormatter(logging.Formatter("[%(worker)s] %(name)s: %(message)s", defaults={"worker": "-"}))
logging.basicConfig(level="INFO", handlers=[handler])
"""
    source = f"""{worker_info()}{own}
app.on_startup(lambda: logging.getLogger("chat").info("ready"))
app.run(workers=2)
"""
    with Program(source) as program:
        program.until(r"\[-\] pywsapp: pywsapp .*: 2 workers")
        assert {"[worker 1] chat: ready", "[worker 2] chat: ready"} <= set(program.output.splitlines())


ERROR = "pywsapp.exceptions.ConfigurationError: "


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("app.run(workers=0)", "workers must be a number of processes of at least 1, not 0"),
        ("app.run(workers='2')", "workers must be a number of processes of at least 1, not '2'"),
        ("app.run(workers=True)", "workers must be a number of processes of at least 1, not True"),
        ("app.listen(port=port)\napp.run(workers=2)", "cannot listen on 127.0.0.1:{port}: the address is in use"),
        ("sys.argv[0] = '-'\napp.run(workers=2)", "workers run the program's command line again"),
        (
            "import threading\nthread = threading.Thread(target=app.run, kwargs={{'workers': 2}})\n"
            "threading.excepthook = lambda args: sys.excepthook(*args[:3])\nthread.start()\nthread.join()\nsys.exit(1)",
            "several workers need the main thread",
        ),
    ],
)
def test_mistake_is_reported_once(source: str, what: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Program(f"{worker_info()}port = {port}\n{source.format()}") as program:
            assert program.end(SOON) == 1
    assert program.output.rstrip("\n").rpartition("\n")[2].startswith(ERROR + what.format(port=port))
    assert program.output.count(ERROR) == 1
    assert "ExceptionGroup" not in program.output


@ON_LINUX
def test_port_of_another_supervisor_is_in_use() -> None:
    with Program(f"{worker_info()}app.run(workers=2)") as first:
        with Program(f"{worker_info()}app.rebind(port={first.port})\napp.run(workers=2)") as second:
            assert second.end(SOON) == 1
        assert f"cannot listen on 127.0.0.1:{first.port}: the address is in use" in second.output


def test_second_run_with_workers_is_refused() -> None:
    with Program(f"{worker_info()}app.run(workers=2)\napp.run(workers=2)") as program:
        program.port  # noqa: B018 - waits until all listen
        program.send(signal.SIGTERM)
        assert program.end(SOON) == 1
    assert f"{ERROR}only the first run() of a program can have workers" in program.output


def test_one_worker_is_this_process() -> None:
    with Program(f"{worker_info()}app.run(workers=1)") as program, BlockingClient(program.port) as client:
        assert client.frame() == (TEXT, f"None {program.process.pid}".encode())
