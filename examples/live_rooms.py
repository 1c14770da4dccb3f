"""Clients that subscribe, publish and call by the protocol pywsapp.topics.v1, in a page without a library.

Run:   python live_rooms.py [PORT]
Try:   http://localhost:8080/?name=Ana and http://localhost:8080/?name=Ben in two windows: write, reload one, close one.
"""

import sys
from typing import Any

from pywsapp import App, CallError, Connection, PresenceDiff, Response, Topic, TopicComponent, TopicRules, rpc
from pywsapp.http import Request

PAGE = """<!doctype html>
<meta charset="utf-8">
<title>Live rooms</title>
<p id="here"></p>
<pre id="log"></pre>
<form><input id="text" autofocus autocomplete="off"></form>
<script>
const name = new URLSearchParams(location.search).get("name") || "guest";
const [log, here, text] = ["log", "here", "text"].map(id => document.getElementById(id));
const topic = "room:1", present = new Set();
let ws, id = 0, position = null;

function send(message) { ws.send(JSON.stringify({id: ++id, ...message})); return id; }

function open() {
  ws = new WebSocket(`ws://${location.host}/live?name=${encodeURIComponent(name)}`, ["pywsapp.topics.v1"]);
  let subscribing;
  ws.onopen = () => {
    send({type: "connect"});
    subscribing = send({type: "subscribe", topic, since: position, presence: true, track: {}});
  };
  ws.onclose = () => setTimeout(open, 500 + 2000 * Math.random());
  ws.onmessage = event => {
    const message = JSON.parse(event.data);
    position = message.position || position;
    if (message.type == "message") log.textContent += `${message.data.from}: ${message.data.text}\\n`;
    if (message.type == "lost") log.textContent += "(messages are missing)\\n";
    if (message.type == "error") log.textContent += `(${message.code}: ${message.message})\\n`;
    if (message.id == subscribing && message.present) {
      present.clear();
      Object.keys(message.present).forEach(key => present.add(key));
    }
    if (message.type == "presence") {
      Object.keys(message.joined).forEach(key => present.add(key));
      message.left.forEach(key => present.delete(key));
    }
    here.textContent = "Here: " + [...present].join(", ");
  };
}

document.forms[0].onsubmit = event => {
  event.preventDefault();
  send({type: "publish", topic, data: text.value, key: crypto.randomUUID().slice(0, 32)});
  text.value = "";
};
open();
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
port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
app = App("localhost", port, authorize=TopicRules(subscribe=rooms, publish=rooms, history=rooms, presence=rooms))
app.route("/live", Rooms(), authenticate=authenticate)
app.history("room:*", size=100, seconds=300)


@app.on_presence("room:*")
def log_presence(topic: Topic, diff: PresenceDiff) -> None:
    print(f"{topic.name}: joined {sorted(diff.joined)}, left {sorted(diff.left)}")


@app.http("/")
def page(request: Request) -> Response:
    return Response(PAGE, content_type="text/html; charset=utf-8")


if __name__ == "__main__":
    app.run()
