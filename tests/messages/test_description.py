"""`messages_of`: what a component accepts and sends, for documents of its interface."""

from __future__ import annotations

from typing import Any

from support.typed import Join, Login, Point, Say

from pywsapp import App, Connection, EchoServer, MessageComponent, RateLimit, on, rpc
from pywsapp._messages.description import MessageType, ProcedureType, messages_of


class Chat(MessageComponent):
    sends = (Say, Point)

    def on_message(self, conn: Connection, message: Join | Say) -> None: ...


class Tags(MessageComponent):
    sends = (Join | Login,)

    @on("join")
    def joined(self, conn: Connection, message: Join) -> None: ...

    @on("other")
    def other(self, conn: Connection, message: Any) -> None: ...

    @rpc
    def add(self, conn: Connection, a: int, b: Point) -> int:
        return a

    @rpc("do")
    def anything(self, conn: Connection, what) -> Any: ...  # type: ignore[no-untyped-def] # noqa: ANN001


def test_the_messages_of_a_route() -> None:
    app = App()
    app.route("/chat", RateLimit(Chat(), messages_per_second=1))
    app.route("/tags", Tags)
    app.route("/echo", EchoServer())
    chat, echo, tags = (messages_of(route.target) for route in app.router.routes_with_targets())
    assert chat.accepts == (MessageType(Join, "type", "join"), MessageType(Say, "type", "say"))
    assert chat.sends == (MessageType(Say, "type", "say"), MessageType(Point, None, None))
    assert tags.accepts == (MessageType(Join, "type", "join"), MessageType(dict, "type", "other"))
    assert tags.sends == (MessageType(Join, "type", "join"), MessageType(Login, "type", "login"))
    assert tags.procedures == (
        ProcedureType("add", {"a": int, "b": Point}, int),
        ProcedureType("do", {"what": Any}, Any),
    )
    assert echo == ((), (), ())
    assert messages_of(lambda: Chat()) == ((), (), ())
