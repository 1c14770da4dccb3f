#!/usr/bin/env python3
"""How many machines, brokers and balancers a number of connections takes, with the arithmetic shown.

    sizing.py                                                 a million connections
    sizing.py --connections 10000000 --subscribers 50 --rate 0.1
    sizing.py --connections 1000000 --delivery-us 3 --reconnect-seconds 60 --json

The defaults were measured on one small, busy virtual machine; docs/howto/plan-capacity.md says how. Put in your own.
The last part is a simulation: one machine is lost, and its clients come back to the others. It has a fixed seed.
Standard library only.
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
#: Bytes of a TCP segment besides what it carries: Ethernet, IPv4, TCP with timestamps.
PACKET_BYTES = 66
#: A frame's head from the server, for 126 bytes to 64 KiB; a ping or pong of no bytes with its head.
FRAME_BYTES, PING_BYTES, PONG_BYTES = 4, 2, 6
#: The envelope around a message between processes.
ENVELOPE_BYTES = 80
#: What Redis keeps besides for each message of a history.
KEPT_BYTES = 190
#: What each process that has somebody in a topic keeps of each user who is present there.
PRESENT_BYTES = 460
#: How often a process says that it is alive, where there is presence.
ALIVE_SECONDS = 5.0
#: Ports of one address that a balancer can connect to one server's port from, with ip_local_port_range 1024 65535.
PORTS = 64_512
LONGEST_PAUSE_SECONDS = 60.0


def _need(default: float, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Needs:
    """What is to be held, by what, and what that costs; the texts are the help on the command line."""

    connections: float = _need(1_000_000, "at the busiest time")
    topics: float = _need(1, "that a connection subscribes to")
    subscribers: float = _need(100, "of a topic")
    rate: float = _need(0.1, "messages a second on a topic")
    message_bytes: float = _need(200, "of a message")
    session_seconds: float = _need(1800, "that a connection lasts")
    ping_interval: float = _need(20, "seconds between the pings of a connection")
    presence: float = _need(0, "1 if it is kept who is in a topic (App.on_presence)")
    history: float = _need(0, "messages that a topic keeps (App.history)")
    cores: float = _need(8, "of a machine, each with one worker")
    memory_gib: float = _need(16, "of a machine")
    memory_share: float = _need(0.5, "of it that connections may take")
    utilisation: float = _need(0.5, "of the cores that is planned for")
    spare: float = _need(1, "machines that may be missing")
    price: float = _need(100, "of a machine and month")
    kib: float = _need(10, "KiB of a connection in its worker, with what the application keeps for it")
    kernel_kib: float = _need(5, "KiB of a connection in the kernel")
    base_mib: float = _need(60, "MiB of a worker without connections")
    delivery_us: float = _need(12, "us of a core for a message to one client, if it comes alone; in bursts 1")
    message_us: float = _need(25, "us of a core to publish a message, or to take one from the broker")
    ping_us: float = _need(40, "us of a core for a ping and its pong")
    handshake_us: float = _need(220, "us of a core to accept a connection, without TLS")
    broker_us: float = _need(10, "us of the broker's core for a message that it is given")
    keep_us: float = _need(26, "us of it more for one that a history keeps")
    copy_us: float = _need(4, "us of the broker's core for each process that it goes to")
    balancer_connections: float = _need(200_000, "that a balancer holds, with TLS")
    reconnect_seconds: float = _need(10, "over which clients spread their first attempt to come back")
    patience_seconds: float = _need(10, "that a client waits for its handshake before it tries again")


@dataclass(frozen=True)
class Plan:
    """What it takes; rates are a second, and of the whole."""

    topics: int
    messages: float
    deliveries: float
    processes_per_message: float
    carried: float
    pings: float
    handshakes: float
    diffs: float
    alive: float
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
    """Give how many processes have at least one of the subscribers, on average, if each is anywhere by chance."""
    without: float = (1 - 1 / processes) ** subscribers
    return processes * (1 - without)


def plan(needs: Needs) -> Plan:
    """Do the arithmetic.

    More machines mean more processes that a message goes to, and so more work; this ends, for a message goes to no more
    processes than it has subscribers.
    """
    if _room(needs) < _each(needs):
        raise ValueError("the workers alone take the memory: more --memory-gib, or fewer --cores")
    working = 1
    while True:
        found = _with_machines(needs, working)
        wanted = max(found.machines_by_memory, found.machines_by_cores)
        if wanted <= working:
            return found
        working = wanted


def _each(needs: Needs) -> float:
    """Give the bytes of a connection."""
    return (needs.kib + needs.kernel_kib) * KIB


def _workers(needs: Needs) -> float:
    """Give the bytes of a machine's workers without connections."""
    return needs.cores * needs.base_mib * KIB * KIB


def _room(needs: Needs) -> float:
    """Give the bytes that a machine has for connections."""
    return needs.memory_gib * GIB * needs.memory_share - _workers(needs)


