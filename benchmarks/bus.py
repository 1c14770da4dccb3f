#!/usr/bin/env python3
"""Measure the local bus: messages from one process to other processes, as between workers.

    bus.py                                                     the bus on uvloop and asyncio
    bus.py --loops uvloop --receivers 4 --sizes 16 --carriers bus,redis

The loads are single messages, each awaited; batches, each awaited; and single messages at a fixed rate, for the
latency. Other carriers for comparison are `pywsapp-redis`, which is pywsapp's Redis broker, and `redis`, which is the
least code that does the same: publish and subscribe of redis-py. Both use a Unix socket, and need redis-server and
redis-py. The program needs Linux: it forks, and all processes read the same clock.

Exit status: 2 if a carrier is not installed.
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
#: Messages/s of the load that measures the latency.
FIXED_RATE = 1000
_STAMP = 8  # bytes: the time of publishing, in ns
_TIMEOUT = 60.0
#: Bytes for each receiver, more than are published. No message is dropped, and the time until all are read counts.
_QUEUE_LIMIT = 1 << 30
_fork = multiprocessing.get_context("fork")

Publish = Callable[[Sequence[tuple[str, bytes]]], Awaitable[object]]
#: These two are called in their own process, and connect there.
Publisher = Callable[[], Any]
Receiver = Callable[[Callable[[bytes], None]], Any]


class Load(NamedTuple):
    """The messages of one measurement.

    Args:
        name: its name in the table.
        size: bytes of a message.
        batch: messages that are published at once.
        rate: messages/s; 0 for as many as possible.
        seconds: the duration.
        topics: the topics of a batch, in turn.
    """

    name: str
    size: int
    batch: int
    rate: int
    seconds: float
    topics: Sequence[str]


class Carrier(NamedTuple):
    """A carrier of messages: the process ID whose processor time counts, and functions that connect to it."""

    pid: int
    publisher: Publisher
    receivers: Sequence[Receiver]


class Figures(NamedTuple):
    """Messages/s, the carrier's processor time for each message in µs, and the latency in µs: median and 99 %."""

    rate: float
    cost: float
    median: float
    p99: float


# -- carriers ------------------------------------------------------------------------------------------------------


@contextmanager
def local_bus(loop: str, receivers: int, topics: Sequence[str]) -> Iterator[Carrier]:
    """Run the router of a local bus."""
    pairs = [socket.socketpair() for _ in range(receivers + 1)]  # (the end of the router, the end of a client)
    router = _fork.Process(target=_route, args=(loop, [router_end for router_end, _ in pairs]), daemon=True)
    router.start()
    for router_end, _ in pairs:
        router_end.close()
    ends = [client_end for _, client_end in pairs]
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
    async def receiving(on_message: Callable[[bytes], None]) -> AsyncIterator[None]:
        broker = LocalBroker(end)
        connection = await broker.connect(lambda topic, data, position: on_message(data), [])
        await connection.subscribe(topics)
        yield
        await connection.aclose()
        if broker.missed:
            sys.exit("a receiver did not read fast enough; use fewer --seconds")

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
    async def receiving(on_message: Callable[[bytes], None]) -> AsyncIterator[None]:
        connection = await _broker(url).connect(lambda topic, data, position: on_message(data), [])
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
    async def receiving(on_message: Callable[[bytes], None]) -> AsyncIterator[None]:
        async with importlib.import_module("redis.asyncio").Redis(unix_socket_path=path) as client:
            listening = client.pubsub(ignore_subscribe_messages=True)
            await listening.subscribe(*topics)
            for _ in topics:
                await listening.get_message(ignore_subscribe_messages=False, timeout=_TIMEOUT)

            async def listen() -> None:
                async for message in listening.listen():
                    on_message(message["data"])

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
    """Publish for the seconds of the load, then an empty message; send the number of messages and the start in ns."""

    async def main() -> None:
        padding = bytes(load.size - _STAMP)
        topics = [topic for topic, _ in zip(itertools.cycle(load.topics), range(load.batch), strict=False)]
        async with connect() as publish:
            pipe.send(None)
            pipe.recv()
            began, count = time.monotonic_ns(), 0
            end = began + int(load.seconds * 1e9)
            while (now := time.monotonic_ns()) < end:
                if load.rate:
                    await anyio.sleep(max(0.0, (began - now) / 1e9 + count / load.rate))
                stamp = time.monotonic_ns().to_bytes(_STAMP, "little")
                await publish([(topic, stamp + padding) for topic in topics])
                count += load.batch
            await publish([(load.topics[0], b"")])
            pipe.send((count, began))

    run(loop, main)


