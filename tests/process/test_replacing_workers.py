"""Workers that are replaced: all at once at SIGHUP, one that ends by itself, one that has reached a limit."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack

import pytest
from process.test_run_workers import SOON, WORKER_INFO, Client, one_of_each, worker_info
from support.program import BlockingClient, Program, both_libraries
from support.serving import TEXT, frame

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send")


class Staying:
    """Clients that connect again when the server closes their connection.

    Attributes:
        closes: how often the connection of each client was closed.
        clients: the present connection of each client.
    """

    def __init__(self, port: int, count: int) -> None:
        self.closes = [0] * count
        self.clients = [Client(port) for _ in range(count)]
        self._port = port
        self._threads = [threading.Thread(target=self._stay, args=[number]) for number in range(count)]

    def __enter__(self) -> Staying:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        for client in self.clients:
            client.sock.shutdown(2)
        for thread in self._threads:
            thread.join()
        for client in self.clients:
            client.sock.close()

    def _stay(self, number: int) -> None:
        while True:
            try:
                self.clients[number].receive_close()
            except (AssertionError, OSError):
                return  # the end of the test
            self.closes[number] += 1
            self.clients[number].sock.close()
            self.clients[number] = Client(self._port)


@both_libraries
def test_each_client_is_closed_once_and_the_clients_spread_over_all_workers(run: str) -> None:
    with Program(f"{worker_info()}app.run({run}, workers=3)") as program, Staying(program.port, 60) as staying:
        old = {client.pid for client in staying.clients}
        assert len(old) == 3
        program.send(signal.SIGHUP)
        program.until("all workers are replaced")
        deadline = time.monotonic() + SOON
        while any(client.pid in old for client in staying.clients):
            assert time.monotonic() < deadline
            time.sleep(0.01)  # until the last ones have connected again
        assert staying.closes == [1] * 60
        reached = Counter(client.worker for client in staying.clients)
        # A worker gets 20 on average, with a standard deviation of 3.7: one run in a million is off by 18.
        assert min(reached[number] for number in (1, 2, 3)) > 2


def test_worker_that_got_sigterm_itself_is_replaced_while_it_drains() -> None:
    source = f"{worker_info('close_timeout=25, drain_timeout=25')}app.run(workers=2)"
    with Program(source) as program, one_of_each(program.port, 2) as old:
        os.kill(old[1].pid, signal.SIGTERM)
        program.until(rf"worker 1 \(process {old[1].pid}\) shuts down by itself; another one takes its place")
        with one_of_each(program.port, 2) as new:
            assert new[1].pid != old[1].pid
            assert new[2].pid == old[2].pid
        os.kill(old[1].pid, 0)  # it waits for the answer to its close frame
        assert old[1].receive_close() == 1012
        program.send(signal.SIGTERM)
        assert old[2].receive_close() == 1012
        assert program.end(SOON) == 0
    assert "ERROR" not in program.output


# -- what workers share ------------------------------------------------------------------------------------------------


def accepted(port: int, count: int) -> list[Client]:
    """Connect until a handshake is refused, `count` times at most; return the open clients."""
    clients = []
    for _ in range(count):
        try:
            clients.append(Client(port))
        except AssertionError:
            break
    return clients


def test_max_connections_is_that_of_all_workers() -> None:
    source = f"""{worker_info()}
app = App("*", 0, max_connections=30)
app.route("/", WorkerInfo())
app.run(workers=2)
"""
    with Program(source) as program:
        port = program.port
        clients = accepted(port, 60)
        assert len(clients) == 30
        assert len({client.pid for client in clients}) == 2, "one run in five hundred million has all in one worker"
        killed = clients[0].pid
        others = [client for client in clients if client.pid != killed]
        os.kill(killed, signal.SIGKILL)
        program.until("was killed by SIGKILL")
        others += accepted(port, 60)
        assert len(others) == 30, "the connections of the killed worker do not count"
        others.pop().sock.close()
        deadline = time.monotonic() + SOON
        while not (again := accepted(port, 1)):
            assert time.monotonic() < deadline
        for client in (*clients, *others, *again):
            client.sock.close()


@both_libraries
def test_users_of_a_killed_worker_are_gone_at_once(run: str) -> None:
    source = f"""{WORKER_INFO.format(options="")}
class Room(WorkerInfo):
    async def on_open(self, conn):
        topic = app.topic("room")
        await topic.add(conn)  # also waits until the users of the other worker are known
        topic.track(conn, str(app.worker))
        super().on_open(conn)
    def on_message(self, conn, message):
        conn.send(" ".join(sorted(app.topic("room").present())))

@app.on_presence("room")
def show(topic, diff):
    write_line(f"worker {{app.worker}}: joined {{sorted(diff.joined)}} left {{sorted(diff.left)}}")

app.route("/room", Room())
app.run({run}, workers=2)
"""
    with Program(source) as program:
        port = program.port
        with ExitStack() as opened:
            clients: dict[str, BlockingClient] = {}
            pids: dict[str, int] = {}
            while len(clients) < 2:
                client = opened.enter_context(BlockingClient(port, path="/room"))
                worker, pid = client.frame()[1].decode().split()
                clients[worker], pids[worker] = client, int(pid)
            present = b""
            while present != b"1 2":
                clients["1"].sock.sendall(frame(TEXT))
                present = clients["1"].frame()[1]
            os.kill(pids["2"], signal.SIGKILL)
            killed_at = time.monotonic()
            program.until(r"worker 1: joined \[\] left \['2'\]")
            assert time.monotonic() - killed_at < 10, "the lease of a process is 15 seconds"


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ("worker_max_age=2", r"it has run for \d+ s"),
        ("worker_max_connections=20", r"it has accepted \d+ connections"),
        ("worker_max_memory=2**20", r"it uses \d+ MiB of memory"),
    ],
)
def test_worker_that_has_reached_a_limit_is_replaced(limit: str, reason: str) -> None:
    with Program(f"{worker_info()}app.run(workers=2, worker_timeout=10, {limit})") as program:
        port = program.port
        stop = threading.Event()

        def visit() -> None:
            while not stop.is_set():
                with Client(port):
                    pass

        visitor = threading.Thread(target=visit)
        visitor.start()
        try:
            match = program.until(rf"replacing worker (\d) \(process (\d+)\): {reason}\n")
            program.until(rf"replacing worker {3 - int(match[1])} \(process (\d+)\): {reason}\n")
        finally:
            stop.set()
            visitor.join()
        program.send(signal.SIGTERM)
        assert program.end(SOON) == 0
    assert "ERROR" not in program.output
    assert not re.search("(?s)replacing worker.*replacing worker", program.output.partition("replacing")[0])


def test_limits_need_workers() -> None:
    with Program(f"{worker_info()}app.run(worker_max_age=10)") as program:
        assert program.end(SOON) == 1
    assert "need more than one worker" in program.output
