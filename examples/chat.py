"""A chat: each message goes to all other clients. One component object serves every connection.

Run:   python chat.py [PORT], or pywsapp run chat:make_app --factory
Try:   python client.py ws://localhost:8080/chat   in two terminals; type in one, read in the other.
Test:  python -m pytest test_chat.py
"""

import sys

from pywsapp import App, Connection, MessageComponent


class Chat(MessageComponent):
    def __init__(self) -> None:
        self.clients: set[Connection] = set()

    def on_open(self, conn: Connection) -> None:
        self.clients.add(conn)

    def on_message(self, conn: Connection, message: str | bytes) -> None:
        for client in self.clients:
            if client is not conn:
                client.send(message)

    def on_close(self, conn: Connection) -> None:
        self.clients.discard(conn)


def make_app(port: int = 8080) -> App:
    app = App("localhost", port)
    app.route("/chat", Chat())
    return app


if __name__ == "__main__":
    make_app(int(sys.argv[1]) if len(sys.argv) > 1 else 8080).run()
