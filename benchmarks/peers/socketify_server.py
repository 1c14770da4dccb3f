"""socketify, a thin layer of Python on uWebSockets."""

from __future__ import annotations

from typing import Any

from _common import HOST, MAX_MESSAGE, arguments
from socketify import App, AppListenOptions, CompressOptions

args = arguments()
options = {
    "max_payload_length": MAX_MESSAGE,
    "max_backpressure": 64 * 1024 * 1024,
    "idle_timeout": 120,
    "compression": CompressOptions.SHARED_COMPRESSOR if args.deflate else CompressOptions.DISABLED,
}


def echo(ws: Any, message: str | bytes, opcode: Any) -> None:
    ws.send(message, opcode, args.deflate)


def chat(ws: Any, message: str | bytes, opcode: Any) -> None:
    # publish() sends to the sender too, unless the sender is not subscribed
    ws.unsubscribe("chat")
    ws.publish("chat", message, opcode, args.deflate)
    ws.subscribe("chat")


app = App()
app.ws("/echo", {**options, "message": echo})
app.ws("/chat", {**options, "open": lambda ws: ws.subscribe("chat"), "message": chat})
app.listen(AppListenOptions(port=args.port, host=HOST))
app.run()
