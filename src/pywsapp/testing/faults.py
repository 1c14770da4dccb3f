"""`FaultyProxy`: a network with faults between a client and an App on a real port."""

from __future__ import annotations

import socket
import struct
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import TYPE_CHECKING

import anyio
from anyio.abc import SocketAttribute, SocketStream, TaskGroup

from pywsapp._process.background import tasks_of_block
from pywsapp.exceptions import ConfigurationError

if TYPE_CHECKING:
    from typing_extensions import Self

_READ_BYTES = 65536
#: With a limited rate, so many pieces are sent in a second.
_STEPS_A_SECOND = 20
#: An SO_LINGER that makes `close` send a RST.
_RESET = struct.pack("ii", 1, 0)
#: The exceptions of a copy after a reset, or when one side is gone.
_GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


class FaultyProxy:
    """Forwards TCP connections to a port, with faults: `async with FaultyProxy(server.port) as proxy:`.

    Clients connect to `proxy.ws_url`. The attributes can change at any time, and apply to what comes from then on.

    Args:
        port: the port of the server, on 127.0.0.1.

    Attributes:
        delay: seconds for which each piece waits, in both directions.
        piece: bytes of the pieces that bytes are cut into; 0 does not cut. 1 delivers every byte by itself.
        bytes_per_second: how fast a client takes what the server sends; 0 for no limit.
        is_cut: whether nothing is forwarded, while all connections stay open: a cable that was pulled out.
        connections: the number of connections so far.
        open_connections: the number of connections now.
    """

    def __init__(self, port: int) -> None:
        self.delay = 0.0
        self.piece = 0
        self.bytes_per_second = 0.0
        self.connections = 0
        self._target = port
        self._corrupt = 0
        self._uncut = anyio.Event()
        self._uncut.set()
        self._open: dict[SocketStream, SocketStream] = {}  # the client's end and the server's end of each connection
        self._port: int | None = None
        self._stack = AsyncExitStack()
        self._tasks: TaskGroup

    @property
    def is_cut(self) -> bool:
        """Whether nothing is forwarded any more."""
        return not self._uncut.is_set()

    @is_cut.setter
    def is_cut(self, is_cut: bool) -> None:
        if is_cut and not self.is_cut:
            self._uncut = anyio.Event()
        elif not is_cut:
            self._uncut.set()

    @property
    def open_connections(self) -> int:
        """The number of connections that are open."""
        return len(self._open)

    @property
    def ws_url(self) -> str:
        """The URL for WebSocket clients, without a path.

        Raises:
            ConfigurationError: the proxy does not run.
        """
        if self._port is None:
            raise ConfigurationError("the proxy does not run: write `async with FaultyProxy(port) as proxy:`")
        return f"ws://localhost:{self._port}"

    def corrupt(self, number: int = 1) -> None:
        """Flip a bit in the last byte of each of the next pieces that the server gets."""
        self._corrupt += number

    def reset(self) -> None:
        """Break all connections with a RST to both sides."""
        for streams in list(self._open.items()):
            for stream in streams:
                sock = stream.extra(SocketAttribute.raw_socket)
                with suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                self._tasks.start_soon(stream.aclose)

    # -- running -----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        await self._stack.enter_async_context(listener)
        self._port = listener.extra(SocketAttribute.local_port)
        self._tasks = await self._stack.enter_async_context(tasks_of_block())
        self._tasks.start_soon(listener.serve, self._forward)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._stack.__aexit__(kind, exc, trace)

    async def _forward(self, client: SocketStream) -> None:
        self.connections += 1
        async with client:
            try:
                server = await anyio.connect_tcp("127.0.0.1", self._target)
            except OSError:
                return
            async with server:
                self._open[client] = server
                try:
                    async with anyio.create_task_group() as tasks:
                        for streams in (client, server), (server, client):
                            tasks.start_soon(self._copy, *streams, tasks.cancel_scope)
                finally:
                    del self._open[client]

    async def _copy(self, source: SocketStream, target: SocketStream, scope: anyio.CancelScope) -> None:
        """Copy in one direction; when it ends, both do."""
        with suppress(*_GONE):
            while True:
                await self._pass_on(await source.receive(_READ_BYTES), target, to_server=source in self._open)
        scope.cancel()

    async def _pass_on(self, data: bytes, target: SocketStream, *, to_server: bool) -> None:
        """Send bytes as the faults say."""
        if to_server and self._corrupt:
            self._corrupt -= 1
            data = data[:-1] + bytes((data[-1] ^ 1,))
        rate = 0.0 if to_server else self.bytes_per_second
        size = self.piece or len(data)
        if rate:
            size = max(1, min(size, int(rate / _STEPS_A_SECOND)))
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            await anyio.sleep(self.delay)
            await self._uncut.wait()
            await target.send(piece)
            if rate:
                await anyio.sleep(len(piece) / rate)
