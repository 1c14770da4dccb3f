"""Open listening sockets: on TCP addresses, on Unix sockets and from inherited file descriptors."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import stat
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pywsapp._server.tls_reload import ReloadingTls, ServerTls
from pywsapp.exceptions import ConfigurationError

BACKLOG = 4096

_PORT_RETRIES = 10
_PROBE_SECONDS = 1.0  # for the connection that checks whether a Unix socket has a server
_AF_UNIX = getattr(socket, "AF_UNIX", None)


@dataclass(frozen=True)
class ListeningSocket:
    """The configuration of a listening socket: an address and a port, a Unix socket, or an inherited socket.

    Args:
        address: an IP address; or a host name for all its addresses; or `""` or `"*"` for every interface.
        port: 0 to 65535; 0 selects a free port.
        unix_path: the path of a Unix socket, instead of address and port.
        fd: the file descriptor of an inherited, listening stream socket, instead of address and port.
        tls: the context of TLS connections, or what reloads it; None for plain ones.
        backlog: how many connections the kernel keeps until they are accepted.
        reuse_port: whether several processes can listen on the same port (SO_REUSEPORT).
        proxy_protocol: whether every connection begins with a PROXY header, which a load balancer writes; it comes
            before TLS.

    Raises:
        ConfigurationError: a value is out of its range or contradicts another.
    """

    address: str = "127.0.0.1"
    port: int = 8080
    unix_path: str | None = None
    fd: int | None = None
    tls: ServerTls | None = None
    backlog: int = BACKLOG
    reuse_port: bool = False
    proxy_protocol: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.address, str) or "\0" in self.address:
            raise ConfigurationError(f"address must be a str such as '127.0.0.1', not {self.address!r}")
        if type(self.port) is not int or not 0 <= self.port <= 65535:
            raise ConfigurationError(f"port must be an int from 0 to 65535, not {self.port!r}")
        if self.unix_path is not None:
            self._check_unix_path(self.unix_path)
        if self.fd is not None and (type(self.fd) is not int or self.fd < 0):
            raise ConfigurationError(f"fd must be the number of an open file descriptor, not {self.fd!r}")
        if self.tls is not None and not isinstance(self.tls, (ssl.SSLContext, ReloadingTls)):
            raise ConfigurationError(f"tls must be an ssl.SSLContext, not {type(self.tls).__name__}")
        if type(self.backlog) is not int or self.backlog < 1:
            raise ConfigurationError(f"backlog must be an int of at least 1, not {self.backlog!r}")
        if self.reuse_port and not hasattr(socket, "SO_REUSEPORT"):
            raise ConfigurationError("this system has no SO_REUSEPORT; remove reuse_port")

    def _check_unix_path(self, path: str) -> None:
        if self.fd is not None:
            raise ConfigurationError("unix_path and fd exclude each other; remove one of them")
        if not isinstance(path, str) or not path or "\0" in path:
            raise ConfigurationError(f"unix_path must be the path of a file, not {path!r}")
        if _AF_UNIX is None:
            raise ConfigurationError("this system has no Unix sockets; use an address and a port")


def bind(listener: ListeningSocket) -> list[socket.socket]:
    """Open listening, non-blocking sockets; blocks while a host name is resolved.

    Returns:
        One socket for each address: a host name or `""` can have several.

    Raises:
        ConfigurationError: the address cannot be used; the message says why and what to do.
    """
    if listener.fd is not None:
        return [_adopt(listener.fd)]
    if listener.unix_path is not None:
        return [_bind_unix(listener.unix_path, listener.backlog)]
    targets = _resolve(listener)
    # A port that is free on the first address can be in use on the next one; then another port is tried.
    retries = _PORT_RETRIES if listener.port == 0 else 0
    while True:
        try:
            return _bind_all(targets, listener)
        except OSError as exc:
            if not retries or exc.errno != errno.EADDRINUSE:
                raise _cannot_listen(_join(listener.address or "*", listener.port), _explain(exc)) from exc
            retries -= 1


def is_raised_by_bind(exc: BaseException) -> bool:
    """Return whether an exception comes from this module."""
    *_, (frame, _) = traceback.walk_tb(exc.__traceback__)
    return frame.f_globals.get("__name__") == __name__


def address_of(sock: socket.socket) -> str:
    """Return the address of a socket as text: `127.0.0.1:8080`, `[::1]:8080` or `unix:/path`."""
    name = sock.getsockname()
    if sock.family == _AF_UNIX:
        return f"unix:{os.fsdecode(name)}"
    return _join(name[0], name[1])


class _UnixSocket(socket.socket):
    """A listening Unix socket that removes its file when the process that created it closes it."""

    _owned: tuple[str, int, int, int] | None = None

    def own(self, path: str) -> None:
        """Store which file to remove."""
        # The absolute path, because the process can change its directory before it closes the socket.
        path = os.path.abspath(path)
        found = os.stat(path)
        self._owned = (path, found.st_dev, found.st_ino, os.getpid())

    def close(self) -> None:
        super().close()
        if self._owned is None:
            return
        (path, device, inode, pid), self._owned = self._owned, None
        # Another server can have replaced the file, and a forked process must not remove the file of its parent.
        with suppress(OSError):
            found = os.stat(path)
            if (found.st_dev, found.st_ino, os.getpid()) == (device, inode, pid):
                os.unlink(path)


def _adopt(fd: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=fd)
    except OSError as exc:
        raise ConfigurationError(f"cannot listen on file descriptor {fd}: it is no open socket") from exc
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.detach()
        raise ConfigurationError(f"cannot listen on file descriptor {fd}: it is not a listening stream socket")
    sock.setblocking(False)
    return sock


def _bind_unix(path: str, backlog: int) -> socket.socket:
    sock = _UnixSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(path)
        sock.own(path)
        sock.listen(backlog)
    except OSError as exc:
        sock.close()
        raise _cannot_listen(f"unix:{path}", exc.strerror or str(exc)) from exc
    except ConfigurationError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _remove_stale(path: str) -> None:
    """Remove the file of a Unix socket that no server listens on any more."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise _cannot_listen(f"unix:{path}", "the file exists and is not a socket; move it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except (TimeoutError, BlockingIOError):
            pass  # the queue of the socket is full, so a server listens
    raise _cannot_listen(f"unix:{path}", "another server listens there; stop it or choose another path")


