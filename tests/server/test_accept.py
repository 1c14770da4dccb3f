"""Accepting connections, and connecting to a server, on every event loop."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream, TaskGroup
from support.stream_protocols import Collector, Echo
from support.waiting import until_blocked

from pywsapp._server.accept import Serving, serve_sockets
from pywsapp._server.bind import ListeningSocket, bind
from pywsapp._server.connect import open_connection
from pywsapp._server.pending import PendingConnections
from pywsapp.options import Options

GUARD = 20


def unlimited() -> PendingConnections:
    return PendingConnections(Options(), 10**6, lambda: 0, 10**6)


def fail_on_accept_error(exc: OSError) -> None:
    raise AssertionError(exc)


@dataclass
class Running:
    """A server, and the task group that runs it and its clients."""

    serving: Serving
    tasks: TaskGroup
    addresses: list[tuple[str, int]]


@asynccontextmanager
async def served(listener: ListeningSocket, make_protocol: Callable[[], Any] = Echo) -> AsyncIterator[Running]:
    sockets = bind(listener)
    addresses = [sock.getsockname()[:2] for sock in sockets]
    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tasks:
            serving = await serve_sockets(
                sockets,
                None,
                make_protocol,
                tasks,
                pending=unlimited(),
                handshake_timeout=GUARD,
                on_accept_error=fail_on_accept_error,
            )
            try:
                yield Running(serving, tasks, addresses)
            finally:
                serving.stop_accepting()
                tasks.cancel_scope.cancel()
    assert all(sock.fileno() == -1 for sock in sockets)


async def echoes(stream: SocketStream, message: bytes = b"hello") -> bool:
    await stream.send(message)
    received = b""
    while len(received) < len(message):
        received += await stream.receive()
    return received == message


# -- accepting ---------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_serving_tcp_on_all_addresses() -> None:
    async with served(ListeningSocket("localhost", 0)) as server:
        for host, port in server.addresses:
            async with await anyio.connect_tcp(host, port) as client:
                assert await echoes(client)
                assert await echoes(client, os.urandom(1_000_000))


@pytest.mark.anyio
async def test_serving_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with served(ListeningSocket(unix_path=str(path))) as server, await anyio.connect_unix(path) as client:
        assert await echoes(client)
        server.serving.stop_accepting()
        assert not path.exists()
        assert await echoes(client)


@pytest.mark.anyio
async def test_an_inherited_unix_socket_keeps_its_file(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as parent:
        parent.bind(str(path))
        parent.listen()
        async with served(ListeningSocket(fd=os.dup(parent.fileno()))), await anyio.connect_unix(path) as client:
            assert await echoes(client)
        assert path.exists()


@pytest.mark.anyio
async def test_stop_accepting_keeps_connections() -> None:
    async with served(ListeningSocket(port=0)) as server, await anyio.connect_tcp(*server.addresses[0]) as client:
        assert await echoes(client)
        server.serving.stop_accepting()
        server.serving.stop_accepting()
        await until_blocked()
        with pytest.raises(OSError, match="connection attempts failed"):
            await anyio.connect_tcp(*server.addresses[0])
        assert await echoes(client)


@pytest.mark.anyio
async def test_many_connections_at_once_have_no_delay() -> None:
    protocols: list[Echo] = []

    def make_protocol(pending: object = None) -> Echo:
        protocols.append(Echo(pending))
        return protocols[-1]

    async with served(ListeningSocket(port=0), make_protocol) as server:
        clients = [socket.create_connection(server.addresses[0]) for _ in range(300)]
        for number, client in enumerate(clients):
            client.sendall(b"%d" % number)
            client.setblocking(False)
        for number, client in enumerate(clients):
            await anyio.wait_readable(client)
            assert client.recv(100) == b"%d" % number
        assert len(protocols) == 300
        server_side = protocols[0].transport.get_extra_info("socket")
        assert server_side.gettimeout() == 0
        assert server_side.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        for client in clients:
            client.close()
        for protocol in protocols:
            await protocol.lost.wait()


EXHAUSTED_SERVER = """
import resource, sys
import anyio
sys.path[:0] = {tests!r}
from support.stream_protocols import Echo
from test_accept import unlimited
from pywsapp._server.accept import serve_sockets
from pywsapp._server.bind import ListeningSocket, bind

async def main():
    sockets = bind(ListeningSocket(port=0))
    async with anyio.create_task_group() as tasks:
        await serve_sockets(
            sockets, None, Echo, tasks, pending=unlimited(), handshake_timeout=5,
            on_accept_error=lambda exc: print(exc.errno, flush=True),
        )
        print(sockets[0].getsockname()[1], flush=True)
        await anyio.sleep_forever()

resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
anyio.run(main, backend={backend!r}, backend_options={options!r})
"""


def is_served(client: socket.socket) -> bool:
    try:
        client.sendall(b"x")
        return client.recv(1) == b"x"
    except ConnectionError:
        return False


def test_accepting_survives_a_lack_of_file_descriptors(anyio_backend: tuple[str, dict[str, Any]]) -> None:
    backend, options = anyio_backend
    script = EXHAUSTED_SERVER.format(
        tests=[os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))], backend=backend, options=options
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process as server, ExitStack() as stack:
        stack.callback(server.kill)
        assert server.stdout is not None
        assert server.stderr is not None
        port = int(server.stdout.readline())

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=GUARD))

        clients = [connect() for _ in range(60)]
        if options.get("use_uvloop"):
            # libuv keeps one descriptor in reserve, with which it closes connections that it cannot accept.
            assert not is_served(clients[59])
        else:
            assert int(server.stdout.readline()) == errno.EMFILE
        for client in clients[:50]:
            client.close()
        if options.get("use_uvloop"):
            while not is_served(connect()):
                pass
        else:
            assert all(is_served(client) for client in clients[50:])
        server.kill()
        assert server.stderr.read() == ""


# -- open_connection ---------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_connect_over_tcp() -> None:
    protocol = Collector()
    async with served(ListeningSocket(port=0)) as server:
        host, port = server.addresses[0]
        transport = await open_connection(
            lambda: protocol, host=host, port=port, task_group=server.tasks, timeout=GUARD
        )
        assert protocol.transport is transport
        assert transport.get_extra_info("peername") == (host, port)
        await check_echo(protocol)


@pytest.mark.anyio
async def test_connect_over_a_unix_socket(tmp_path: Path) -> None:
    protocol, path = Collector(), str(tmp_path / "socket")
    async with served(ListeningSocket(unix_path=path)) as server:
        await open_connection(
            lambda: protocol, host="localhost", port=80, unix_path=path, task_group=server.tasks, timeout=GUARD
        )
        await check_echo(protocol)


async def check_echo(protocol: Collector) -> None:
    message = os.urandom(1_000_000)
    protocol.transport.write(message)
    assert await protocol.until_received(len(message)) == message
    protocol.transport.close()
    await protocol.lost.wait()


@pytest.mark.anyio
async def test_connect_without_a_server(tmp_path: Path) -> None:
    with socket.socket() as bound, anyio.fail_after(GUARD):
        bound.bind(("127.0.0.1", 0))
        host, port = bound.getsockname()
        async with anyio.create_task_group() as tasks:
            with pytest.raises(OSError):  # noqa: PT011 - the message differs between event loops
                await open_connection(Echo, host=host, port=port, task_group=tasks, timeout=GUARD)
            with pytest.raises(OSError):  # noqa: PT011
                await open_connection(
                    Echo, host="x", port=1, unix_path=str(tmp_path / "none"), task_group=tasks, timeout=GUARD
                )
