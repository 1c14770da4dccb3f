"""Commands to one memcached server, in its text protocol, from any event loop.

There is no client library here, because of two faults of the libraries that were tried. With aiomcache 0.8.2 a server
that closes the connection before its answer to a write makes the client loop for ever, which blocks the event loop, and
a cancelled command leaves its answer for the next command. With emcache 1.3.3 the client waits up to 60 seconds before
it connects again after an outage. Five commands are needed.

A connection is used by one command at a time, and dropped after everything that is not a complete answer: an error, a
time limit, a cancellation. So no command can read the answer to another one.
"""

from __future__ import annotations

import time
from urllib.parse import urlsplit

import anyio
import anyio.abc
from anyio.lowlevel import current_token
from anyio.streams.buffered import BufferedByteReceiveStream

from pywsapp.exceptions import ConfigurationError

_PORT = 11211
#: Connections to the server. A command waits while all of them are in use.
_CONNECTIONS = 4
#: A longer life, in seconds, is a time since 1970 for memcached.
_LONGEST_RELATIVE = 30 * 24 * 3600
_MAX_LINE = 2048
#: The largest value that is read, in bytes.
_MAX_VALUE = 1024 * 1024


class MemcachedError(Exception):
    """The server refused a command, or its answer is not valid."""


class MemcachedClient:
    """Sends commands to one server, version 1.5.3 or newer.

    A command is sent again once, on a new connection, when an idle connection was lost. So it must be one that can be
    executed twice.

    Args:
        url: memcached://host or memcached://host:port.

    Attributes:
        name: the URL, for logs.

    Raises:
        ConfigurationError: the URL is invalid.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            parts, host, port = urlsplit(""), None, None
        if not host or "@" in parts.netloc or parts.query or parts.path not in ("", "/") or "," in parts.netloc:
            raise ConfigurationError("invalid URL of a memcached server: use memcached://host:port, without a password")
        self._host, self._port = host, port or _PORT
        self.name = f"memcached://{parts.netloc}"
        self._loop: object = None
        self._idle: list[_Connection] = []
        self._free: anyio.Semaphore

    async def get(self, key: bytes, seconds: int | None = None) -> bytes | None:
        """Return a value, or None.

        Args:
            key: the key.
            seconds: the new life of the key; None leaves it as it is.

        Raises:
            Exception: the server failed.
        """
        command = b"get %b" % key if seconds is None else b"gat %d %b" % (_life(seconds), key)
        line, value = await self._run(command)
        if value is None and line != b"END":
            raise _refusal(line)
        return value

    async def set(self, key: bytes, value: bytes, seconds: int, *, replace: bool = False) -> bool:
        """Write a value; return whether it was written.

        Args:
            key: the key.
            value: the value.
            seconds: the life of the key.
            replace: write only if the key exists.

        Raises:
            Exception: the server failed.
        """
        command = b"%b %b 0 %d %d\r\n%b" % (b"replace" if replace else b"set", key, _life(seconds), len(value), value)
        line, _ = await self._run(command)
        if line not in (b"STORED", b"NOT_STORED"):
            raise _refusal(line)
        return line == b"STORED"

    async def delete(self, key: bytes) -> bool:
        """Delete a key; return whether it existed.

        Raises:
            Exception: the server failed.
        """
        line, _ = await self._run(b"delete %b" % key)
        if line not in (b"DELETED", b"NOT_FOUND"):
            raise _refusal(line)
        return line == b"DELETED"

    async def aclose(self) -> None:
        """Close the connections. A later command makes new ones. Never raises."""
        if self._loop != current_token():
            self._idle.clear()
        while self._idle:
            await self._idle.pop().aclose()

    async def _run(self, command: bytes) -> tuple[bytes, bytes | None]:
        if self._loop != current_token():
            self._loop, self._free = current_token(), anyio.Semaphore(_CONNECTIONS)
            self._idle.clear()
        async with self._free:
            if self._idle:
                try:
                    return await self._run_on(self._idle.pop(), command)
                except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.IncompleteRead, OSError):
                    await self.aclose()  # the server has closed the idle connections, or restarted
            stream = await anyio.connect_tcp(self._host, self._port)
            return await self._run_on(_Connection(stream), command)

    async def _run_on(self, connection: _Connection, command: bytes) -> tuple[bytes, bytes | None]:
        try:
            result = await connection.run(command)
        except BaseException:
            await connection.aclose()
            raise
        self._idle.append(connection)
        return result


class _Connection:
    """One connection to the server."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self._stream = stream
        self._received = BufferedByteReceiveStream(stream)

    async def run(self, command: bytes) -> tuple[bytes, bytes | None]:
        """Send a command; return the line of the answer, and the value if it has one."""
        await self._stream.send(command + b"\r\n")
        line = await self._received.receive_until(b"\r\n", _MAX_LINE)
        if not line.startswith(b"VALUE "):
            return line, None
        try:
            size = int(line.split(b" ")[3])
        except (IndexError, ValueError):
            raise MemcachedError("the server sent a value without a size") from None
        if not 0 <= size <= _MAX_VALUE:
            raise MemcachedError(f"the server sent a value of {size} bytes")
        value = await self._received.receive_exactly(size + 2)
        if value[-2:] != b"\r\n" or await self._received.receive_until(b"\r\n", _MAX_LINE) != b"END":
            raise MemcachedError("the server sent a value without its end")
        return line, value[:-2]

    async def aclose(self) -> None:
        """Close the connection at once."""
        await anyio.aclose_forcefully(self._stream)


def _life(seconds: int) -> int:
    return seconds if seconds <= _LONGEST_RELATIVE else int(time.time()) + seconds


def _refusal(line: bytes) -> MemcachedError:
    return MemcachedError(f"the server answered {line.decode('latin-1')!r:.100}")
