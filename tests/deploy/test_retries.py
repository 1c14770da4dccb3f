"""What a balancer sends to the next server: never a POST request, which the first one can have carried out."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from support.balancers import HOST, BalancedServers
from support.program import Program
from support.serving import GUARD

pytestmark = pytest.mark.once
#: A server that ends while it handles a request: another one must not carry the request out again.
SOURCE = """
import os

from pywsapp import App


def die(request):
    os._exit(1)


app = App("{host}", {port}, trusted_proxies={trusted})
app.health("/health")
app.http("/orders", die, methods=["POST"])
app.run({run})
"""


@pytest.fixture(params=["haproxy", "nginx", "caddy"])
def balanced(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BalancedServers]:
    with closing(BalancedServers(request.param, tmp_path, "memory://", SOURCE)) as servers:
        servers.start(a="asyncio", b="asyncio")
        servers.start_balancer()
        yield servers


def status_of(balanced: BalancedServers) -> int:
    """Send a POST request, and return the status of the response."""
    head = f"POST /orders HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with ExitStack() as stack:
        sock: socket.socket = stack.enter_context(socket.create_connection(("127.0.0.1", balanced.port), GUARD))
        sock = stack.enter_context(balanced.tls.wrap_socket(sock, server_hostname=HOST))
        sock.sendall(head.encode())
        return int(sock.recv(100).split()[1])


def wait_for_an_end(servers: Iterable[Program]) -> list[Program]:
    """Wait until a server has ended, and return those that have."""
    deadline = time.monotonic() + GUARD
    while time.monotonic() < deadline:
        if ended := [server for server in servers if server.process.poll() is not None]:
            return ended
        time.sleep(0.01)
    pytest.fail("no server has got the request")


def test_a_request_that_a_server_has_got_is_not_sent_to_the_other_one(balanced: BalancedServers) -> None:
    assert status_of(balanced) == 502  # 503 would say that no server is left
    assert len(wait_for_an_end(balanced.servers.values())) == 1
