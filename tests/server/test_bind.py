"""Opening listening sockets: every kind of address, and the message of every failure."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pywsapp._server import bind as bind_module
from pywsapp._server.bind import ListeningSocket, address_of, bind
from pywsapp.exceptions import ConfigurationError

GUARD = 20
LOOPBACK = {"127.0.0.1", "::1"}


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


# -- ListeningSocket ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"port": -1}, "port must be an int from 0 to 65535, not -1"),
        ({"port": 65536}, "port must be an int from 0 to 65535, not 65536"),
        ({"port": "8080"}, "port must be an int from 0 to 65535, not '8080'"),
        ({"port": True}, "port must be an int from 0 to 65535, not True"),
        ({"port": None}, "port must be an int from 0 to 65535, not None"),
        ({"address": None}, "address must be a str such as '127.0.0.1', not None"),
        ({"address": "a\0b"}, "address must be a str such as '127.0.0.1', not 'a\\x00b'"),
        ({"unix_path": "/x", "fd": 3}, "unix_path and fd exclude each other; remove one of them"),
        ({"unix_path": ""}, "unix_path must be the path of a file, not ''"),
        ({"unix_path": "\0abstract"}, "unix_path must be the path of a file, not '\\x00abstract'"),
        ({"unix_path": Path("/x")}, "unix_path must be the path of a file, not PosixPath('/x')"),
        ({"fd": -1}, "fd must be the number of an open file descriptor, not -1"),
        ({"fd": "3"}, "fd must be the number of an open file descriptor, not '3'"),
        ({"tls": ("cert.pem", "key.pem")}, "tls must be an ssl.SSLContext, not tuple"),
        ({"backlog": 0}, "backlog must be an int of at least 1, not 0"),
    ],
)
def test_an_invalid_listener(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        ListeningSocket(**options)


def test_a_listener_without_system_support(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_REUSEPORT", raising=False)
    with pytest.raises(ConfigurationError, match="no SO_REUSEPORT; remove reuse_port"):
        ListeningSocket(reuse_port=True)
    monkeypatch.setattr(bind_module, "_AF_UNIX", None)
    with pytest.raises(ConfigurationError, match="no Unix sockets; use an address and a port"):
        ListeningSocket(unix_path="/x")


# -- bind, TCP ---------------------------------------------------------------------------------------------------------


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
    """The two addresses are the same here, so the second one is never free."""
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
    """The error is raised here, because tests can run as root."""

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


# -- bind, Unix sockets and inherited ones -----------------------------------------------------------------------------


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


def test_the_unix_socket_of_a_running_server_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bind_module, "_PROBE_SECONDS", 0.05)
    path = str(tmp_path / "socket")
    (sock,) = bind(ListeningSocket(unix_path=path, backlog=1))
    for _ in range(4):  # after some of them the queue is full, and the probe gets no answer
        with pytest.raises(ConfigurationError) as caught:
            bind(ListeningSocket(unix_path=path))
        assert str(caught.value) == (
            f"cannot listen on unix:{path}: another server listens there; stop it or choose another path"
        )
    assert os.path.exists(path)
    sock.close()


def test_the_file_of_the_next_server_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    (first,) = bind(ListeningSocket(unix_path=str(path)))
    path.rename(tmp_path / "old")
    (second,) = bind(ListeningSocket(unix_path=str(path)))
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()


def test_a_file_that_is_not_a_socket_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match="the file exists and is not a socket; move it or choose another"):
        bind(ListeningSocket(unix_path=str(path)))
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "text"), [("no/such/directory", "No such file or directory"), ("x" * 200, "AF_UNIX path too long")]
)
def test_an_invalid_unix_path(name: str, text: str, tmp_path: Path) -> None:
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
