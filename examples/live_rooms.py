"""Clients that subscribe, publish and call, in a page with the browser client.

Run:   python live_rooms.py [PORT]
Try:   http://localhost:8080/?name=Ana and http://localhost:8080/?name=Ben in two windows: write, reload one, close one.
       Stop the server, write, and start it again: what you wrote arrives once.
"""

import sys
from typing import Any

from pywsapp import App, CallError, Connection, PresenceDiff, Response, Topic, TopicComponent, TopicRules, rpc
from pywsapp.auth import public
from pywsapp.http import Request

PAGE = """<!doctype html>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Live rooms</title>
<p id="here"></p>
<pre id="log"></pre>
<form><input id="text" autofocus autocomplete="off"></form>
<script type="module">
import { connect } from "/pywsapp.js";

const name = new URLSearchParams(location.search).get("name") || "guest";
const [log, here, text] = ["log", "here", "text"].map((id) => document.getElementById(id));
const write = (line) => { log.textContent += line + "\\n"; };

const client = connect(`/live?name=${encodeURIComponent(name)}`);
const room = client.subscribe("room:1", { since: null, presence: true, track: {} }, ({ data }) => {
  write(`${data.from}: ${data.text}`);
});
room.on("presence", () => { here.textContent = "Here: " + [...room.present.keys()].join(", "); });
room.on("lost", () => write("(messages are missing)"));

document.forms[0].onsubmit = (event) => {
  event.preventDefault();
  client.publish("room:1", text.value).catch((error) => write(`(${error.code}: ${error.message})`));
  text.value = "";
};
</script>
"""


class Rooms(TopicComponent):
    def on_publish(self, conn: Connection, topic: Topic, message: Any) -> Any:
        if not isinstance(message, str) or not 0 < len(message) <= 500:
            raise CallError("too_long", "write a text of at most 500 characters")
        return {"from": conn.user, "text": message}

    @rpc
    def members(self, conn: Connection, room: str) -> list[str]:
        return sorted(app.topic(f"room:{room}").present())


def authenticate(request: Request) -> str | None:
    return request.query_params.get("name", "")[:32] or None


rooms = ["room:*"]
app = App("localhost", 8080, authorize=TopicRules(subscribe=rooms, publish=rooms, history=rooms, presence=rooms))
app.route("/live", Rooms(), authenticate=authenticate)
app.route_client()
app.history("room:*", size=100, seconds=300)


@app.on_presence("room:*")
def log_presence(topic: Topic, diff: PresenceDiff) -> None:
    print(f"{topic.name}: joined {sorted(diff.joined)}, left {sorted(diff.left)}")


@app.http("/", authenticate=public)
def page(request: Request) -> Response:
    return Response(PAGE, content_type="text/html; charset=utf-8")


if __name__ == "__main__":
    app.rebind(port=int(sys.argv[1]) if len(sys.argv) > 1 else None)
    app.run()
