"""The smallest server: it sends back what it gets, text as text and bytes as bytes.

Run:  python echo.py [PORT]
See:  python client.py ws://localhost:8080/echo hello
"""

import sys

from pywsapp import App, Connection, MessageComponent


class Echo(MessageComponent):
    def on_message(self, conn: Connection, message: str | bytes) -> None:
        conn.send(message)


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
    app = App("localhost", port)
    app.route("/echo", Echo())
    app.run()
