"""Listening on every kind of address, the text of every refusal, and the serving of connections on every event loop."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream, TaskGroup

from pywsapp._server import bind as bind_module
from pywsapp._server.accept import Serving, serve_sockets
from pywsapp._server.bind import ListeningSocket, address_of, bind
from pywsapp._server.connect import open_connection
from pywsapp.exceptions import ConfigurationError

GUARD = 20
LOOPBACK = {"127.0.0.1", "::1"}


class Collector:
    """A link that keeps what it gets."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.received = b""
        self.lost = anyio.Event()
        self.changed = anyio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        changed, self.changed = self.changed, anyio.Event()
        changed.set()

    def eof_received(self) -> None:
        pass

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


class Echo(Collector):
    """A link that sends back what it gets."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def fail_on_accept_error(exc: OSError) -> None:
    raise AssertionError(exc)


@dataclass
class Running:
    """A server, and the task group it and its clients run in."""

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
                sockets, None, make_protocol, tasks, handshake_timeout=GUARD, on_accept_error=fail_on_accept_error
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


@pytest.fixture
def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


# --- ListeningSocket


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"port": -1}, "a port is an int from 0 to 65535, not -1"),
        ({"port": 65536}, "a port is an int from 0 to 65535, not 65536"),
        ({"port": "8080"}, "a port is an int from 0 to 65535, not '8080'"),
        ({"port": True}, "a port is an int from 0 to 65535, not True"),
        ({"port": None}, "a port is an int from 0 to 65535, not None"),
        ({"address": None}, "an address is a str such as '127.0.0.1', not None"),
        ({"address": "a\0b"}, "an address is a str such as '127.0.0.1', not 'a\\x00b'"),
        ({"unix_path": "/x", "fd": 3}, "a listener takes unix_path or fd, not both"),
        ({"unix_path": ""}, "unix_path is the path of a file, not ''"),
        ({"unix_path": "\0abstract"}, "unix_path is the path of a file, not '\\x00abstract'"),
        ({"unix_path": Path("/x")}, "unix_path is the path of a file, not PosixPath('/x')"),
        ({"fd": -1}, "fd is the number of an open file descriptor, not -1"),
        ({"fd": "3"}, "fd is the number of an open file descriptor, not '3'"),
        ({"tls": ("cert.pem", "key.pem")}, "tls is an ssl.SSLContext, not tuple"),
        ({"backlog": 0}, "backlog is an int from 1 up, not 0"),
    ],
)
def test_a_listener_that_cannot_be(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        ListeningSocket(**options)


def test_listener_without_the_system_s_support(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_REUSEPORT", raising=False)
    with pytest.raises(ConfigurationError, match="no SO_REUSEPORT; leave reuse_port out"):
        ListeningSocket(reuse_port=True)
    monkeypatch.setattr(bind_module, "_AF_UNIX", None)
    with pytest.raises(ConfigurationError, match="no Unix sockets; use an address and a port"):
        ListeningSocket(unix_path="/x")


# --- bind, TCP


def close_all(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def test_port_0_is_free_and_the_same_on_all_addresses(has_ipv6: bool) -> None:
    sockets = bind(ListeningSocket("localhost", 0))
    try:
        names = [sock.getsockname() for sock in sockets]
        assert len({name[1] for name in names}) == 1
        assert names[0][1] > 0
        hosts = {name[0] for name in names}
        assert hosts <= LOOPBACK
        assert "127.0.0.1" in hosts
        for sock in sockets:
            assert not sock.getblocking()
            with socket.create_connection(sock.getsockname()[:2], timeout=GUARD):
                pass
    finally:
        close_all(sockets)


@pytest.mark.parametrize("address", ["", "*"])
def test_all_interfaces(address: str, has_ipv6: bool) -> None:
    sockets = bind(ListeningSocket(address, 0))
    try:
        assert {sock.getsockname()[0] for sock in sockets} == ({"0.0.0.0", "::"} if has_ipv6 else {"0.0.0.0"})
    finally:
        close_all(sockets)


def test_another_port_is_tried_if_it_is_free_on_one_address_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second address of two is the same as the first here, so it is never free."""
    calls = []
    real_bind_one = bind_module._bind_one

    def bind_one(family: int, sockaddr: tuple[Any, ...], listener: ListeningSocket) -> socket.socket:
        calls.append(sockaddr)
        return real_bind_one(family, sockaddr, listener)

    twice = [(socket.AF_INET, ("127.0.0.1", 0))] * 2
    monkeypatch.setattr(bind_module, "_resolve", lambda listener: twice)
    monkeypatch.setattr(bind_module, "_bind_one", bind_one)
    with pytest.raises(ConfigurationError, match="the address is in use"):
        bind(ListeningSocket("twice.example", 0))
    assert len(calls) == 22
    assert len({sockaddr[1] for sockaddr in calls}) > 2


