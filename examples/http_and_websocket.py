"""A page, JSON for programs and a WebSocket, all on one port.

Run:   python http_and_websocket.py [PORT]
Try:   open http://localhost:8080 in two browser windows: both show how many windows are open, without reloading.
       http://localhost:8080/visitors returns the same number as JSON.
"""

import sys

from pywsapp import App, Connection, MessageComponent, Request, Response, broadcast

PAGE = """<!doctype html>
<meta charset="utf-8">
<title>Visitors</title>
<p>Windows with this page: <output id="count">?</output></p>
<script>
  const socket = new WebSocket(location.origin.replace(/^http/, "ws") + "/live");
  socket.onmessage = (event) => { document.getElementById("count").textContent = event.data; };
</script>
"""


class Visitors(MessageComponent):
    def __init__(self) -> None:
        self.connections: set[Connection] = set()

    def on_open(self, conn: Connection) -> None:
        self.connections.add(conn)
        self.announce()

    def on_close(self, conn: Connection) -> None:
        self.connections.discard(conn)
        self.announce()

    def announce(self) -> None:
        broadcast(self.connections, str(len(self.connections)))


app = App("localhost", 8080)
visitors = app.route("/live", Visitors())


@app.http("/")
def page(request: Request) -> Response:
    return Response.html(PAGE)


@app.http("/visitors")
def count(request: Request) -> Response:
    return Response.json({"visitors": len(visitors.connections)})


if __name__ == "__main__":
    app.rebind(port=int(sys.argv[1]) if len(sys.argv) > 1 else None)
    app.run()
