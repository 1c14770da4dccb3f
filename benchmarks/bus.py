#!/usr/bin/env python3
"""Measure what the local bus carries from one process to others, each of them a process as workers are.

    bus.py                                                     the bus on uvloop and asyncio
    bus.py --loops uvloop --receivers 4 --sizes 16 --carriers bus,redis

Loads: one message at a time, awaited; batches, awaited; and for latency one message at a time at a fixed pace. Beside
the bus may stand pywsapp's broker for Redis, `pywsapp-redis`, and the least that does the same, `redis`: redis-py's
publish and subscribe, both on a Unix socket. They need redis-server and redis-py. Linux only: it forks, and all
processes read one clock.

Exit status: 2 if what was asked for is not there.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import multiprocessing
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import anyio

# Started as a program, only this file's folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import machine
from pywsapp.brokers.base import Broker, Outgoing
from pywsapp.brokers.local.broker import LocalBroker
from pywsapp.brokers.local.router import BusRouter
from pywsapp.brokers.urls import broker_for

BACKENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
#: Messages a second of the load that latency is read from.
PACE = 1000
_STAMP = 8  # bytes: when the message was published, in ns
_PATIENCE = 60.0
#: Bytes for each receiver, more than are published: nothing is left out, and the time until all is read counts.
_QUEUE_LIMIT = 1 << 30
_fork = multiprocessing.get_context("fork")

Publish = Callable[[Sequence[tuple[str, bytes]]], Awaitable[object]]
#: Either is called in a process of its own, and connects there.
Publisher = Callable[[], Any]
Receiver = Callable[[Callable[[bytes], None]], Any]


class Load(NamedTuple):
    """What is published.

    Args:
        name: for people.
        size: bytes of a message.
        batch: how many are published at once.
        pace: messages a second; 0 for as many as possible.
        seconds: for how long.
        topics: over which they are spread.
    """

    name: str
    size: int
    batch: int
    pace: int
    seconds: float
    topics: Sequence[str]


class Carrier(NamedTuple):
    """What carries messages: the process whose time it takes, and how to connect to it."""

    pid: int
    publisher: Publisher
    receivers: Sequence[Receiver]


class Figures(NamedTuple):
    """Messages a second, the carrier's processor time of each in µs, and latency in µs: the median and 99 %."""

    rate: float
    cost: float
    median: float
    late: float


# -- carriers ------------------------------------------------------------------------------------------------------


@contextmanager
def local_bus(loop: str, receivers: int, topics: Sequence[str]) -> Iterator[Carrier]:
    """Run a router."""
    pairs = [socket.socketpair() for _ in range(receivers + 1)]
    router = _fork.Process(target=_route, args=(loop, [ours for ours, _ in pairs]), daemon=True)
    router.start()
    for ours, _ in pairs:
        ours.close()
    ends = [theirs for _, theirs in pairs]
    try:
        yield Carrier(
            router.pid or 0, lambda: _bus_publisher(ends[0]), [_bus_receiver(end, topics) for end in ends[1:]]
        )
    finally:
        for end in ends:
            end.close()
        router.terminate()
        router.join()


def _route(loop: str, ends: Sequence[socket.socket]) -> None:
    async def main() -> None:
        router = BusRouter(_QUEUE_LIMIT)
        for number, end in enumerate(ends):
            router.attach(number, end)
        await anyio.sleep_forever()

    run(loop, main)


@asynccontextmanager
async def _bus_publisher(end: socket.socket) -> AsyncIterator[Publish]:
    async with _broker_publisher(LocalBroker(end)) as publish:
        yield publish


@asynccontextmanager
async def _broker_publisher(broker: Broker) -> AsyncIterator[Publish]:
    connection = await broker.connect(lambda topic, data, position: None, [])
    yield lambda messages: connection.publish([Outgoing(*message) for message in messages])
    await connection.aclose()


def _bus_receiver(end: socket.socket, topics: Sequence[str]) -> Receiver:
    @asynccontextmanager
    async def receiving(take: Callable[[bytes], None]) -> AsyncIterator[None]:
        broker = LocalBroker(end)
        connection = await broker.connect(lambda topic, data, position: take(data), [])
        await connection.subscribe(topics)
        yield
        await connection.aclose()
        if broker.missed:
            sys.exit("a receiver did not read fast enough; take fewer seconds")

    return receiving