@pytest.mark.parametrize("code", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_ipv6_is_skipped_where_there_is_none(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real_bind_one = bind_module._bind_one

    def bind_one(family: int, sockaddr: tuple[Any, ...], listener: ListeningSocket) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(code, "no IPv6")
        return real_bind_one(family, sockaddr, listener)

    monkeypatch.setattr(bind_module, "_bind_one", bind_one)
    both = [(socket.AF_INET6, ("::1", 0, 0, 0)), (socket.AF_INET, ("127.0.0.1", 0))]
    monkeypatch.setattr(bind_module, "_resolve", lambda listener: both)
    sockets = bind(ListeningSocket("localhost", 0))
    assert [sock.family for sock in sockets] == [socket.AF_INET]
    close_all(sockets)
    monkeypatch.setattr(bind_module, "_resolve", lambda listener: both[:1])
    with pytest.raises(ConfigurationError, match=r"cannot listen on \[::1\]:0: "):
        bind(ListeningSocket("::1", 0))


def test_address_in_use(taken_port: int) -> None:
    with pytest.raises(ConfigurationError) as caught:
        bind(ListeningSocket(port=taken_port))
    assert str(caught.value) == (
        f"cannot listen on 127.0.0.1:{taken_port}: the address is in use; stop the other server, choose another port,"
        " or use port 0 for a free one"
    )


def test_unknown_address() -> None:
    with pytest.raises(
        ConfigurationError, match=r"cannot listen on no-such-host\.invalid:8080: the address is unknown"
    ):
        bind(ListeningSocket("no-such-host.invalid"))
    with pytest.raises(ConfigurationError, match=r"cannot listen on a\.\.b:8080: the address is unknown"):
        bind(ListeningSocket("a..b"))


def test_an_address_of_another_machine() -> None:
    with pytest.raises(ConfigurationError, match=r"192\.0\.2\.1:0: this machine does not have the address; use one"):
        bind(ListeningSocket("192.0.2.1", 0))


def test_permission_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run with all rights, so the system's answer is put in."""

    def bind_one(family: int, sockaddr: tuple[Any, ...], listener: ListeningSocket) -> socket.socket:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(bind_module, "_bind_one", bind_one)
    with pytest.raises(ConfigurationError, match=r"127\.0\.0\.1:80: permission denied; choose a port from 1024 up"):
        bind(ListeningSocket(port=80))


def test_reuse_port() -> None:
    first = bind(ListeningSocket(port=0, reuse_port=True))
    port = first[0].getsockname()[1]
    second = bind(ListeningSocket(port=port, reuse_port=True))
    close_all(first + second)


# --- bind, Unix sockets and inherited ones


def test_unix_socket_and_its_file(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    (sock,) = bind(ListeningSocket(unix_path=str(path)))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    sock.close()
    assert not path.exists()
    sock.close()


def test_unix_socket_is_removed_from_another_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (sock,) = bind(ListeningSocket(unix_path="socket"))
    monkeypatch.chdir("/")
    sock.close()
    assert not (tmp_path / "socket").exists()


def test_a_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    (sock,) = bind(ListeningSocket(unix_path=path))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    sock.close()


def test_a_unix_socket_that_is_served_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bind_module, "_PROBE_SECONDS", 0.05)
    path = str(tmp_path / "socket")
    (sock,) = bind(ListeningSocket(unix_path=path, backlog=1))
    for _ in range(4):  # in the end its queue is full, so that it does not even answer
        with pytest.raises(ConfigurationError) as caught:
            bind(ListeningSocket(unix_path=path))
        assert str(caught.value) == (
            f"cannot listen on unix:{path}: another server answers there; stop it or choose another path"
        )
    assert os.path.exists(path)
    sock.close()


def test_the_file_of_the_next_server_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    (first,) = bind(ListeningSocket(unix_path=str(path)))
    path.rename(tmp_path / "old")
    (second,) = bind(ListeningSocket(unix_path=str(path)))
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()


def test_a_file_that_is_not_a_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match="there is a file that is not a socket; move it or choose another"):
        bind(ListeningSocket(unix_path=str(path)))
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "text"), [("no/such/directory", "No such file or directory"), ("x" * 200, "AF_UNIX path too long")]
)
def test_a_unix_path_that_cannot_be(name: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=rf"cannot listen on unix:.*{name}: {text}"):
        bind(ListeningSocket(unix_path=str(tmp_path / name)))


def test_an_inherited_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        (sock,) = bind(ListeningSocket(fd=os.dup(server.fileno())))
        assert sock.getsockname() == server.getsockname()
        assert not sock.getblocking()
        sock.close()