def _with_machines(needs: Needs, working: int) -> Plan:
    """Say what so many machines, besides the spare ones, have to do."""
    machines = working + round(needs.spare)
    processes = working * needs.cores
    topics = math.ceil(needs.connections * needs.topics / needs.subscribers)
    messages = topics * needs.rate
    deliveries = needs.connections * needs.topics * needs.rate
    copies = distinct(processes, needs.subscribers)
    handshakes = needs.connections / needs.session_seconds
    # Who comes and who leaves, on each topic; those of one process within a tenth of a second are one message.
    diffs = min(2 * handshakes * needs.topics, 10 * topics * copies) if needs.presence else 0.0
    alive = processes**2 / ALIVE_SECONDS if needs.presence else 0.0
    published = messages + diffs + (processes / ALIVE_SECONDS if needs.presence else 0.0)
    carried = (messages + diffs) * copies + alive
    pings = needs.connections / needs.ping_interval
    core_seconds = {
        "deliveries": deliveries * needs.delivery_us / 1e6,
        "messages": (published + carried) * needs.message_us / 1e6,
        "pings": pings * needs.ping_us / 1e6,
        "handshakes": handshakes * needs.handshake_us / 1e6,
    }
    kept_us = needs.keep_us if needs.history else 0.0
    broker_cores = (published * needs.broker_us + messages * kept_us + carried * needs.copy_us) / 1e6
    per_machine = math.ceil(needs.connections / working)
    balancers = math.ceil(needs.connections / needs.balancer_connections) + 1
    egress, ingress = _traffic(needs, messages, deliveries, pings)
    between = (published + carried) * (needs.message_bytes + ENVELOPE_BYTES + PACKET_BYTES)
    present = topics * copies * needs.subscribers * PRESENT_BYTES if needs.presence else 0.0
    held = needs.connections * _each(needs) + present
    return Plan(
        topics=topics,
        messages=messages,
        deliveries=deliveries,
        processes_per_message=copies,
        carried=carried,
        pings=pings,
        handshakes=handshakes,
        diffs=diffs,
        alive=alive,
        core_seconds=core_seconds,
        machines_by_memory=math.ceil(held / _room(needs)),
        machines_by_cores=math.ceil(sum(core_seconds.values()) / needs.utilisation / needs.cores),
        machines=machines,
        connections_per_machine=per_machine,
        connections_per_worker=math.ceil(per_machine / needs.cores),
        memory_per_machine_gib=(held / working + _workers(needs)) / GIB,
        presence_gib=present / GIB,
        egress_gbit=egress * 8 / 1e9,
        ingress_gbit=ingress * 8 / 1e9,
        broker_gbit=between * 8 / 1e9,
        broker_cores=broker_cores,
        history_gib=topics * needs.history * (needs.message_bytes + ENVELOPE_BYTES + KEPT_BYTES) / GIB,
        brokers=math.ceil(broker_cores / needs.utilisation),
        balancers=balancers,
        balancer_addresses=math.ceil(per_machine / (balancers - 1) / PORTS),
        price=machines * needs.price,
        price_per_thousand=machines * needs.price / needs.connections * 1000,
    )


def _traffic(needs: Needs, messages: float, deliveries: float, pings: float) -> tuple[float, float]:
    """Give the bytes a second to clients and from them, each message in a packet that is acknowledged by another."""
    wire = needs.message_bytes + FRAME_BYTES + PACKET_BYTES
    egress = deliveries * wire + messages * PACKET_BYTES + pings * (PING_BYTES + 2 * PACKET_BYTES)
    ingress = messages * wire + deliveries * PACKET_BYTES + pings * (PONG_BYTES + 2 * PACKET_BYTES)
    return egress, ingress


# -- coming back ---------------------------------------------------------------------------------------------------


class Return(NamedTuple):
    """How the clients of a lost machine came back.

    Args:
        clients: how many they are.
        handshakes: that the others can do a second, with what is left of their cores.
        spread: seconds over which the first attempts were spread.
        most: seconds until 99 % were back.
        all: seconds until all were.
        wait: seconds that the slowest handshake which succeeded took.
        attempts: of each client, on average.
    """

    clients: int
    handshakes: float
    spread: float
    most: float
    all: float
    wait: float
    attempts: float


def spare_handshakes(needs: Needs, found: Plan) -> float:
    """Give how many handshakes a second fit into what the machines that are left do not use."""
    left = max(1, found.machines - 1) * needs.cores
    return max(1.0, (left - sum(found.core_seconds.values())) / (needs.handshake_us / 1e6))


