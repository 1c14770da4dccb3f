"""Check an installed pywsapp: print its build, and echo messages in memory.

smoke.py "compiled build"    fails if it is another build
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from pywsapp import Connection, EchoServer, Options, Request
from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp._outbox.outbox import Flusher
from pywsapp._protocol.events import Received
from pywsapp._protocol.websocket import WebSocket
from pywsapp._transports.memory import memory_pipe

MESSAGES: list[str | bytes] = ["", "héllo", b"\x00\xff", "x" * 500, b"y" * 70_000]


class Client:
    """The client: sends messages and keeps the answers."""

    def __init__(self) -> None:
        self.ws = WebSocket(client=True, options=Options())
        self.received: list[Received] = []

    def connection_made(self, transport: object) -> None: ...
    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...

    def data_received(self, data: bytes) -> None:
        self.received += self.ws.receive(data)


class Host(Flusher):
    """Stands for a server."""

    def __init__(self) -> None:
        super().__init__()
        self.flusher: Flusher = self

    def schedule(self) -> None: ...
    def start_soon(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None: ...
    def disconnected(self, connection: Any) -> None: ...
    def discard(self, connection: Any) -> None: ...
    def exceeded(self, limit: str, conn: Connection) -> None: ...
    def user_changed(self, conn: Connection) -> None: ...


def echoed() -> list[Received]:
    """Send the messages through an EchoServer; return the answers."""
    options, host, client = Options(), Host(), Client()
    ws = WebSocket(client=False, options=options)
    server_end: list[Lifecycle] = []

    class ServerEnd(Client):
        def data_received(self, data: bytes) -> None:
            server_end[0].data_received(data)

    transport, client_transport = memory_pipe(ServerEnd(), client)
    server_end.append(Lifecycle(EchoServer(), Request(path="/"), ws, transport, options, host))
    server_end[0].open(b"")
    for message in MESSAGES:
        client_transport.write(client.ws.encode(message))
    for _ in range(3):
        transport.pump()
        for outbox in host.filled:
            outbox.flush()
        host.filled = []
    return client.received


def main() -> int:
    expected = sys.argv[1] if len(sys.argv) > 1 else ""
    version = subprocess.run([sys.executable, "-m", "pywsapp", "--version"], check=True, capture_output=True, text=True)
    print(version.stdout, end="")
    if expected not in version.stdout:
        sys.exit(f"smoke.py: this is not the {expected}")
    if echoed() != MESSAGES:
        sys.exit("smoke.py: the answers differ from the messages")
    print(f"{len(MESSAGES)} messages were echoed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
