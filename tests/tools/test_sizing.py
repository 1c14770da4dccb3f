"""The sizing program: calculations that were checked by hand, and a simulation that must obey the rules of a queue."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent.parent))
from benchmarks.sizing import Requirements, distinct, plan, reconnect, spare_handshakes

PROGRAM = Path(__file__).parent.parent.parent / "benchmarks" / "sizing.py"

#: Round numbers: 100,000 connections, 1,000 topics of 100, 1 message a second on each.
ROUND = Requirements(
    connections=100_000,
    subscribers=100,
    rate=1,
    message_bytes=130,  # 200 bytes in a packet
    session_seconds=1000,
    ping_interval=20,
    cores=4,
    memory_gib=2,
    memory_share=0.5,
    utilisation=0.5,
    kib=6,
    kernel_kib=2,
    base_mib=64,  # four workers: 0.25 GiB of the 1 GiB for connections and workers
    delivery_us=10,
    message_us=20,
    ping_us=40,
    handshake_us=100,
    broker_us=5,
    copy_us=2,
    price=50,
)


def test_topics_messages_and_cores_for_the_connections() -> None:
    found = plan(ROUND)
    assert found.topics == 1000
    assert found.messages == 1000
    assert found.deliveries == 100_000
    assert found.pings == 5000
    assert found.handshakes == 100
    assert found.core_seconds["deliveries"] == pytest.approx(1.0)
    assert found.core_seconds["pings"] == pytest.approx(0.2)
    assert found.core_seconds["handshakes"] == pytest.approx(0.01)


def test_machines_by_memory() -> None:
    # 1 GiB less 256 MiB for the workers is 98,304 connections of 8 KiB.
    assert plan(ROUND).machines_by_memory == 2
    assert plan(dataclasses.replace(ROUND, connections=98_304)).machines_by_memory == 1
    assert plan(dataclasses.replace(ROUND, connections=98_305)).machines_by_memory == 2


def test_machines_price_and_network() -> None:
    found = plan(ROUND)
    assert found.machines == 3  # two, and a spare one
    assert found.price == 150
    assert found.price_per_thousand == 1.5
    assert found.connections_per_machine == 50_000
    assert found.connections_per_worker == 12_500
    # 100,000 packets of 200 bytes, 1,000 acknowledgements, and 5,000 pings of 2 bytes in two packets
    assert found.egress_gbit == pytest.approx((20e6 + 66e3 + 5000 * 134) * 8 / 1e9)
    assert found.ingress_gbit == pytest.approx((200e3 + 6.6e6 + 5000 * 138) * 8 / 1e9)


def test_messages_of_the_broker() -> None:
    found = plan(ROUND)
    copies = 8 * (1 - 0.875**100)  # two machines of four workers
    assert found.processes_per_message == pytest.approx(copies)
    assert found.carried == pytest.approx(1000 * copies)
    assert found.broker_cores == pytest.approx((1000 * 5 + 8000 * 2) / 1e6, rel=1e-4)
    assert found.core_seconds["messages"] == pytest.approx(9000 * 20 / 1e6, rel=1e-4)
    assert found.brokers == 1
    assert plan(dataclasses.replace(ROUND, history=100)).history_gib == pytest.approx(1000 * 100 * 400 / 2**30)


def test_presence_grows_with_the_square_of_the_processes() -> None:
    needs = dataclasses.replace(ROUND, presence=1)
    assert plan(needs).heartbeats == pytest.approx(8 * 8 / 5)
    assert plan(needs).diffs == 200  # 100 joins and 100 leaves in a second
    # 1,000 topics, each with 100 users known in all 8 processes
    assert plan(needs).presence_gib == pytest.approx(1000 * 100 * 8 * 460 / 2**30, rel=1e-4)
    # 1.53 GiB of connections fit into three machines, but not with 1.03 GiB of present users in 12 processes.
    larger = dataclasses.replace(needs, connections=200_000)
    assert plan(dataclasses.replace(larger, presence=0)).machines_by_memory == 3
    assert plan(larger).machines_by_memory == 4
    assert plan(larger).heartbeats == pytest.approx(16 * 16 / 5)
    assert plan(ROUND).heartbeats == plan(ROUND).diffs == 0


def test_machines_by_cores() -> None:
    found = plan(dataclasses.replace(ROUND, rate=20))
    assert found.machines_by_memory == 2
    # 20 busy cores for deliveries alone need 40 cores
    assert found.machines == found.machines_by_cores + 1 > 11
    assert sum(found.core_seconds.values()) <= 0.5 * 4 * (found.machines - 1)


def test_a_message_goes_to_no_more_processes_than_it_has_subscribers() -> None:
    assert distinct(1, 100) == 1
    assert distinct(2, 2) == 1.5
    assert distinct(1e6, 3) == pytest.approx(3, rel=1e-5)


def test_too_little_memory() -> None:
    with pytest.raises(ValueError, match="more --memory-gib"):
        plan(dataclasses.replace(ROUND, memory_gib=0.5))


def test_clients_that_reconnect_at_once_take_as_long_as_the_work() -> None:
    found = reconnect(clients=1000, handshakes=500, spread=0, timeout=10)
    assert found.all == pytest.approx(2.0)
    assert found.wait == pytest.approx(2.0)
    assert found.attempts == 1


def test_clients_that_spread_their_attempts_hardly_wait() -> None:
    found = reconnect(clients=1000, handshakes=500, spread=10, timeout=10)
    assert 9.5 < found.most <= found.all < 10.1
    assert found.wait < 0.1


def test_clients_that_time_out_try_again() -> None:
    # 1,000 clients are served while they wait, and the others when they try again; the work takes 4 s in any case.
    found = reconnect(clients=2000, handshakes=500, spread=0, timeout=2)
    assert found.attempts > 1.4
    assert found.wait <= 2 + 1 / 500
    assert found.all >= 4
    assert found == reconnect(clients=2000, handshakes=500, spread=0, timeout=2)


def test_handshakes_with_the_rest_of_the_cores() -> None:
    found = plan(ROUND)
    free = 8 - sum(found.core_seconds.values())
    assert spare_handshakes(ROUND, found) == pytest.approx(free * 10_000)


def test_the_program_runs() -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, PROGRAM, *arguments], capture_output=True, text=True)

    done = call("--connections", "50000", "--presence", "1", "--history", "10")
    assert (done.returncode, done.stderr) == (0, "")
    assert "50,000 connections" in done.stdout
    assert "one machine is lost" in done.stdout
    same = json.loads(call("--connections", "50000", "--json").stdout)
    assert same["plan"]["machines"] == plan(Requirements(connections=50_000)).machines
    assert [each["spread"] for each in same["reconnections"]] == [0, 10]
    assert call("--memory-gib", "0.1").returncode == 2
    assert "--delivery-us" in call("--help").stdout
