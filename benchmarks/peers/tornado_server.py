"""tornado, on asyncio or with --uvloop on uvloop."""

from __future__ import annotations

import asyncio
from typing import Any

from _common import BACKLOG, HOST, MAX_MESSAGE, arguments, run
from tornado.web import Application
from tornado.websocket import WebSocketClosedError, WebSocketHandler

args = arguments(uvloop=True)
chatters: set[WebSocketHandler] = set()


class Base(WebSocketHandler):
    def check_origin(self, origin: str) -> bool:
        return True

    def get_compression_options(self) -> dict[str, Any] | None:
        return {} if args.deflate else None


class Echo(Base):
    def on_message(self, message: str | bytes) -> None:
        self.write_message(message, binary=isinstance(message, bytes))


class Chat(Base):
    def open(self) -> None:
        chatters.add(self)

    def on_close(self) -> None:
        chatters.discard(self)

    def on_message(self, message: str | bytes) -> None:
        binary = isinstance(message, bytes)
        for other in list(chatters):
            if other is not self:
                try:
                    other.write_message(message, binary=binary)
                except WebSocketClosedError:
                    chatters.discard(other)


async def main() -> None:
    app = Application(
        [("/echo", Echo), ("/chat", Chat)],
        websocket_max_message_size=MAX_MESSAGE,
        log_function=lambda handler: None,
    )
    app.listen(args.port, HOST, backlog=BACKLOG)
    await asyncio.get_running_loop().create_future()


run(main, args.uvloop)
