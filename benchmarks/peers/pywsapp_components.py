"""The components of pywsapp, and an App of them for ASGI servers."""

from __future__ import annotations

from _common import MAX_MESSAGE

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


def options(deflate: bool) -> Options:
    # As in the other servers, the client decides on context takeover, and every message is compressed.
    config = Deflate(server_no_context_takeover=False, client_no_context_takeover=False, threshold=0)
    return Options(max_message_size=MAX_MESSAGE, deflate=config if deflate else None)


def route(app: App, echo: MessageComponent) -> None:
    app.route("/echo", echo, allowed_origins=["*"])
    app.route("/chat", Chat(), allowed_origins=["*"])


def make_app(deflate: bool) -> App:
    app = App(options=options(deflate))
    route(app, Echo())
    return app


app = make_app(deflate=False)