@contextmanager
def redis(loop: str, receivers: int, topics: Sequence[str]) -> Iterator[Carrier]:
    """Run a redis-server for redis-py."""
    with _redis_server() as (path, pid):
        yield Carrier(pid, lambda: _redis_publisher(path), [_redis_receiver(path, topics)] * receivers)


@contextmanager
def pywsapp_redis(loop: str, receivers: int, topics: Sequence[str]) -> Iterator[Carrier]:
    """Run a redis-server for `RedisBroker`."""
    with _redis_server() as (path, pid):
        url = f"unix://{path}"
        yield Carrier(pid, lambda: _broker_publisher(_broker(url)), [_broker_receiver(url, topics)] * receivers)


def _broker(url: str) -> Broker:
    broker = broker_for(url)
    assert broker is not None
    return broker


def _broker_receiver(url: str, topics: Sequence[str]) -> Receiver:
    @asynccontextmanager
    async def receiving(take: Callable[[bytes], None]) -> AsyncIterator[None]:
        connection = await _broker(url).connect(lambda topic, data, position: take(data), [])
        await connection.subscribe(topics)
        yield
        await connection.aclose()

    return receiving


@contextmanager
def _redis_server() -> Iterator[tuple[str, int]]:
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/redis.sock"
        options = f"--port 0 --unixsocket {path} --save  --appendonly no --client-output-buffer-limit".split(" ")
        options.append("pubsub 0 0 0")
        with subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL, cwd=directory) as server:
            try:
                while not Path(path).exists():
                    time.sleep(0.01)
                yield path, server.pid
            finally:
                server.terminate()


@asynccontextmanager
async def _redis_publisher(path: str) -> AsyncIterator[Publish]:
    async with importlib.import_module("redis.asyncio").Redis(unix_socket_path=path) as client:

        async def publish(messages: Sequence[tuple[str, bytes]]) -> None:
            if len(messages) == 1:
                await client.publish(*messages[0])
                return
            pipeline = client.pipeline(transaction=False)
            for message in messages:
                pipeline.publish(*message)
            await pipeline.execute()

        yield publish


def _redis_receiver(path: str, topics: Sequence[str]) -> Receiver:
    @asynccontextmanager
    async def receiving(take: Callable[[bytes], None]) -> AsyncIterator[None]:
        async with importlib.import_module("redis.asyncio").Redis(unix_socket_path=path) as client:
            listening = client.pubsub(ignore_subscribe_messages=True)
            await listening.subscribe(*topics)
            for _ in topics:
                await listening.get_message(ignore_subscribe_messages=False, timeout=_PATIENCE)

            async def listen() -> None:
                async for message in listening.listen():
                    take(message["data"])

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listen)
                yield
                tasks.cancel_scope.cancel()
            await listening.aclose()

    return receiving


CARRIERS = {"bus": local_bus, "pywsapp-redis": pywsapp_redis, "redis": redis}


# -- processes -----------------------------------------------------------------------------------------------------


def run(loop: str, main: Callable[[], Awaitable[None]]) -> None:
    backend, options = BACKENDS[loop]
    anyio.run(main, backend=backend, backend_options=options)


def _publish(loop: str, connect: Publisher, load: Load, pipe: Connection) -> None:
    """Publish for a while, then one message of no bytes; tells how many, and the time it began at in ns."""

    async def main() -> None:
        filling = bytes(load.size - _STAMP)
        spread = [topic for topic, _ in zip(itertools.cycle(load.topics), range(load.batch), strict=False)]
        async with connect() as publish:
            pipe.send(None)
            pipe.recv()
            began, count = time.monotonic_ns(), 0
            end = began + int(load.seconds * 1e9)
            while (now := time.monotonic_ns()) < end:
                if load.pace:
                    await anyio.sleep(max(0.0, (began - now) / 1e9 + count / load.pace))
                stamp = time.monotonic_ns().to_bytes(_STAMP, "little")
                await publish([(topic, stamp + filling) for topic in spread])
                count += load.batch
            await publish([(load.topics[0], b"")])
            pipe.send((count, began))

    run(loop, main)


