#!/usr/bin/env python3
"""Calculate how many machines, brokers and load balancers a number of connections needs.

    sizing.py                                                 a million connections
    sizing.py --connections 10000000 --subscribers 50 --rate 0.1
    sizing.py --connections 1000000 --delivery-us 3 --reconnect-seconds 60 --json

The defaults were measured on one small, busy virtual machine, as docs/howto/plan-capacity.md explains. Replace them by
your own measurements. The last part of the report is a simulation with a fixed seed: one machine is lost, and its
clients reconnect to the others. The program needs the standard library only.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import sys
from collections.abc import Iterator
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, NamedTuple

SEED = 20240229  # any number, but the same in every run
KIB, GIB = 1024, 2**30
#: Bytes of the headers of a TCP segment: Ethernet, IPv4, TCP with timestamps.
PACKET_BYTES = 66
#: Bytes of the header of a frame from the server, for 126 bytes to 64 KiB; bytes of an empty ping and of its pong.
FRAME_BYTES, PING_BYTES, PONG_BYTES = 4, 2, 6
#: Bytes of the envelope around a message between processes.
ENVELOPE_BYTES = 80
#: Additional bytes in Redis for each message of a history.
HISTORY_ENTRY_BYTES = 190
#: Bytes for each present user of a topic, in each process with a subscriber of the topic.
PRESENT_BYTES = 460
#: Seconds between two presence heartbeats of a process.
HEARTBEAT_SECONDS = 5.0
#: Connections from one address of a balancer to one port of a server, with ip_local_port_range 1024 65535.
PORTS = 64_512
LONGEST_PAUSE_SECONDS = 60.0


def _need(default: float, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Requirements:
    """The requirements, the machines, and the costs of each operation; the texts are the help of the command line."""

    connections: float = _need(1_000_000, "connections at the busiest time")
    topics: float = _need(1, "topics of a connection")
    subscribers: float = _need(100, "subscribers of a topic")
    rate: float = _need(0.1, "messages/s in a topic")
    message_bytes: float = _need(200, "bytes of a message")
    session_seconds: float = _need(1800, "seconds that a connection is open")
    ping_interval: float = _need(20, "seconds between the pings of a connection")
    presence: float = _need(0, "1 if topics have presence (App.on_presence)")
    history: float = _need(0, "messages that a topic keeps (App.history)")
    cores: float = _need(8, "cores of a machine, each with one worker")
    memory_gib: float = _need(16, "GiB of memory of a machine")
    memory_share: float = _need(0.5, "share of the memory for connections and workers")
    utilisation: float = _need(0.5, "planned share of busy cores")
    spare: float = _need(1, "spare machines")
    price: float = _need(100, "price of a machine for a month")
    kib: float = _need(10, "KiB of a connection in its worker, with the data of the application")
    kernel_kib: float = _need(5, "KiB of a connection in the kernel")
    base_mib: float = _need(60, "MiB of a worker without connections")
    delivery_us: float = _need(12, "us of a core for a message to one client; 1 if messages come in bursts")
    message_us: float = _need(25, "us of a core to publish a message, or to receive one from the broker")
    ping_us: float = _need(40, "us of a core for a ping and its pong")
    handshake_us: float = _need(220, "us of a core to accept a connection, without TLS")
    broker_us: float = _need(10, "us of the broker's core for each published message")
    history_us: float = _need(26, "additional us of the broker's core for a message in a history")
    copy_us: float = _need(4, "us of the broker's core for each process that receives a message")
    balancer_connections: float = _need(200_000, "connections of a load balancer, with TLS")
    reconnect_seconds: float = _need(10, "seconds over which clients spread their first attempt to reconnect")
    client_timeout: float = _need(10, "seconds that a client waits for its handshake before it retries")


@dataclass(frozen=True)
class Plan:
    """The result; rates are per second, for the whole installation."""

    topics: int
    messages: float
    deliveries: float
    processes_per_message: float
    carried: float
    pings: float
    handshakes: float
    diffs: float
    heartbeats: float
    core_seconds: dict[str, float]
    machines_by_memory: int
    machines_by_cores: int
    machines: int
    connections_per_machine: int
    connections_per_worker: int
    memory_per_machine_gib: float
    presence_gib: float
    egress_gbit: float
    ingress_gbit: float
    broker_gbit: float
    broker_cores: float
    history_gib: float
    brokers: int
    balancers: int
    balancer_addresses: int
    price: float
    price_per_thousand: float


def distinct(processes: float, subscribers: float) -> float:
    """Return how many processes have a subscriber, on average, if subscribers are distributed at random."""
    without: float = (1 - 1 / processes) ** subscribers
    return processes * (1 - without)


def plan(needs: Requirements) -> Plan:
    """Calculate the plan.

    With more machines a message goes to more processes, which is more work and can need more machines again. The loop
    ends, because a message goes to no more processes than it has subscribers.
    """
    if _connection_memory(needs) < _connection_bytes(needs):
        raise ValueError("the workers alone need all of the memory: use more --memory-gib, or fewer --cores")
    working = 1
    while True:
        found = _with_machines(needs, working)
        wanted = max(found.machines_by_memory, found.machines_by_cores)
        if wanted <= working:
            return found
        working = wanted


def _connection_bytes(needs: Requirements) -> float:
    """Return the bytes of a connection."""
    return (needs.kib + needs.kernel_kib) * KIB


def _worker_bytes(needs: Requirements) -> float:
    """Return the bytes of the workers of a machine, without connections."""
    return needs.cores * needs.base_mib * KIB * KIB


def _connection_memory(needs: Requirements) -> float:
    """Return the bytes of a machine for connections."""
    return needs.memory_gib * GIB * needs.memory_share - _worker_bytes(needs)


def _with_machines(needs: Requirements, working: int) -> Plan:
    """Calculate the plan for this number of machines, without the spare ones."""
    machines = working + round(needs.spare)
    processes = working * needs.cores
    topics = math.ceil(needs.connections * needs.topics / needs.subscribers)
    messages = topics * needs.rate
    deliveries = needs.connections * needs.topics * needs.rate
    copies = distinct(processes, needs.subscribers)
    handshakes = needs.connections / needs.session_seconds
    # Joins and leaves in each topic. A process sends those of a tenth of a second in one message.
    diffs = min(2 * handshakes * needs.topics, 10 * topics * copies) if needs.presence else 0.0
    heartbeats = processes**2 / HEARTBEAT_SECONDS if needs.presence else 0.0
    published = messages + diffs + (processes / HEARTBEAT_SECONDS if needs.presence else 0.0)
    carried = (messages + diffs) * copies + heartbeats
    pings = needs.connections / needs.ping_interval
    core_seconds = {
        "deliveries": deliveries * needs.delivery_us / 1e6,
        "messages": (published + carried) * needs.message_us / 1e6,
        "pings": pings * needs.ping_us / 1e6,
        "handshakes": handshakes * needs.handshake_us / 1e6,
    }
    history_us = needs.history_us if needs.history else 0.0
    broker_cores = (published * needs.broker_us + messages * history_us + carried * needs.copy_us) / 1e6
    per_machine = math.ceil(needs.connections / working)
    balancers = math.ceil(needs.connections / needs.balancer_connections) + 1
    egress, ingress = _traffic(needs, messages, deliveries, pings)
    between = (published + carried) * (needs.message_bytes + ENVELOPE_BYTES + PACKET_BYTES)
    present = topics * copies * needs.subscribers * PRESENT_BYTES if needs.presence else 0.0
    held = needs.connections * _connection_bytes(needs) + present
    return Plan(
        topics=topics,
        messages=messages,
        deliveries=deliveries,
        processes_per_message=copies,
        carried=carried,
        pings=pings,
        handshakes=handshakes,
        diffs=diffs,
        heartbeats=heartbeats,
        core_seconds=core_seconds,
        machines_by_memory=math.ceil(held / _connection_memory(needs)),
        machines_by_cores=math.ceil(sum(core_seconds.values()) / needs.utilisation / needs.cores),
        machines=machines,
        connections_per_machine=per_machine,
        connections_per_worker=math.ceil(per_machine / needs.cores),
        memory_per_machine_gib=(held / working + _worker_bytes(needs)) / GIB,
        presence_gib=present / GIB,
        egress_gbit=egress * 8 / 1e9,
        ingress_gbit=ingress * 8 / 1e9,
        broker_gbit=between * 8 / 1e9,
        broker_cores=broker_cores,
        history_gib=topics * needs.history * (needs.message_bytes + ENVELOPE_BYTES + HISTORY_ENTRY_BYTES) / GIB,
        brokers=math.ceil(broker_cores / needs.utilisation),
        balancers=balancers,
        balancer_addresses=math.ceil(per_machine / (balancers - 1) / PORTS),
        price=machines * needs.price,
        price_per_thousand=machines * needs.price / needs.connections * 1000,
    )


def _traffic(needs: Requirements, messages: float, deliveries: float, pings: float) -> tuple[float, float]:
    """Return the bytes/s to clients and from clients, with one packet and one acknowledgement for each message."""
    wire = needs.message_bytes + FRAME_BYTES + PACKET_BYTES
    egress = deliveries * wire + messages * PACKET_BYTES + pings * (PING_BYTES + 2 * PACKET_BYTES)
    ingress = messages * wire + deliveries * PACKET_BYTES + pings * (PONG_BYTES + 2 * PACKET_BYTES)
    return egress, ingress


# -- reconnecting --------------------------------------------------------------------------------------------------


class Reconnection(NamedTuple):
    """How the clients of a lost machine reconnected.

    Args:
        clients: the number of clients.
        handshakes: handshakes/s that the other machines can do with the rest of their cores.
        spread: seconds over which the first attempts were spread.
        most: seconds until 99 % were connected.
        all: seconds until all were connected.
        wait: seconds of the slowest successful handshake.
        attempts: attempts of each client, on average.
    """

    clients: int
    handshakes: float
    spread: float
    most: float
    all: float
    wait: float
    attempts: float


def spare_handshakes(needs: Requirements, found: Plan) -> float:
    """Return the handshakes/s that the remaining machines can do with the rest of their cores."""
    left = max(1, found.machines - 1) * needs.cores
    return max(1.0, (left - sum(found.core_seconds.values())) / (needs.handshake_us / 1e6))


def reconnect(clients: int, handshakes: float, spread: float, timeout: float, seed: int = SEED) -> Reconnection:
    """Simulate the reconnection: each client connects at a random moment, and all wait in one queue.

    A client that would wait longer than the timeout gives up. It tries again after a random pause, which doubles each
    time up to a minute. A failed attempt costs the servers nothing here, because it waits in the queue of the kernel.
    """
    rng = random.Random(seed)
    waiting = [(rng.uniform(0, spread), 0) for _ in range(clients)]
    heapq.heapify(waiting)
    free, longest, attempts = 0.0, 0.0, 0
    connected: list[float] = []
    while waiting:
        now, tried = heapq.heappop(waiting)
        attempts += 1
        begin = max(now, free)
        if begin - now > timeout:
            pause = min(LONGEST_PAUSE_SECONDS, 2.0**tried) * rng.uniform(0.5, 1.5)
            heapq.heappush(waiting, (now + timeout + pause, tried + 1))
            continue
        free = begin + 1 / handshakes
        longest = max(longest, free - now)
        connected.append(free)
    last = connected[-1] if connected else 0.0
    most = connected[math.ceil(len(connected) * 0.99) - 1] if connected else 0.0
    return Reconnection(clients, handshakes, spread, most, last, longest, attempts / max(1, clients))


# -- the program ---------------------------------------------------------------------------------------------------


def report(needs: Requirements, found: Plan, reconnections: list[Reconnection]) -> Iterator[str]:
    """Yield the lines of the report, which shows how each figure was calculated."""
    total = sum(found.core_seconds.values())
    yield f"{needs.connections:,.0f} connections"
    yield f"  topics          {found.topics:,} = connections x {needs.topics:g} / {needs.subscribers:g} subscribers"
    yield f"  published       {found.messages:,.0f}/s = topics x {needs.rate:g}/s"
    yield f"  delivered       {found.deliveries:,.0f}/s = published x {needs.subscribers:g}"
    yield f"  carried         {found.carried:,.0f}/s: each goes to {found.processes_per_message:.1f} processes"
    if found.heartbeats:
        yield f"                  {found.presence_gib:.1f} GiB of present users in all processes"
        yield f"                  {found.diffs:,.0f}/s joins and leaves, published beside the messages"
        yield f"                  {found.heartbeats:,.0f}/s heartbeats, carried: processes squared / 5 s"
    yield f"  pings           {found.pings:,.0f}/s, one each {needs.ping_interval:g} s"
    yield f"  handshakes      {found.handshakes:,.0f}/s: a connection is open for {needs.session_seconds:g} s"
    yield "busy cores"
    for name, seconds in found.core_seconds.items():
        yield f"  {name:<15} {seconds:,.1f}"
    needed = total / needs.utilisation
    yield f"  total           {total:,.1f}; {needed:,.1f} cores that are {needs.utilisation:.0%} busy"
    yield f"machines of {needs.cores:g} cores and {needs.memory_gib:g} GiB"
    yield f"  by memory       {found.machines_by_memory:,} of {needs.kib + needs.kernel_kib:g} KiB for a connection"
    yield f"  by cores        {found.machines_by_cores:,}"
    yield f"  needed          {found.machines:,} with {needs.spare:g} spare: {found.price:,.0f} a month,"
    yield f"                  {found.price_per_thousand:.2f} for a thousand connections"
    yield f"  each            {found.connections_per_machine:,} connections, {found.memory_per_machine_gib:.1f} GiB,"
    yield f"                  {found.connections_per_worker:,} in each worker, without the spare machines"
    yield "network, of all machines"
    yield f"  to clients      {found.egress_gbit:.2f} Gbit/s, from them {found.ingress_gbit:.2f}"
    yield f"  with the broker {found.broker_gbit:.2f} Gbit/s"
    yield "broker"
    yield f"  busy cores      {found.broker_cores:.2f}, so {found.brokers:,} of one core, {needs.utilisation:.0%} busy"
    if found.history_gib:
        yield f"  histories       {found.history_gib:.1f} GiB of {needs.history:g} messages each"
    yield "balancers"
    yield f"  needed          {found.balancers:,} with one spare, each with {found.balancer_addresses:,} addresses"
    yield "one machine is lost"
    for each in reconnections:
        yield (
            f"  spread {each.spread:>4g} s   {each.clients:,} clients, {each.handshakes:,.0f} handshakes/s: "
            f"99 % connected after {each.most:.1f} s, all after {each.all:.1f} s,"
        )
        yield f"                  the slowest handshake {each.wait:.2f} s, {each.attempts:.2f} attempts each"


def _help(each: Field[float]) -> str:
    return f"{each.metadata['help']} (default: %(default)s)"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for each in fields(Requirements):
        parser.add_argument(f"--{each.name.replace('_', '-')}", type=float, default=each.default, help=_help(each))
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser.parse_args()


def main() -> int:
    given = vars(arguments())
    as_json = given.pop("json")
    needs = Requirements(**given)
    try:
        found = plan(needs)
    except (ValueError, ZeroDivisionError) as exc:
        print(f"sizing.py: {exc}", file=sys.stderr)
        return 2
    clients, handshakes = math.ceil(needs.connections / found.machines), spare_handshakes(needs, found)
    spreads = sorted({0.0, needs.reconnect_seconds})
    reconnections = [reconnect(clients, handshakes, spread, needs.client_timeout) for spread in spreads]
    if as_json:
        print(
            json.dumps(
                {"needs": given, "plan": asdict(found), "reconnections": [each._asdict() for each in reconnections]}
            )
        )
    else:
        print("\n".join(report(needs, found, reconnections)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
