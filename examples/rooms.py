"""Rooms: the path names the room, the query names the person. Who has no name is not let in.

Run:  python rooms.py [PORT]
See:  python client.py "ws://localhost:8080/rooms/tea?name=Ana"   in two terminals, with two names;
      without a name the handshake is answered with 403.
"""

import sys
from collections import defaultdict

from pywsapp import App, Connection, MessageComponent, Refuse, Request, broadcast


class Rooms(MessageComponent):
    def __init__(self) -> None:
        self.rooms: defaultdict[str, set[Connection]] = defaultdict(set)

    def on_handshake(self, request: Request) -> None:
        if not request.query_params.get("name"):
            raise Refuse(403, body="please connect with ?name=...")

    def on_open(self, conn: Connection) -> None:
        conn.state.name = conn.request.query_params["name"][:32]
        conn.state.room = conn.request.path_params["room"]
        room = self.rooms[conn.state.room]
        broadcast(room, f"{conn.state.name} came in")
        conn.send(f"welcome to {conn.state.room}, there are {len(room)} others")
        room.add(conn)

    def on_message(self, conn: Connection, message: str | bytes) -> None:
        if isinstance(message, bytes):
            conn.send("text only, please")
            return
        broadcast(self.rooms[conn.state.room], f"{conn.state.name}: {message}", exclude=conn)

    def on_close(self, conn: Connection) -> None:
        room = self.rooms[conn.state.room]
        room.discard(conn)
        broadcast(room, f"{conn.state.name} left")
        if not room:
            del self.rooms[conn.state.room]


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
    app = App("localhost", port)
    app.route("/rooms/{room}", Rooms())
    app.run()
