"""An App for the tests of the browser client, in a process of its own; requests to `/command` tell it what to do.

python topic_site.py [port] [URL of the broker]
POST /command?drop=1006            break all connections; other codes close them
POST /command?say=room:tea&count=3 broadcast the next three numbers
POST /command?end=room:tea         end all subscriptions to a topic
"""

from __future__ import annotations

import itertools
import sys
import time
from typing import Any

from pywsapp import App, CallError, Connection, Options, Request, Response, TopicComponent, rpc
from pywsapp.auth import Authenticated

ABORT = 1006
PAGE = '<!doctype html><title>topics</title><script type="module">import * as one from "/pywsapp.js"; '
PAGE += 'import * as shared from "/pywsapp-shared.js"; Object.assign(window, one, shared);</script>'

connections: set[Connection] = set()
numbers = itertools.count(1)


class Rooms(TopicComponent):
    """Topics for everyone who knows their names, except those that begin with `closed:`."""

    filter_fields = ("kind",)

    def authorize(self, conn: Connection, action: str, topic: str) -> bool:
        return not topic.startswith("closed:")

    def on_open(self, conn: Connection) -> None:
        connections.add(conn)

    def on_close(self, conn: Connection) -> None:
        connections.discard(conn)

    def on_publish(self, conn: Connection, topic: Any, message: Any) -> Any:
        if message == "refuse":
            raise CallError("impolite", "say something else")
        return message

    @rpc
    def add(self, conn: Connection, a: int, b: int) -> int:
        return a + b

    @rpc
    def hello(self, conn: Connection) -> str:
        conn.send({"hello": conn.user})
        return str(conn.user)


class Private(Rooms):
    """Takes tokens such as `ana.1800000000`: a user and when the token expires."""

    def authenticate_token(self, token: str) -> Authenticated | None:
        user, _, expires_at = token.rpartition(".")
        return Authenticated(user, float(expires_at), user) if float(expires_at) > time.time() else None


def command(request: Request) -> Response:
    """Do what a test wants."""
    query = request.query_params
    if "drop" in query:
        code = int(query["drop"])
        for conn in list(connections):
            if code == ABORT:
                conn.abort()
            else:
                conn.close(code, "dropped")
    if "say" in query:
        for number in itertools.islice(numbers, int(query["count"])):
            app.topic(query["say"]).broadcast(str(number))
    if "end" in query:
        for conn in list(connections):
            app.topic(query["end"]).remove(conn)
    return Response("done")


def refuse(request: Request) -> None:
    """Refuse every client."""


port, broker = (sys.argv[1:] + ["0", ""][len(sys.argv) - 1 :])[:2]
app = App("localhost", int(port), broker=broker or None, options=Options(ping_interval=1))
app.route("/live", Rooms(), fallback=True)
app.route("/private", Private(), fallback=True)
app.route("/guarded", Rooms(), authenticate=refuse, fallback=True)
app.route("/sockets", Rooms())
app.route_client()
app.http("/", lambda request: Response.html(PAGE))
app.http("/connections", lambda request: str(len(connections)))
app.http("/command", command, methods=["POST"])
app.history("room:*", size=2_000, seconds=300)
app.on_presence("room:*")(lambda topic, change: None)

if __name__ == "__main__":
    app.run()