def test_a_descriptor_that_is_not_a_listening_socket(tmp_path: Path) -> None:
    with open(tmp_path / "file", "w") as file:
        number = file.fileno()
        with pytest.raises(
            ConfigurationError, match=f"cannot listen on file descriptor {number}: it is no open socket"
        ):
            bind(ListeningSocket(fd=number))
    with pytest.raises(ConfigurationError, match=f"file descriptor {number}: it is no open socket"):
        bind(ListeningSocket(fd=number))
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as sock:
            sock.bind(("127.0.0.1", 0))
            with pytest.raises(ConfigurationError, match="it is not a listening stream socket"):
                bind(ListeningSocket(fd=sock.fileno()))
            assert sock.getsockname()  # it is still open


def test_address_of(tmp_path: Path, has_ipv6: bool) -> None:
    path = str(tmp_path / "socket")
    sockets = [
        *bind(ListeningSocket(port=0)),
        *bind(ListeningSocket(unix_path=path)),
        *(bind(ListeningSocket("::1", 0)) if has_ipv6 else []),
    ]
    names = [address_of(sock) for sock in sockets]
    assert names[0] == f"127.0.0.1:{sockets[0].getsockname()[1]}"
    assert names[1] == f"unix:{path}"
    assert all(name == f"[::1]:{sockets[2].getsockname()[1]}" for name in names[2:])
    close_all(sockets)


# --- serving


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
async def test_stop_accepting_leaves_connections_alone() -> None:
    async with served(ListeningSocket(port=0)) as server, await anyio.connect_tcp(*server.addresses[0]) as client:
        assert await echoes(client)
        server.serving.stop_accepting()
        server.serving.stop_accepting()
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(OSError, match="connection attempts failed"):
            await anyio.connect_tcp(*server.addresses[0])
        assert await echoes(client)


@pytest.mark.anyio
async def test_many_connections_at_once_have_no_delay() -> None:
    links: list[Echo] = []

    def make_protocol() -> Echo:
        links.append(Echo())
        return links[-1]

    async with served(ListeningSocket(port=0), make_protocol) as server:
        clients = [socket.create_connection(server.addresses[0]) for _ in range(300)]
        for number, client in enumerate(clients):
            client.sendall(b"%d" % number)
            client.setblocking(False)
        for number, client in enumerate(clients):
            await anyio.wait_readable(client)
            assert client.recv(100) == b"%d" % number
        assert len(links) == 300
        server_side = links[0].transport.get_extra_info("socket")
        assert server_side.gettimeout() == 0
        assert server_side.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        for client in clients:
            client.close()
        for link in links:
            await link.lost.wait()


EXHAUSTED_SERVER = """
import resource, sys
import anyio
sys.path[:0] = {tests!r}
from test_bind_and_accept import Echo
from pywsapp._server.accept import serve_sockets
from pywsapp._server.bind import ListeningSocket, bind

async def main():
    sockets = bind(ListeningSocket(port=0))
    async with anyio.create_task_group() as tasks:
        await serve_sockets(
            sockets, None, Echo, tasks, handshake_timeout=5, on_accept_error=lambda exc: print(exc.errno, flush=True)
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
            # libuv has a descriptor in reserve, with which it closes what it cannot take.
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


# --- open_connection


@pytest.mark.anyio
async def test_connect_link_over_tcp() -> None:
    link = Collector()
    async with served(ListeningSocket(port=0)) as server:
        host, port = server.addresses[0]
        transport = await open_connection(lambda: link, host=host, port=port, task_group=server.tasks, timeout=GUARD)
        assert link.transport is transport
        assert transport.get_extra_info("peername") == (host, port)
        await check_echo(link)


@pytest.mark.anyio
async def test_connect_link_over_a_unix_socket(tmp_path: Path) -> None:
    link, path = Collector(), str(tmp_path / "socket")
    async with served(ListeningSocket(unix_path=path)) as server:
        await open_connection(
            lambda: link, host="localhost", port=80, unix_path=path, task_group=server.tasks, timeout=GUARD
        )
        await check_echo(link)


async def check_echo(link: Collector) -> None:
    message = os.urandom(1_000_000)
    link.transport.write(message)
    while len(link.received) < len(message):
        await link.changed.wait()
    assert link.received == message
    link.transport.close()
    await link.lost.wait()


@pytest.mark.anyio
async def test_connect_link_to_nobody(tmp_path: Path) -> None:
    with socket.socket() as bound, anyio.fail_after(GUARD):
        bound.bind(("127.0.0.1", 0))
        host, port = bound.getsockname()
        async with anyio.create_task_group() as tasks:
            with pytest.raises(OSError):  # noqa: PT011 - its text differs between event loops
                await open_connection(Echo, host=host, port=port, task_group=tasks, timeout=GUARD)
            with pytest.raises(OSError):  # noqa: PT011
                await open_connection(
                    Echo, host="x", port=1, unix_path=str(tmp_path / "none"), task_group=tasks, timeout=GUARD
                )
