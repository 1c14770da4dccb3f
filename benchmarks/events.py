"""Compare deliveries of a topic to event streams with deliveries to WebSockets, in one run.

    python benchmarks/events.py                  500 subscribers, 64 bytes, uvloop
    python benchmarks/events.py --loop asyncio --subscribers 2000 --history

A server has all its subscribers of one kind, WebSockets or event streams. It broadcasts in batches, each in one turn of
the event loop. A batch begins when the sockets have taken the one before. Another process reads and drops what arrives.
The kinds take turns, so what else the machine does meets both. A figure is the median of all turns: deliveries in a
second, and microseconds of the server's processor for one delivery, writing to the sockets included.
"""

from __future__ import annotations

import argparse
import base64
import multiprocessing
import selectors
import socket
import statistics
import sys
import time
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel

from pywsapp import App, MessageComponent
from pywsapp._compiled import describe

BATCH = 20
KINDS = {"websocket": "/ws", "events": "/events"}


class Figures(NamedTuple):
    """One turn of one kind: deliveries in a second, and microseconds of the processor for each."""

    rate: float
    micros: float


class Follow(MessageComponent):
    """Subscribes each connection."""

    async def on_open(self, conn: Any) -> None:
        topic = conn.app.topic("news")
        await (topic.add(conn) if topic.history is None else topic.recover(conn, None))


def read_and_drop(port: int, path: str, number: int, ready: Any, done: Any) -> None:
    """Open connections, and read from them until the other process says that it is done."""
    key = base64.b64encode(bytes(16)).decode()
    upgrade = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{upgrade if path == '/ws' else ''}\r\n".encode()
    selector = selectors.DefaultSelector()
    for _ in range(number):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.sendall(request)
        assert sock.recv(65536)
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ)
    ready.set()
    buffer = bytearray(1 << 18)
    while not done.is_set():
        for key_, _ in selector.select(0.1):
            key_.fileobj.recv_into(buffer)  # type: ignore[union-attr]


async def measure(app: App, kind: str, arguments: argparse.Namespace) -> Figures:
    """Run one turn."""
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    reader = context.Process(
        target=read_and_drop, args=(app.port, KINDS[kind], arguments.subscribers, ready, done), daemon=True
    )
    reader.start()
    topic = app.topic("news")
    while not ready.is_set() or len(topic) < arguments.subscribers:  # noqa: ASYNC110 - of another process
        await anyio.sleep(0.01)
    connections = list(topic)
    message = "x" * arguments.size
    began, used = time.perf_counter(), time.process_time()
    for _ in range(arguments.messages // BATCH):
        for _ in range(BATCH):
            topic.broadcast(message)
        while any(conn.buffered for conn in connections):
            await anyio.lowlevel.checkpoint()
    took, used = time.perf_counter() - began, time.process_time() - used
    done.set()
    await anyio.to_thread.run_sync(reader.join)
    while len(topic):  # noqa: ASYNC110 - nothing tells it
        await anyio.sleep(0.01)
    deliveries = arguments.subscribers * arguments.messages
    return Figures(deliveries / took, used / deliveries * 1e6)


async def main(arguments: argparse.Namespace) -> None:
    """Run the turns, and print the medians."""
    app = App("localhost", 0, max_connections=arguments.subscribers + 10)
    if arguments.history:
        app.history("news", size=1)
    app.route("/ws", Follow())
    app.events("/events", topic="news", history="new")
    turns: dict[str, list[Figures]] = {kind: [] for kind in KINDS}
    async with anyio.create_task_group() as tasks:
        await tasks.start(app.serve)
        for _ in range(arguments.turns):
            for kind, figures in turns.items():
                figures.append(await measure(app, kind, arguments))
        app.stop()
    print(f"{describe()}, {arguments.loop}, {arguments.subscribers} subscribers, {arguments.size} bytes")
    medians = {kind: Figures(*map(statistics.median, zip(*figures, strict=True))) for kind, figures in turns.items()}
    for kind, (rate, micros) in medians.items():
        print(f"{kind:>10} {rate:12,.0f} deliveries/s {micros:8.3f} µs of the processor for each")
    for name in Figures._fields:
        pairs = zip(turns["events"], turns["websocket"], strict=True)
        ratio = statistics.median(getattr(one, name) / getattr(other, name) for one, other in pairs)
        print(f"{name} of events / websocket: {ratio:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subscribers", type=int, default=500)
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--loop", choices=("uvloop", "asyncio", "trio"), default="uvloop")
    parser.add_argument("--history", action="store_true", help="the topic keeps a history")
    given = parser.parse_args()
    backend = "trio" if given.loop == "trio" else "asyncio"
    options = {} if backend == "trio" else {"use_uvloop": given.loop == "uvloop"}
    sys.exit(anyio.run(main, given, backend=backend, backend_options=options))
