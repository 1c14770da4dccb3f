"""wsproto on anyio streams without optimisation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
from _common import HOST, arguments
from anyio.abc import SocketStream
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Message,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.extensions import PerMessageDeflate
from wsproto.utilities import RemoteProtocolError

args = arguments(("--backend", ["asyncio", "uvloop", "trio"]))
chatters: set[Connection] = set()


class Connection:
    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream
        self.ws = WSConnection(ConnectionType.SERVER)
        self.lock = anyio.Lock()

    async def send(self, event: Any) -> None:
        async with self.lock:
            await self.stream.send(self.ws.send(event))

    async def messages(self) -> AsyncIterator[Any]:
        parts: list[Any] = []
        while True:
            try:
                self.ws.receive_data(await self.stream.receive(65536))
            except anyio.EndOfStream:
                return
            for event in self.ws.events():
                if isinstance(event, (TextMessage, BytesMessage)):
                    parts.append(event.data)
                    if event.message_finished:
                        yield parts[0] if len(parts) == 1 else type(parts[0])().join(parts)
                        parts = []
                elif isinstance(event, Request):
                    await self.answer(event)
                elif isinstance(event, Ping):
                    await self.send(event.response())
                elif isinstance(event, CloseConnection):
                    await self.send(event.response())
                    return

    async def answer(self, request: Request) -> None:
        if request.target not in ("/echo", "/chat"):
            await self.send(RejectConnection(status_code=404))
            return
        extensions = [PerMessageDeflate()] if args.deflate else []
        await self.send(AcceptConnection(extensions=extensions))
        if request.target == "/chat":
            chatters.add(self)

    async def handle(self) -> None:
        async for message in self.messages():
            if self not in chatters:
                await self.send(Message(data=message))
                continue
            for other in list(chatters):
                if other is not self:
                    try:
                        await other.send(Message(data=message))
                    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                        chatters.discard(other)


async def serve(stream: SocketStream) -> None:
    connection = Connection(stream)
    async with stream:
        try:
            await connection.handle()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, RemoteProtocolError):
            pass
        finally:
            chatters.discard(connection)


async def main() -> None:
    listener = await anyio.create_tcp_listener(local_host=HOST, local_port=args.port)
    await listener.serve(serve)


if args.backend == "trio":
    anyio.run(main, backend="trio")
else:
    anyio.run(main, backend_options={"use_uvloop": args.backend == "uvloop"})
