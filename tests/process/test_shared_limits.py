"""Limits of connections that hold for all workers of a machine together."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import ExitStack

import pytest
from process.test_run_workers import SOON, worker_info
from support.program import BlockingClient, Program

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send")


def program_of(limits: str) -> str:
    return f"""{worker_info()}
from pywsapp import TooMany
from pywsapp.auth import public
app = App("*", 0, authenticate=lambda request: request.query_params.get("user") or public(request), {limits})
app.route("/", WorkerInfo())
app.run(workers=2)
"""


def attempts(opened: ExitStack, port: int, count: int, path: str = "/") -> list[BlockingClient]:
    """Connect `count` times; return the clients that were not refused."""
    clients = []
    for _ in range(count):
        try:
            clients.append(opened.enter_context(BlockingClient(port, path=path)))
        except AssertionError:
            continue
    return clients


def workers_of(clients: list[BlockingClient]) -> dict[BlockingClient, tuple[int, int]]:
    """Return the number and the process of the worker of each client."""
    found = {}
    for client in clients:
        number, pid = client.frame()[1].split()
        found[client] = int(number), int(pid)
    return found


def test_the_limit_of_an_address_is_that_of_all_workers() -> None:
    with Program(program_of("max_connections_per_address=30")) as program, ExitStack() as opened:
        port = program.port
        reached = workers_of(attempts(opened, port, 60))
        assert len(reached) == 30
        # One run in five hundred million has all of them in one worker.
        assert {number for number, _ in reached.values()} == {1, 2}
        last = next(iter(reached))
        last.sock.close()
        deadline = time.monotonic() + SOON
        while not attempts(opened, port, 1):  # until the server has noticed
            assert time.monotonic() < deadline
        assert attempts(opened, port, 20) == []
        killed = reached[last][1]
        os.kill(killed, signal.SIGKILL)
        program.until("was killed by SIGKILL; starting another one")
        remaining = sum(pid != killed for client, (_, pid) in reached.items() if client is not last)
        # The client that came after `last` is in one of the two.
        assert 30 - remaining - 1 <= len(attempts(opened, port, 60)) <= 30 - remaining


def test_replaced_workers_leave_their_rows_empty() -> None:
    with Program(program_of("max_connections_per_address=6")) as program, ExitStack() as opened:
        port = program.port
        for _ in range(2):
            first = attempts(opened, port, 20)
            assert len(first) == 6
            workers_of(first)
            start = len(program.output)
            program.send(signal.SIGHUP)
            assert [client.receive_close() for client in first] == [1012] * 6
            program.until("all workers are replaced", start)
        assert len(attempts(opened, port, 20)) == 6


def test_the_limit_of_a_user_is_that_of_all_workers() -> None:
    with Program(program_of("max_connections_per_user=5")) as program, ExitStack() as opened:
        port = program.port
        reached = workers_of(attempts(opened, port, 30, "/?user=ana"))
        assert len(reached) == 5
        assert len(attempts(opened, port, 30, "/?user=ben")) == 5
        assert len(attempts(opened, port, 10)) == 10, "without a user"


def test_the_oldest_connection_of_a_user_is_closed_in_whichever_worker_it_is() -> None:
    limits = "max_connections_per_user=3, on_too_many=TooMany.CLOSE_OLDEST"
    with Program(program_of(limits)) as program, ExitStack() as opened:
        ben = workers_of(attempts(opened, program.port, 1, "/?user=ben"))
        clients: list[BlockingClient] = []
        numbers = set()
        for _ in range(20):  # one after the other, and each waits until the one that it displaces is closed
            [client] = attempts(opened, program.port, 1, "/?user=ana")
            numbers.add(workers_of([client])[client][0])
            clients.append(client)
            if len(clients) > 3:
                assert clients.pop(0).receive_close() == 1008
        assert numbers == {1, 2}
        program.send(signal.SIGTERM)
        assert [client.receive_close() for client in [*ben, *clients]] == [1012] * 4
        assert program.end(SOON) == 0


def test_workers_share_the_rate_of_handshakes() -> None:
    with Program(program_of("max_handshakes_per_second=10")) as program, ExitStack() as opened:
        port = program.port
        began = time.monotonic()
        clients = attempts(opened, port, 60)
        assert 10 <= len(clients) <= 10 + 10 * (time.monotonic() - began)


def test_a_program_without_shared_memory_says_so() -> None:
    source = f"""
import os, tempfile
def refuse(*arguments, **options):
    raise OSError("not here")
os.memfd_create = tempfile.TemporaryFile = refuse
{program_of("max_connections_per_address=3, max_connections=100")}"""
    with Program(source) as program, ExitStack() as opened:
        reached = workers_of(attempts(opened, program.port, 60))
        numbers = [number for number, _ in reached.values()]
        assert (numbers.count(1), numbers.count(2)) == (3, 3)
        assert program.output.count("workers cannot share memory (not here)") == 1
        program.send(signal.SIGTERM)
        for client in reached:
            assert client.receive_close() == 1012
        assert program.end(SOON) == 0
