"""Rooms: the path names the room, the query names the user. Handshakes without a name are refused.

Run:   python rooms.py [PORT]
Try:   python client.py "ws://localhost:8080/rooms/tea?name=Ana"   in two terminals, with two names;
       without a name the handshake is answered with status 403.
"""

import sys

from pywsapp import App, Connection, MessageComponent, Refuse, Request, Topic


class Rooms(MessageComponent):
    def on_handshake(self, request: Request) -> None:
        name = request.query_params.get("name", "").strip()[:32]
        if not name:
            raise Refuse(403, body="connect with ?name=...")
        request.state.name = name  # request.state is the later conn.state

    def on_open(self, conn: Connection) -> None:
        room = conn.request.path_params["room"]
        topic = app.topic(f"room:{room}")
        topic.broadcast(f"{conn.state.name} came in")
        conn.send(f"welcome to {room}, there are {len(topic)} others")
        topic.add(conn)

    def on_message(self, conn: Connection, message: str | bytes) -> None:
        if isinstance(message, bytes):
            conn.close(1003, "text only")
            return
        for topic in conn.topics:
            topic.broadcast(f"{conn.state.name}: {message}", exclude=conn)

    def on_unsubscribe(self, conn: Connection, topic: Topic) -> None:  # called also when the connection ends
        topic.broadcast(f"{conn.state.name} left")


app = App("localhost", 8080)
app.route("/rooms/{room}", Rooms())

if __name__ == "__main__":
    app.rebind(port=int(sys.argv[1]) if len(sys.argv) > 1 else None)
    app.run()
