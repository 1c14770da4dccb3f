"""A client of event streams on a real socket, which reads chunked responses and those that end with the connection."""

from __future__ import annotations

import socket
from collections import deque

import anyio

from pywsapp.testing.event_stream import EventParser, StreamEvent
from support.serving import GUARD
from support.wire import Peer

__all__ = ["EventClient", "StreamEvent"]


class EventClient(Peer):
    """A client of one event stream.

    Attributes:
        status: the status of the response.
        fields: its header fields.
        parser: reads the stream.
    """

    def __init__(self, port: int) -> None:
        super().__init__(socket.create_connection(("127.0.0.1", port)))
        self.parser = EventParser()
        self._events: deque[StreamEvent] = deque()

    async def open(self, path: str = "/", trailing: bytes = b"", **fields: str) -> dict[str, str]:
        """Send the request, and return the header fields of the response; `last_event_id="3-a"` adds a field."""
        given = {"host": "localhost", "accept": "text/event-stream"}
        given |= {name.replace("_", "-"): value for name, value in fields.items()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        await self.send(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode() + trailing)
        with anyio.fail_after(GUARD):
            self.status, self.fields = await self.head()
        return self.fields

    async def event(self) -> StreamEvent | None:
        """Return the next event; None at the end of the stream."""
        with anyio.fail_after(GUARD):
            while not self._events:
                part = await self._part()
                if not part:
                    return None
                self._events.extend(self.parser.receive(part))
        return self._events.popleft()

    async def text(self) -> str:
        """Return the data of the next event."""
        event = await self.event()
        assert event is not None
        return event.data

    async def _part(self) -> bytes:
        if self.fields.get("transfer-encoding") != "chunked":
            if not self._buffer:
                self._buffer += await self.receive()
            part = bytes(self._buffer)
            self._buffer.clear()
            return part
        line = b""
        while not line.endswith(b"\r\n"):
            line += await self.exactly(1)
        part = await self.exactly(int(line, 16))
        assert await self.exactly(2) == b"\r\n"
        return part