def _receive(loop: str, connect: Receiver, load: Load, pipe: Connection) -> None:
    """Receive until an empty message; send the number of messages, the end in ns, and the latencies in ns."""
    received = 0
    latencies: list[int] = []

    async def main() -> None:
        ended = anyio.Event()

        def on_message(message: bytes) -> None:
            nonlocal received
            if not message:
                ended.set()
                return
            received += 1
            if load.rate:
                latencies.append(time.monotonic_ns() - int.from_bytes(message[:_STAMP], "little"))

        async with connect(on_message):
            pipe.send(None)
            await ended.wait()
            pipe.send((received, time.monotonic_ns(), latencies))

    run(loop, main)


def measure(carrier: str, loop: str, receivers: int, load: Load) -> Figures:
    """Publish a load to some receivers, and measure it.

    Raises:
        SystemExit: a message did not arrive.
    """
    with CARRIERS[carrier](loop, receivers, load.topics) as running, ExitStack() as stack:

        def start(target: Callable[..., None], connect: Any) -> Connection:
            ours, theirs = _fork.Pipe()
            process = _fork.Process(target=target, args=(loop, connect, load, theirs), daemon=True)
            process.start()
            theirs.close()
            stack.callback(process.join)
            _receive_from(ours)  # it is connected
            return ours

        pipes = [start(_receive, connect) for connect in running.receivers]
        publisher = start(_publish, running.publisher)
        before = _processor_time(running.pid)
        publisher.send(None)
        count, began = _receive_from(publisher)
        results = [_receive_from(pipe) for pipe in pipes]
        used = _processor_time(running.pid) - before
    if any(received != count for received, _, _ in results):
        raise SystemExit(f"{count} were published, {[received for received, _, _ in results]} arrived")
    seconds = (max(ended for _, ended, _ in results) - began) / 1e9
    latencies = [nanoseconds / 1e3 for _, _, some in results for nanoseconds in some]
    p99 = statistics.quantiles(latencies, n=100)[98] if latencies else 0.0
    return Figures(count / seconds, used / count / 1e3, statistics.median(latencies) if latencies else 0.0, p99)


def _processor_time(pid: int) -> int:
    """Return the processor time of the first thread of a process, which does all the work here, in ns."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def _receive_from(pipe: Connection) -> Any:
    if not pipe.poll(_TIMEOUT):
        raise SystemExit(f"a process did not answer within {_TIMEOUT:.0f} s")
    return pipe.recv()


# -- the program ---------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--carriers", default="bus", help=f"some of {','.join(CARRIERS)} (default: %(default)s)")
    parser.add_argument(
        "--loops", default="uvloop,asyncio", help=f"some of {','.join(BACKENDS)} (default: %(default)s)"
    )
    parser.add_argument("--receivers", default="1,2,4", help="receiving processes (default: %(default)s)")
    parser.add_argument("--sizes", default="16,1024", help="bytes of a message, at least 8 (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=500, help="messages in a batch (default: %(default)s)")
    parser.add_argument("--topics", type=int, default=1, help="topics of a batch, in turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="the table shows their median (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1, help="duration of each load (default: %(default)s)")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    carriers = options.carriers.split(",")
    if carriers != ["bus"] and not (shutil.which("redis-server") and importlib.util.find_spec("redis")):
        print("bus.py: redis-server or redis-py is not installed", file=sys.stderr)
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
            Load(f"{FIXED_RATE}/s", size, 1, FIXED_RATE, options.seconds, topics),
        ]
        for load, carrier in itertools.product(loads, carriers):
            rounds = [measure(carrier, loop, number, load) for _ in range(options.rounds)]
            rate, cost, median, p99 = (statistics.median(column) for column in zip(*rounds, strict=True))
            latency = f"{median:.0f} | {p99:.0f}" if load.rate else "| "
            line = f"| {carrier} | {loop} | {number} | {size} | {load.name} | {rate:,.0f} | {cost:.2f} | {latency} |"
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