def _resolve(listener: ListeningSocket) -> list[tuple[int, tuple[Any, ...]]]:
    host = None if listener.address in ("", "*") else listener.address
    try:
        found = socket.getaddrinfo(host, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as exc:
        where = _join(listener.address, listener.port)
        raise _cannot_listen(where, f"the address is unknown ({getattr(exc, 'strerror', None) or exc})") from exc
    return list(dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in found))


def _bind_all(targets: list[tuple[int, tuple[Any, ...]]], listener: ListeningSocket) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    port, skipped = listener.port, None
    try:
        for family, (host, _, *rest) in targets:
            try:
                sockets.append(_bind_one(family, (host, port, *rest), listener))
            except OSError as exc:
                if exc.errno != errno.EAFNOSUPPORT and (family, exc.errno) != (socket.AF_INET6, errno.EADDRNOTAVAIL):
                    raise
                skipped = exc  # this machine has IPv4 only, or IPv6 only
                continue
            port = sockets[0].getsockname()[1]
        if skipped is not None and not sockets:
            raise skipped
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bind_one(family: int, sockaddr: tuple[Any, ...], listener: ListeningSocket) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            # On Windows the option would allow two servers on one port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(sockaddr)
        sock.listen(listener.backlog)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _explain(exc: OSError) -> str:
    if exc.errno == errno.EADDRINUSE:
        return "the address is in use; stop the other server, choose another port, or use port 0 for a free one"
    if exc.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have the address; use one of its addresses, or '' for all of them"
    if exc.errno in (errno.EACCES, errno.EPERM):
        return "permission denied; choose a port from 1024 up, or run with the permission to open lower ports"
    return exc.strerror or str(exc)


def _cannot_listen(where: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"cannot listen on {where}: {why}")


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def raised_in(exc: BaseException) -> str:
    """Return the name of the module that has raised an exception."""
    *_, (frame, _) = traceback.walk_tb(exc.__traceback__)
    return str(frame.f_globals.get("__name__"))
