"""The promises of `lifecycle` hold for any events in any order."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.serving import Pipe, Recorder, close_frame, message_frame

from pywsapp.connection import Connection
from pywsapp.options import Options

#: What a message makes its handler do. Each "w" makes the handler wait until the gate opens once.
KINDS = ("", "w", "ww", "crash", "w crash", "close", "w close", "abort", "w abort", "w send")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("message"), st.sampled_from(KINDS)),
        st.tuples(
            st.sampled_from(
                ["gate", "gate", "turn", "turn", "tick", "peer close", "peer end", "peer reset", "peer error", "close"]
            ),
            st.just(""),
        ),
    ),
    max_size=40,
)


class Scripted(Recorder):
    """Performs work messages say, waits at a gate, and fails when two handlers run at the same time."""

    def __init__(self, slow: str) -> None:
        super().__init__()
        self.slow = slow
        self.gates: list[anyio.Event] = []
        self.running = 0
        self.closed_by_us = False

    def on_open(self, conn: Connection) -> Any:
        super().on_open(conn)
        return self.start(conn, "w") if "open" in self.slow else None

    def on_message(self, conn: Connection, message: Any) -> Any:
        assert not self.running
        self.record("message", message, self.closed_by_us)
        work = message.partition(" ")[2]
        if "w" in work:
            return self.start(conn, work)
        return self.act(conn, work)

    def on_close(self, conn: Connection) -> Any:
        assert not self.running
        self.record("close", conn.close_code)
        assert not conn.is_open
        return self.start(conn, "w") if "close" in self.slow else None

    def on_error(self, conn: Connection, exc: Exception) -> Any:
        self.record("error", type(exc))

    def start(self, conn: Connection, work: str) -> Any:
        self.running += 1  # counts from the call on, before the coroutine begins
        return self.wait(conn, work)

    async def wait(self, conn: Connection, work: str) -> None:
        for _ in range(work.split()[0].count("w")):
            gate = anyio.Event()
            self.gates.append(gate)
            await gate.wait()
        self.running -= 1
        self.act(conn, work)

    def act(self, conn: Connection, work: str) -> None:
        if "crash" in work:
            raise LookupError
        if "close" in work:
            self.closed_by_us = True
            conn.close(4000)
        if "abort" in work:
            self.closed_by_us = True
            conn.abort()
        if "send" in work:
            conn.send("answer")

    def open_gate(self) -> None:
        if self.gates:
            self.gates.pop(0).set()


class Scenario:
    """One connection in memory, whose peer can end it only once."""

    def __init__(self, component: Scripted, pipe: Pipe) -> None:
        self.component = component
        self.pipe = pipe
        self.sent: list[str] = []
        self.peer_open = True
        self.now = 0.0

    async def step(self, step: str, work: str) -> None:
        if step == "gate":
            self.component.open_gate()
        elif step == "turn":
            await self.turns()
        elif step == "tick":
            self.now += 1
            self.pipe.lifecycle.tick(self.now)
        elif step == "close":
            self.component.closed_by_us = True
            self.pipe.conn.close(4001)
        elif self.peer_open:
            await self.peer(step, work)

    async def peer(self, step: str, work: str) -> None:
        transport = self.pipe.client.transport
        if step == "message":
            self.sent.append(f"{len(self.sent)} {work}")
            transport.write(message_frame(self.sent[-1]))
            return
        self.peer_open = False
        await self.turns()
        if step == "peer close":
            transport.write(close_frame(3000))
        elif step == "peer error":
            transport.write(b"\x81\x01?")
        elif step == "peer reset":
            transport.abort()
        else:
            transport.close()

    async def turns(self) -> None:
        for _ in range(6):
            self.pipe.turn()
            await anyio.lowlevel.checkpoint()

    async def finish(self) -> None:
        """Open all gates, and make the peer end the connection if it has not."""
        while not self.pipe.host.discarded:
            await self.turns()
            self.component.open_gate()
            if not self.component.gates:
                await self.step("peer end", "")
        await self.turns()


async def run_scenario(steps: list[tuple[str, str]], component: Scripted, max_queue: int) -> list[str]:
    """Run the steps to the end of the connection; return the messages that were sent."""
    async with anyio.create_task_group() as tasks:
        options = Options(max_queue=max_queue, ping_interval=None, close_timeout=5)
        scenario = Scenario(component, Pipe(component, options, tasks))
        for step, work in steps:
            await scenario.step(step, work)
        await scenario.finish()
        assert scenario.pipe.conn.buffered == 0
    return scenario.sent


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@settings(max_examples=100, deadline=None)
@given(STEPS, st.sampled_from(["", "open", "close", "open close"]), st.integers(1, 4))
def test_the_promises_hold(backend: str, steps: list[tuple[str, str]], slow: str, max_queue: int) -> None:
    component = Scripted(slow)
    sent = anyio.run(run_scenario, steps, component, max_queue, backend=backend)
    names = component.names()
    assert names[0] == "open"
    assert names[-1] == "close"
    assert names.count("open") == names.count("close") == 1
    delivered = [call[1] for call in component.calls if call[0] == "message"]
    assert delivered == sent[: len(delivered)], "messages are missing, doubled or out of order"
    assert not any(call[2] for call in component.calls if call[0] == "message"), (
        "a message was delivered after close or abort"
    )
    if not component.closed_by_us and not any(step == "peer reset" for step, _ in steps):
        assert delivered == sent
    crashes = sum("crash" in message for message in delivered)
    assert names.count("error") == crashes
