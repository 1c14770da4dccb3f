"""pywsapp with workers; all connections subscribe to one topic."""

from __future__ import annotations

import os

from _common import HOST, PROCESSES, arguments

from pywsapp import App, Connection, MessageComponent


class Chat(MessageComponent):
    async def on_open(self, conn: Connection) -> None:
        await app.topic("chat").add(conn)

    def on_message(self, conn: Connection, message: str | bytes) -> None:
        app.topic("chat").broadcast(message, exclude=conn)


args = arguments(PROCESSES)
# Without a broker, several workers use the local bus, and one process needs nothing.
app = App("localhost", args.port, HOST, broker=os.environ.get("BROKER"))
app.route("/chat", Chat(), allowed_origins=["*"])
app.run(uvloop=True, workers=int(args.processes))
