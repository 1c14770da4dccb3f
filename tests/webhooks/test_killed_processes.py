"""What a killed process had is reported once by the others: over Redis, and between the workers of a machine."""

from __future__ import annotations

import itertools
import os
import signal
import textwrap
from collections.abc import Iterator

import anyio
import anyio.to_thread
import pytest
from support.cluster import Rooms
from support.outages import until
from support.program import BlockingClient, Program
from support.receiver import SECRET, Receiver
from support.services import Redis

from pywsapp import App, Options
from pywsapp.testing import TestClient
from pywsapp.topics.occupancy.changes import Kind, Subject
from pywsapp.topics.presence import view as presence

pytestmark = pytest.mark.once
QUICK = Options(absence_delay=0.2)

PROGRAM = """
import os
from pywsapp import App, MessageComponent, Options
from pywsapp.topics.presence import view

view.HEARTBEAT_SECONDS = 0.2
app = App("*", {port}, broker={broker!r}, options=Options(absence_delay=0.2))
app.webhook({url!r}, secret={secret!r}, topics=["room:*"])

@app.route("/{{room}}")
class Rooms(MessageComponent):
    async def on_open(self, conn):
        await conn.subscribe(conn.request.path_params["room"])
        conn.send(str(os.getpid()))

app.run({arguments})
"""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


def program(receiver: Receiver, arguments: str, broker: str | None = None) -> Program:
    values = {"url": receiver.url, "secret": SECRET, "arguments": arguments, "broker": broker, "port": 0}
    return Program(textwrap.dedent(PROGRAM).format(**values))


def vacated(receiver: Receiver) -> list[str]:
    return [name for name in receiver.names if name.startswith("topic_vacated")]


def is_reported(app: App, name: str) -> bool:
    """Return whether a process knows that a topic was reported; otherwise it would report it again."""
    view = app.topics.occupancy._view
    return view is not None and Subject(Kind.TOPIC, name) in view._reported


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_a_process_that_is_killed_over_redis(
    redis: Redis, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "LEASE_SECONDS", 3.0)
    monkeypatch.setattr(presence, "HEARTBEAT_SECONDS", 0.2)
    broker = f"{redis.url}?prefix=killed"
    app = App("*", 0, broker=broker, options=QUICK)
    app.route("/{room}", Rooms())
    app.webhook(receiver.url, secret=SECRET, topics=["room:*"])
    with (
        program(receiver, 'backend="trio"', broker) as killed,
        await anyio.to_thread.run_sync(lambda: BlockingClient(killed.port, path="/room:1")),
    ):
        await until(lambda: receiver.names == ["topic_occupied room:1"])
        async with TestClient(app) as client, client.connect("/room:2"):
            await until(lambda: len(receiver.names) == 2 and is_reported(app, "room:1") and is_reported(app, "room:2"))
            killed.send(signal.SIGKILL)
            await until(lambda: "topic_vacated room:1" in receiver.names)
    assert receiver.names == [
        "topic_occupied room:1",
        "topic_occupied room:2",
        "topic_vacated room:1",
        "topic_vacated room:2",
    ]


def test_a_worker_that_is_killed(receiver: Receiver) -> None:
    with program(receiver, "workers=2") as workers:
        port = workers.port
        workers.until("2 workers")
        clients: dict[int, list[BlockingClient]] = {}
        for number in range(40):
            client = BlockingClient(port, path=f"/room:{number}")
            clients.setdefault(int(client.frame()[1]), []).append(client)
            if len(clients) == 2:
                break
        else:
            pytest.fail("all clients have the same worker")
        first, _ = clients
        anyio.run(until, lambda: len(receiver.names) == number + 1)
        os.kill(first, signal.SIGKILL)
        # If this worker was the one that reports, the other one can report again what it has just reported.
        lost = len(clients[first])
        anyio.run(until, lambda: len(vacated(receiver)) == lost)
        for client in itertools.chain(*clients.values()):
            client.sock.close()
        anyio.run(until, lambda: len(vacated(receiver)) == number + 1)
        workers.send(signal.SIGTERM)
        assert workers.end() == 0
    assert len(set(vacated(receiver))) == len(vacated(receiver)) == number + 1
    assert len(set(receiver.names)) == 2 * (number + 1)