def _receive(loop: str, connect: Receiver, load: Load, pipe: Connection) -> None:
    """Receive until a message of no bytes; tells how many, the time in ns, and how long messages took in ns."""
    received = 0
    taken: list[int] = []

    async def main() -> None:
        ended = anyio.Event()

        def take(message: bytes) -> None:
            nonlocal received
            if not message:
                ended.set()
                return
            received += 1
            if load.pace:
                taken.append(time.monotonic_ns() - int.from_bytes(message[:_STAMP], "little"))

        async with connect(take):
            pipe.send(None)
            await ended.wait()
            pipe.send((received, time.monotonic_ns(), taken))

    run(loop, main)


def measure(carrier: str, loop: str, receivers: int, load: Load) -> Figures:
    """Publish a load to so many receivers.

    Raises:
        SystemExit: not all arrived.
    """
    with CARRIERS[carrier](loop, receivers, load.topics) as carrying, ExitStack() as stack:

        def start(target: Callable[..., None], connect: Any) -> Connection:
            ours, theirs = _fork.Pipe()
            process = _fork.Process(target=target, args=(loop, connect, load, theirs), daemon=True)
            process.start()
            theirs.close()
            stack.callback(process.join)
            _told(ours)
            return ours

        pipes = [start(_receive, connect) for connect in carrying.receivers]
        publisher = start(_publish, carrying.publisher)
        before = _processor_time(carrying.pid)
        publisher.send(None)
        count, began = _told(publisher)
        found = [_told(pipe) for pipe in pipes]
        used = _processor_time(carrying.pid) - before
    if any(received != count for received, _, _ in found):
        raise SystemExit(f"{count} were published, {[received for received, _, _ in found]} arrived")
    seconds = (max(ended for _, ended, _ in found) - began) / 1e9
    taken = [nanoseconds / 1e3 for _, _, some in found for nanoseconds in some]
    late = statistics.quantiles(taken, n=100)[98] if taken else 0.0
    return Figures(count / seconds, used / count / 1e3, statistics.median(taken) if taken else 0.0, late)


def _processor_time(pid: int) -> int:
    """Give what a process's first thread, which does all the work here, has had, in ns."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def _told(pipe: Connection) -> Any:
    if not pipe.poll(_PATIENCE):
        raise SystemExit("a process does not answer")
    return pipe.recv()


# -- the program ---------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--carriers", default="bus", help=f"some of {','.join(CARRIERS)} (default: %(default)s)")
    parser.add_argument(
        "--loops", default="uvloop,asyncio", help=f"some of {','.join(BACKENDS)} (default: %(default)s)"
    )
    parser.add_argument("--receivers", default="1,2,4", help="processes that receive (default: %(default)s)")
    parser.add_argument("--sizes", default="16,1024", help="bytes, from 8 (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=500, help="messages of a batch (default: %(default)s)")
    parser.add_argument("--topics", type=int, default=1, help="over which a batch is spread (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="the median of which is shown (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1, help="of each load (default: %(default)s)")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    carriers = options.carriers.split(",")
    if carriers != ["bus"] and not (shutil.which("redis-server") and importlib.util.find_spec("redis")):
        print("redis-server or redis-py is missing", file=sys.stderr)
        return 2
    print(f"{machine.facts()['cpu']}, {os.cpu_count()} processors, CPython {sys.version.split()[0]}")
    print("\n| carrier | loop | receivers | bytes | load | messages/s | carrier µs each | median µs | 99 % µs |")
    print("| --- | --- | --: | --: | --- | --: | --: | --: | --: |")
    sizes, receivers = ([int(word) for word in text.split(",")] for text in (options.sizes, options.receivers))
    topics = [f"room:{number}" for number in range(options.topics)]
    for loop, size, number in itertools.product(options.loops.split(","), sizes, receivers):
        loads = [
            Load("one by one", size, 1, 0, options.seconds, topics),
            Load(f"batches of {options.batch}", size, options.batch, 0, options.seconds, topics),
            Load(f"{PACE}/s", size, 1, PACE, options.seconds, topics),
        ]
        for load, carrier in itertools.product(loads, carriers):
            rounds = [measure(carrier, loop, number, load) for _ in range(options.rounds)]
            rate, cost, median, late = (statistics.median(column) for column in zip(*rounds, strict=True))
            latency = f"{median:.0f} | {late:.0f}" if load.pace else "| "
            words = f"| {carrier} | {loop} | {number} | {size} | {load.name} | {rate:,.0f} | {cost:.2f} | {latency} |"
            print(words, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