def come_back(clients: int, handshakes: float, spread: float, patience: float, seed: int = SEED) -> Return:
    """Let clients come back: each at a random moment, in one queue, and again after a while if it was not served.

    A client that would wait longer than its patience gives up, and tries again after a pause that doubles each time, up
    to a minute, and is random. That it tried costs the servers nothing here: it has been waiting in the kernel's queue.
    """
    chance = random.Random(seed)
    coming = [(chance.uniform(0, spread), 0) for _ in range(clients)]
    heapq.heapify(coming)
    free, longest, attempts = 0.0, 0.0, 0
    back: list[float] = []
    while coming:
        now, tried = heapq.heappop(coming)
        attempts += 1
        begin = max(now, free)
        if begin - now > patience:
            pause = min(LONGEST_PAUSE_SECONDS, 2.0**tried) * chance.uniform(0.5, 1.5)
            heapq.heappush(coming, (now + patience + pause, tried + 1))
            continue
        free = begin + 1 / handshakes
        longest = max(longest, free - now)
        back.append(free)
    last = back[-1] if back else 0.0
    most = back[math.ceil(len(back) * 0.99) - 1] if back else 0.0
    return Return(clients, handshakes, spread, most, last, longest, attempts / max(1, clients))


# -- the program ---------------------------------------------------------------------------------------------------


def report(needs: Needs, found: Plan, returns: list[Return]) -> Iterator[str]:
    """Write it for people, each figure with what it is made of."""
    total = sum(found.core_seconds.values())
    yield f"{needs.connections:,.0f} connections"
    yield f"  topics          {found.topics:,} = connections x {needs.topics:g} / {needs.subscribers:g} subscribers"
    yield f"  published       {found.messages:,.0f}/s = topics x {needs.rate:g}/s"
    yield f"  delivered       {found.deliveries:,.0f}/s = published x {needs.subscribers:g}"
    yield f"  carried         {found.carried:,.0f}/s: each goes to {found.processes_per_message:.1f} processes"
    if found.alive:
        yield f"                  {found.presence_gib:.1f} GiB in all processes of who is present"
        yield f"                  {found.diffs:,.0f}/s who comes and leaves, published beside the messages"
        yield f"                  {found.alive:,.0f}/s that processes are alive, carried: processes squared / 5 s"
    yield f"  pings           {found.pings:,.0f}/s, one each {needs.ping_interval:g} s"
    yield f"  handshakes      {found.handshakes:,.0f}/s: a connection lasts {needs.session_seconds:g} s"
    yield "cores at work"
    for name, seconds in found.core_seconds.items():
        yield f"  {name:<15} {seconds:,.1f}"
    yield f"  in all          {total:,.1f}, and {total / needs.utilisation:,.1f} to be {needs.utilisation:.0%} busy"
    yield f"machines of {needs.cores:g} cores and {needs.memory_gib:g} GiB"
    yield f"  by memory       {found.machines_by_memory:,} of {needs.kib + needs.kernel_kib:g} KiB for a connection"
    yield f"  by cores        {found.machines_by_cores:,}"
    yield f"  to be had       {found.machines:,} with {needs.spare:g} spare: {found.price:,.0f} a month,"
    yield f"                  {found.price_per_thousand:.2f} for a thousand connections"
    yield f"  each            {found.connections_per_machine:,} connections, {found.memory_per_machine_gib:.1f} GiB,"
    yield f"                  {found.connections_per_worker:,} in each worker, with the spare ones gone"
    yield "network, of all machines"
    yield f"  to clients      {found.egress_gbit:.2f} Gbit/s, from them {found.ingress_gbit:.2f}"
    yield f"  with the broker {found.broker_gbit:.2f} Gbit/s"
    yield "broker"
    yield f"  cores at work   {found.broker_cores:.2f}, so {found.brokers:,} of one core, {needs.utilisation:.0%} busy"
    if found.history_gib:
        yield f"  histories       {found.history_gib:.1f} GiB of {needs.history:g} messages each"
    yield "balancers"
    yield f"  to be had       {found.balancers:,} with one spare, each with {found.balancer_addresses:,} addresses"
    yield "one machine is lost"
    for each in returns:
        yield (
            f"  spread {each.spread:>4g} s   {each.clients:,} clients, {each.handshakes:,.0f} handshakes/s: "
            f"99 % back after {each.most:.1f} s, all after {each.all:.1f} s,"
        )
        yield f"                  the slowest handshake {each.wait:.2f} s, {each.attempts:.2f} attempts each"


def _help(each: Field[float]) -> str:
    return f"{each.metadata['help']} (default: %(default)s)"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for each in fields(Needs):
        parser.add_argument(f"--{each.name.replace('_', '-')}", type=float, default=each.default, help=_help(each))
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser.parse_args()


def main() -> int:
    given = vars(arguments())
    as_json = given.pop("json")
    needs = Needs(**given)
    try:
        found = plan(needs)
    except (ValueError, ZeroDivisionError) as exc:
        print(f"sizing.py: {exc}", file=sys.stderr)
        return 2
    clients, handshakes = math.ceil(needs.connections / found.machines), spare_handshakes(needs, found)
    spreads = sorted({0.0, needs.reconnect_seconds})
    returns = [come_back(clients, handshakes, spread, needs.patience_seconds) for spread in spreads]
    if as_json:
        print(json.dumps({"needs": given, "plan": asdict(found), "returns": [each._asdict() for each in returns]}))
    else:
        print("\n".join(report(needs, found, returns)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
