"""The promises of `lifecycle`, whatever happens in whatever order."""

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

#: What a message makes its handler do; it waits for as many openings of the gate as there are "w" in it.
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


class Obedient(Recorder):
    """Does what messages say, waiting at a gate, and notices when two handlers are in it at once."""

    def __init__(self, slow: str) -> None:
        super().__init__()
        self.slow = slow
        self.gates: list[anyio.Event] = []
        self.running = 0
        self.closed_by_us = False

    def on_open(self, conn: Connection) -> Any:
        super().on_open(conn)
        return self.obey(conn, "w") if "open" in self.slow else None

    def on_message(self, conn: Connection, message: Any) -> Any:
        assert not self.running
        self.record("message", message, self.closed_by_us)
        what = message.partition(" ")[2]
        if "w" in what:
            return self.obey(conn, what)
        return self.act(conn, what)

    def on_close(self, conn: Connection) -> Any:
        assert not self.running
        self.record("close", conn.close_code)
        assert not conn.is_open
        return self.obey(conn, "w") if "close" in self.slow else None

    def on_error(self, conn: Connection, exc: Exception) -> Any:
        self.record("error", type(exc))

    def obey(self, conn: Connection, what: str) -> Any:
        self.running += 1  # from the call on, not only from when the coroutine begins
        return self.wait(conn, what)

    async def wait(self, conn: Connection, what: str) -> None:
        for _ in range(what.split()[0].count("w")):
            gate = anyio.Event()
            self.gates.append(gate)
            await gate.wait()
        self.running -= 1
        self.act(conn, what)

    def act(self, conn: Connection, what: str) -> None:
        if "crash" in what:
            raise LookupError
        if "close" in what:
            self.closed_by_us = True
            conn.close(4000)
        if "abort" in what:
            self.closed_by_us = True
            conn.abort()
        if "send" in what:
            conn.send("answer")

    def open_gate(self) -> None:
        if self.gates:
            self.gates.pop(0).set()


class Play:
    """One connection in memory, with a peer that can leave but once."""

    def __init__(self, component: Obedient, pipe: Pipe) -> None:
        self.component = component
        self.pipe = pipe
        self.sent: list[str] = []
        self.peer_open = True
        self.now = 0.0

    async def step(self, step: str, what: str) -> None:
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
            await self.peer(step, what)

    async def peer(self, step: str, what: str) -> None:
        transport = self.pipe.client.transport
        if step == "message":
            self.sent.append(f"{len(self.sent)} {what}")
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

    async def let_go(self) -> None:
        """Open all gates, and let the peer leave if it has not."""
        while not self.pipe.host.discarded:
            await self.turns()
            self.component.open_gate()
            if not self.component.gates:
                await self.step("peer end", "")
        await self.turns()


async def play(steps: list[tuple[str, str]], component: Obedient, max_queue: int) -> list[str]:
    """Play the steps to the end, and give the messages that were sent."""
    async with anyio.create_task_group() as tasks:
        options = Options(max_queue=max_queue, ping_interval=None, close_timeout=5)
        game = Play(component, Pipe(component, options, tasks))
        for step, what in steps:
            await game.step(step, what)
        await game.let_go()
        assert game.pipe.conn.buffered == 0
    return game.sent


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@settings(max_examples=100, deadline=None)
@given(STEPS, st.sampled_from(["", "open", "close", "open close"]), st.integers(1, 4))
def test_the_promises_hold(backend: str, steps: list[tuple[str, str]], slow: str, max_queue: int) -> None:
    component = Obedient(slow)
    sent = anyio.run(play, steps, component, max_queue, backend=backend)
    names = component.names()
    assert names[0] == "open"
    assert names[-1] == "close"
    assert names.count("open") == names.count("close") == 1
    delivered = [call[1] for call in component.calls if call[0] == "message"]
    assert delivered == sent[: len(delivered)], "in order, none twice, none left out in between"
    assert not any(call[2] for call in component.calls if call[0] == "message"), "none after our close"
    if not component.closed_by_us and not any(step == "peer reset" for step, _ in steps):
        assert delivered == sent
    crashes = sum("crash" in message for message in delivered)
    assert names.count("error") == crashes
