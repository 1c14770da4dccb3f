"""Topics: rooms that are the same in all processes and on all machines, with history and presence.

Run:   python topics.py [PORT]                          one process
       python topics.py 8080 4                          four workers of this machine
       python topics.py 8080 1 redis://localhost        and the same on another port or machine
Try:   python client.py "ws://localhost:8080/rooms/tea?name=Ana"   in several terminals, with several names;
       a client that comes back as ...?name=Ana&since=POSITION gets what it missed.
"""

import json
import sys

from pywsapp import App, Connection, MessageComponent, PresenceDiff, Topic, TopicError


class Rooms(MessageComponent):
    async def on_open(self, conn: Connection) -> None:
        params = conn.request.query_params
        topic = app.topic(f"room:{conn.request.path_params['room']}")
        recovery = await topic.recover(conn, params.get("since"))
        topic.track(conn, params.get("name", "")[:32] or f"visitor {conn.id}")
        conn.send(json.dumps({"position": recovery.position, "complete": recovery.complete}))

    async def on_message(self, conn: Connection, message: str | bytes) -> None:
        for topic in conn.topics:
            await topic.broadcast(message)

    def on_error(self, conn: Connection, exc: Exception) -> None:
        if isinstance(exc, TopicError):  # an invalid room or position
            conn.close(4000, str(exc)[:60])
        else:
            super().on_error(conn, exc)


app = App("localhost", 8080)
app.route("/rooms/{room}", Rooms())
app.history("room:*", size=100, seconds=300)


@app.on_presence("room:*")
def send_changes(topic: Topic, diff: PresenceDiff) -> None:
    for conn in topic:
        conn.send(json.dumps({"joined": sorted(diff.joined), "left": sorted(diff.left)}))


if __name__ == "__main__":
    app.rebind(port=int(sys.argv[1]) if len(sys.argv) > 1 else None)
    app.configure(broker=sys.argv[3] if len(sys.argv) > 3 else None)
    app.run(workers=int(sys.argv[2]) if len(sys.argv) > 2 else 1)
