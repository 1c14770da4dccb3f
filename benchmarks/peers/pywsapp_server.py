"""pywsapp; --loop selects the event loop, and --handler a def or an async def."""

from __future__ import annotations

from _common import HOST, MAX_MESSAGE, arguments

from pywsapp import App, Connection, Deflate, MessageComponent, Options, broadcast


class Echo(MessageComponent):
    def on_message(self, conn: Connection, message: str | bytes) -> None:
        conn.send(message)


class AsyncEcho(MessageComponent):
    async def on_message(self, conn: Connection, message: str | bytes) -> None:
        await conn.send(message)


class Chat(MessageComponent):
    def __init__(self) -> None:
        self.clients: set[Connection] = set()

    def on_open(self, conn: Connection) -> None:
        self.clients.add(conn)

    def on_message(self, conn: Connection, message: str | bytes) -> None:
        broadcast(self.clients, message, exclude=conn)

    def on_close(self, conn: Connection) -> None:
        self.clients.discard(conn)


args = arguments(("--loop", ["uvloop", "asyncio", "trio"]), ("--handler", ["def", "async"]), tls=True)
# As in the other servers, the client decides on context takeover, and every message is compressed.
deflate = Deflate(server_no_context_takeover=False, client_no_context_takeover=False, threshold=0)
app = App(
    "localhost",
    args.port,
    HOST,
    options=Options(max_message_size=MAX_MESSAGE, deflate=deflate if args.deflate else None),
    tls=tuple(args.tls) if args.tls else None,
)
app.route("/echo", Echo() if args.handler == "def" else AsyncEcho(), allowed_origins=["*"])
app.route("/chat", Chat(), allowed_origins=["*"])
if args.loop == "trio":
    app.run(backend="trio")
else:
    app.run(uvloop=args.loop == "uvloop")
