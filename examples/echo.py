"""The smallest server: it sends every message back, text as text and binary as binary.

Run:   python echo.py [PORT]
Try:   python client.py ws://localhost:8080/echo hello
"""

import sys

from pywsapp import App, Connection, MessageComponent


class Echo(MessageComponent):
    def on_message(self, conn: Connection, message: str | bytes) -> None:
        conn.send(message)


app = App("localhost", 8080)
app.route("/echo", Echo())

if __name__ == "__main__":
    app.rebind(port=int(sys.argv[1]) if len(sys.argv) > 1 else None)
    app.run()
