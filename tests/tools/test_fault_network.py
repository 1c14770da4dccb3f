"""The network namespace of a fault run: its link to the broker can be cut, in one direction too."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("fcntl", reason="the benchmarks run on Linux only")
sys.path.insert(0, str(Path(__file__).parent.parent.parent))
from benchmarks.fault_network import Network, NotAllowed

#: Exits with 0 if the broker's side answers within some seconds.
_CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3]))"


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    try:
        with Network(delay=0.001) as network:
            yield network
    except NotAllowed as exc:
        pytest.skip(f"network namespaces are not allowed here: {exc}")


def is_reachable(network: Network, port: int, seconds: float) -> bool:
    """Return whether a process in the namespace can connect to a port on the broker's side."""
    command = [*network.command, sys.executable, "-c", _CONNECT, network.broker_host, str(port), str(seconds)]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.parametrize(("cut", "restore"), [("cut", "restore"), ("cut_answers", "restore_answers")])
def test_the_link_is_cut_and_restored(network: Network, cut: str, restore: str) -> None:
    with closing(socket.create_server((network.broker_host, 0))) as listener:
        port = listener.getsockname()[1]
        assert is_reachable(network, port, 10)
        getattr(network, cut)()
        assert not is_reachable(network, port, 0.3)
        getattr(network, restore)()
        deadline = time.monotonic() + 30
        while not is_reachable(network, port, 1):
            assert time.monotonic() < deadline


def test_nothing_is_left_after_the_end() -> None:
    def names() -> set[str]:
        return {name for _, name in socket.if_nameindex()}

    before = names()
    try:
        with Network(delay=0.001) as network:
            assert len(names() - before) == 2
    except NotAllowed as exc:
        pytest.skip(f"network namespaces are not allowed here: {exc}")
    assert names() == before
    assert subprocess.run([*network.command, "true"], capture_output=True).returncode != 0
