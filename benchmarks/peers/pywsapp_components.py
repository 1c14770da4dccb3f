"""The components of pywsapp, an App of them for ASGI servers, and sites that mount it."""

from __future__ import annotations

from typing import Any

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


def site(framework: str, app: App) -> Any:
    """Return an ASGI application of a framework that passes all WebSockets to an App; "pywsapp" is the App itself."""
    if framework == "fastapi":
        from fastapi import FastAPI

        fastapi = FastAPI(lifespan=app.lifespan)
        fastapi.mount("/", app)
        return fastapi
    if framework == "litestar":
        from litestar import Litestar, asgi

        return Litestar([asgi("/", is_mount=True, copy_scope=True)(app)], lifespan=[app.lifespan], logging_config=None)
    if framework == "django":
        from django.conf import settings
        from django.core.asgi import get_asgi_application

        settings.configure(ALLOWED_HOSTS=["*"])
        django = get_asgi_application()

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await (django if scope["type"] == "http" else app)(scope, receive, send)

        return application
    return app


app = make_app(deflate=False)
