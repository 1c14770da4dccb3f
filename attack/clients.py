"""The clients that must be served during an attack: each echo is awaited and timed, and some connect anew each time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

from attack.attacks import TEXT, frame, handshake

ANSWER_SECONDS = 20
PAYLOAD = b"are you there"
_ANSWER = bytes((0x81, len(PAYLOAD))) + PAYLOAD


@dataclass
class Outcome:
    """What the clients saw.

    Attributes:
        latencies: seconds from sending a message to its echo.
        handshakes: seconds from connecting to the response, of clients that connected during the attack.
        failures: what went wrong, a line each.
    """

    latencies: list[float] = field(default_factory=list)
    handshakes: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect a client, and abort its connection at the end.

    Raises:
        ConnectionError: the server refused the handshake.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(handshake(port, "/def"))
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 101 " not in head:
            raise ConnectionError(head.split(b"\r\n")[0].decode())
        yield reader, writer
    finally:
        writer.transport.abort()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
    """Send a message and await its echo; return the seconds."""
    began = time.perf_counter()
    writer.write(frame(TEXT, PAYLOAD))
    answer = await reader.readexactly(len(_ANSWER))
    if answer != _ANSWER:
        raise ConnectionError(f"wrong echo {answer!r}")
    return time.perf_counter() - began


async def chat(port: int, interval: float, outcome: Outcome, ready: asyncio.Semaphore, begin: asyncio.Event) -> None:
    """Connect and release `ready`, then exchange a message at each interval until cancelled."""
    try:
        async with connection(port) as (reader, writer):
            ready.release()
            await begin.wait()
            while True:
                with anyio.fail_after(ANSWER_SECONDS):
                    outcome.latencies.append(await echo(reader, writer))
                await asyncio.sleep(interval)
    except (OSError, EOFError, TimeoutError) as exc:
        outcome.failures.append(f"a client failed: {exc!r}")


async def come_and_go(port: int, interval: float, outcome: Outcome, begin: asyncio.Event) -> None:
    """Connect, exchange a message and disconnect at each interval, until cancelled."""
    await begin.wait()
    while True:
        try:
            with anyio.fail_after(ANSWER_SECONDS):
                began = time.perf_counter()
                async with connection(port) as (reader, writer):
                    outcome.handshakes.append(time.perf_counter() - began)
                    await echo(reader, writer)
        except (OSError, EOFError, TimeoutError) as exc:
            outcome.failures.append(f"a new client failed: {exc!r}")
        await asyncio.sleep(interval)
