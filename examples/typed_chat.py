"""A chat with typed messages: pywsapp reads them, checks them, and tells clients what is wrong with others.

    pip install 'pywsapp[msgspec]'
    python typed_chat.py

Then send JSON with `python client.py ws://localhost:8080/chat`:

    {"type": "join", "room": "tea", "name": "Ana"}
    {"type": "say", "text": "hello"}
    {"type": "say", "text": 5}
    {"id": 1, "method": "names_in", "params": {"room": "tea"}}
"""

from __future__ import annotations

import sys

import msgspec

from pywsapp import App, CallError, Connection, MessageComponent, on, rpc


class Join(msgspec.Struct, tag="join"):
    """A client enters a room."""

    room: str
    name: str


class Say(msgspec.Struct, tag="say"):
    """A client says something in its room."""

    text: str


class Said(msgspec.Struct, tag="said"):
    """Someone has said something."""

    name: str
    text: str


class ChatState:
    """What a connection has in `conn.state`; for type checkers only."""

    room: str
    name: str


class Chat(MessageComponent):
    """Rooms in which clients talk."""

    sends = (Said,)

    def __init__(self) -> None:
        self.names: dict[str, set[str]] = {}

    def on_open(self, conn: Connection[ChatState]) -> None:
        """Begin without a room."""
        conn.state.room = conn.state.name = ""

    @on("join")
    async def joined(self, conn: Connection[ChatState], message: Join) -> None:
        """Enter a room."""
        self.on_close(conn)
        conn.state.room, conn.state.name = message.room, message.name
        self.names.setdefault(message.room, set()).add(message.name)
        await conn.subscribe(f"room:{message.room}")

    @on("say")
    def said(self, conn: Connection[ChatState], message: Say) -> None:
        """Send the text to the room."""
        for topic in conn.topics:
            topic.broadcast(Said(conn.state.name, message.text))

    @rpc
    def names_in(self, conn: Connection[ChatState], room: str) -> list[str]:
        """Return who is in a room."""
        if room not in self.names:
            raise CallError("not_found", f"there is no room {room!r}")
        return sorted(self.names[room])

    def on_close(self, conn: Connection[ChatState]) -> None:
        """Leave the room."""
        for topic in conn.topics:
            conn.unsubscribe(topic.name)
        names = self.names.get(conn.state.room, set())
        names.discard(conn.state.name)
        if not names:
            self.names.pop(conn.state.room, None)


app = App("localhost", 8080)
app.route("/chat", Chat())

if __name__ == "__main__":
    app.rebind(port=int(sys.argv[1]) if len(sys.argv) > 1 else None)
    app.run()
