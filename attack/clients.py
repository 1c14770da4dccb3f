"""The clients that must be served during an attack: each echo is awaited and timed, and some connect anew each time."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
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


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect a client.

    Raises:
        ConnectionError: the server refused the handshake.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(handshake(port, "/def"))
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 101 " not in head:
        writer.transport.abort()
        raise ConnectionError(head.split(b"\r\n")[0].decode())
    return reader, writer


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
    with anyio.fail_after(ANSWER_SECONDS):
        reader, writer = await connect(port)
    ready.release()
    await begin.wait()
    while True:
        try:
            with anyio.fail_after(ANSWER_SECONDS):
                outcome.latencies.append(await echo(reader, writer))
        except (OSError, EOFError, TimeoutError) as exc:
            outcome.failures.append(f"an echo failed: {exc!r}")
            return
        await asyncio.sleep(interval)


async def come_and_go(port: int, interval: float, outcome: Outcome, begin: asyncio.Event) -> None:
    """Connect, exchange a message and disconnect at each interval, until cancelled."""
    await begin.wait()
    while True:
        writer: asyncio.StreamWriter | None = None
        try:
            with anyio.fail_after(ANSWER_SECONDS):
                began = time.perf_counter()
                reader, writer = await connect(port)
                outcome.handshakes.append(time.perf_counter() - began)
                await echo(reader, writer)
        except (OSError, EOFError, TimeoutError) as exc:
            outcome.failures.append(f"a new client failed: {exc!r}")
        finally:
            if writer is not None:
                with suppress(OSError):
                    writer.close()
        await asyncio.sleep(interval)
