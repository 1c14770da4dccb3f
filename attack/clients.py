"""The clients that must be served during an attack: each echo is awaited and timed, and some connect anew each time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

from attack.wire import CLOSE, PING, PONG, TEXT, frame, request

#: Seconds after which an echo counts as lost.
ANSWER_SECONDS = 20
PHASES = ("before", "during", "after")
_REFUSALS = (b" 429 ", b" 503 ")


@dataclass
class Outcome:
    """What the clients saw.

    Attributes:
        latencies: seconds from sending a message to its echo, in each phase; `ANSWER_SECONDS` for a lost one.
        handshakes: seconds from connecting to the response, of clients that connected during the attack.
        refused: new clients that the server refused because of too much load.
        lost: clients that lost an echo or their connection.
        failures: what went wrong, a line each.
        phase: the present phase.
        stopping: set when the clients must end.
    """

    latencies: dict[str, list[float]] = field(default_factory=lambda: {phase: [] for phase in PHASES})
    handshakes: list[float] = field(default_factory=list)
    refused: int = 0
    lost: int = 0
    failures: list[str] = field(default_factory=list)
    phase: str = PHASES[0]
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


class Refused(ConnectionError):
    """The server refused a handshake because of too much load."""


class Client:
    """A client that sends numbered messages and checks that each echo arrives once and in order.

    Args:
        reader: of its connection.
        writer: of its connection.
        name: what its messages begin with.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str) -> None:
        self._reader = reader
        self._writer = writer
        self._name = name
        self._sent = 0

    async def echo(self) -> float:
        """Send a message and await its echo; return the seconds.

        Raises:
            ConnectionError: something else came.
        """
        began = time.perf_counter()
        self._sent += 1
        payload = f"{self._name}:{self._sent}".encode()
        self._writer.write(frame(TEXT, payload))
        answer = await self._read_frame()
        if answer != (TEXT, payload):
            raise ConnectionError(f"{answer!r} instead of the echo of {payload!r}")
        return time.perf_counter() - began

    async def close(self) -> None:
        """Close the connection; nothing but the close frame may be left.

        Raises:
            ConnectionError: something else came.
        """
        self._writer.write(frame(CLOSE, b"\x03\xe8"))
        answer = await self._read_frame()
        if answer != (CLOSE, b"\x03\xe8") or await self._reader.read(1):
            raise ConnectionError(f"{answer!r} instead of the close frame")

    async def _read_frame(self) -> tuple[int, bytes]:
        while True:
            first, size = await self._reader.readexactly(2)
            payload = await self._reader.readexactly(size)
            if first != 0x80 | PING:
                return first & 0x7F, payload
            self._writer.write(frame(PONG, payload))


@asynccontextmanager
async def connection(port: int, name: str) -> AsyncIterator[Client]:
    """Connect a client, and abort its connection at the end.

    Raises:
        Refused: the server has too much load.
        ConnectionError: the server refused the handshake.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request(port, "/def", deflate=False))
        line = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0]
        if b" 101 " not in line:
            raise (Refused if any(status in line for status in _REFUSALS) else ConnectionError)(line.decode())
        yield Client(reader, writer, name)
    finally:
        writer.transport.abort()


async def chat(
    port: int, name: str, interval: float, outcome: Outcome, ready: asyncio.Semaphore, begin: asyncio.Event
) -> None:
    """Connect and release `ready`, exchange a message at each interval, and close the connection when stopped."""
    phase = outcome.phase
    try:
        async with connection(port, name) as client:
            ready.release()
            await begin.wait()
            await asyncio.sleep(interval * (int(name) % 100) / 100)  # so that not all clients send at once
            while not outcome.stopping.is_set():
                phase = outcome.phase
                with anyio.fail_after(ANSWER_SECONDS):
                    outcome.latencies[phase].append(await client.echo())
                await asyncio.sleep(interval)
            with anyio.fail_after(ANSWER_SECONDS):
                await client.close()
    except (OSError, EOFError, TimeoutError) as exc:
        outcome.lost += 1
        outcome.latencies[phase].append(ANSWER_SECONDS)
        outcome.failures.append(f"a client failed {phase} the attack: {exc!r}")


async def come_and_go(port: int, interval: float, outcome: Outcome, until: asyncio.Event) -> None:
    """Connect, exchange a message and close the connection at each interval, until an event is set."""
    while not until.is_set():
        try:
            with anyio.fail_after(ANSWER_SECONDS):
                began = time.perf_counter()
                async with connection(port, "new") as client:
                    outcome.handshakes.append(time.perf_counter() - began)
                    await client.echo()
                    await client.close()
        except Refused:
            outcome.refused += 1
        except (OSError, EOFError, TimeoutError) as exc:
            outcome.lost += 1
            outcome.failures.append(f"a new client failed: {exc!r}")
        await asyncio.sleep(interval)
