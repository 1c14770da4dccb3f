"""The way from one server to the broker: a TCP proxy that delays bytes, breaks connections and holds back new ones."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

_READ_BYTES = 65_536


class Proxy:
    """Forwards the connections of one server to the broker. It listens at once, and forwards while `run` runs.

    Args:
        host: the address to listen on.
        broker_port: the port of the broker, on 127.0.0.1.
        delay: seconds for which it keeps each piece that it has read.

    Attributes:
        address: the host and the port that the server connects to.
    """

    def __init__(self, host: str, broker_port: int, delay: float) -> None:
        self._sock = socket.create_server((host, 0))
        self.address = f"{host}:{self._sock.getsockname()[1]}"
        self._broker_port = broker_port
        self._delay = delay
        self._forwards_at = 0.0  # in seconds of the event loop's clock
        self._open: set[asyncio.StreamWriter] = set()

    async def run(self) -> None:
        """Forward connections until cancelled. Needs asyncio."""
        async with await asyncio.start_server(self._forward, sock=self._sock) as server:
            await server.serve_forever()

    def hold_back(self, seconds: float) -> None:
        """Break all connections, and forward the next ones after some seconds."""
        self._forwards_at = asyncio.get_running_loop().time() + seconds
        for writer in self._open:
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            await asyncio.sleep(self._forwards_at - asyncio.get_running_loop().time())
            to_broker = await asyncio.open_connection("127.0.0.1", self._broker_port)
        except OSError:
            pass
        else:
            await self._copy_both(reader, writer, *to_broker)
            to_broker[1].close()
        finally:
            self._open.discard(writer)
            writer.close()

    async def _copy_both(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        broker_reader: asyncio.StreamReader,
        broker_writer: asyncio.StreamWriter,
    ) -> None:
        """Copy in both directions, until one of them ends."""
        copies = [
            asyncio.create_task(self._copy(reader, broker_writer)),
            asyncio.create_task(self._copy(broker_reader, writer)),
        ]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for copy in copies:
                copy.cancel()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_READ_BYTES):
                await asyncio.sleep(self._delay)
                writer.write(data)
                await writer.drain()
