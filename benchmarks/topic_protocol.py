#!/usr/bin/env python3
"""Measure deliveries of a topic to clients of `pywsapp.topics.v1` beside plain subscribers, in one run.

    topic_protocol.py
    topic_protocol.py --subscribers 500 --rounds 7

One server process on uvloop, if it is installed, broadcasts to subscribers that this process reads from. The groups of
subscribers take turns: plain ones, clients of the protocol in JSON and in MessagePack, and one half of each. A delivery
is one message that one subscriber has received as a whole. This process limits the deliveries per second, so the table
has the processor time that the server needs for a delivery too. Its last line compares that with the time for a plain
subscriber: the median of the ratios of the rounds. The program needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

# Started as a program, only this file's folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import anyio
import msgspec

from pywsapp import App, Connection, MessageComponent, Options, TopicComponent
from pywsapp._protocol.frames import encode_masked_frame
from pywsapp._protocol.opcodes import BINARY, FIN, TEXT

JSON, MSGPACK = "pywsapp.topics.v1", "pywsapp.topics.v1.msgpack"
#: The subscribers of each group: their subprotocols, None for plain ones.
KINDS: dict[str, list[str | None]] = {"plain": [None], "json": [JSON], "msgpack": [MSGPACK], "mixed": [None, JSON]}
#: Messages that are broadcast before all subscribers must have them.
WINDOW = 16
#: Seconds without a byte after which a message has come as a whole, and after which something is wrong.
QUIET_SECONDS, STUCK_SECONDS = 0.5, 10


# -- the server --------------------------------------------------------------------------------------------------------


class Plain(MessageComponent):
    """Subscribes each connection to the topic of its path."""

    async def on_open(self, conn: Connection) -> None:
        await conn.subscribe(conn.request.query_string)


class Live(TopicComponent):
    def authorize(self, conn: Connection, action: str, topic: str) -> bool:
        return True


class Control(MessageComponent):
    """Broadcasts as many messages as it is told: `TOPIC COUNT SIZE`."""

    def on_message(self, conn: Connection, message: Any) -> None:
        name, count, size = message.split()
        topic = conn.app.topic(name) if conn.app is not None else None
        assert topic is not None
        value = {"text": "x" * int(size)}
        for _ in range(int(count)):
            topic.broadcast(value)


def serve() -> None:
    """Run the server, and print its port."""
    app = App("localhost", 0, options=Options(max_outbox=64 * 1024 * 1024, ping_interval=None))
    app.route("/plain", Plain())
    app.route("/live", Live())
    app.route("/control", Control())

    async def run() -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
            print(app.urls[0].rsplit(":", 1)[1].strip("/"), flush=True)

    try:
        anyio.run(run, backend_options={"use_uvloop": True})
    except KeyboardInterrupt:
        return


# -- the subscribers ---------------------------------------------------------------------------------------------------


def frame(payload: bytes, opcode: int = TEXT) -> bytes:
    return bytes(encode_masked_frame(FIN | opcode, payload))


def open_socket(port: int, path: str, subprotocol: str | None = None) -> socket.socket:
    """Return a socket behind its handshake."""
    sock = socket.create_connection(("127.0.0.1", port))
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==", "Sec-WebSocket-Version: 13"]
    lines += [] if subprotocol is None else [f"Sec-WebSocket-Protocol: {subprotocol}"]
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    if b" 101 " not in head:
        raise SystemExit(head.decode())
    return sock


def subscribe(sock: socket.socket, topic: str, subprotocol: str) -> None:
    """Subscribe a client of the protocol, and read its replies."""
    for number, request in enumerate(({"type": "connect"}, {"type": "subscribe", "topic": topic}), 1):
        value = {"id": number, **request}
        is_text = subprotocol == JSON
        payload = json.dumps(value).encode() if is_text else msgspec.msgpack.encode(value)
        sock.sendall(frame(payload, TEXT if is_text else BINARY))
        head = receive(sock, 2)
        size = head[1] if head[1] < 126 else int.from_bytes(receive(sock, 2), "big")
        receive(sock, size)


def receive(sock: socket.socket, size: int) -> bytes:
    """Return so many bytes of a socket."""
    data = b""
    while len(data) < size:
        data += sock.recv(size - len(data))
    return data


class Group:
    """Subscribers of one topic.

    Args:
        name: its name for the table, and of its topic.
        kinds: the subprotocols of its subscribers, None for plain ones; they take turns.
        count: how many there are.
        port: the port of the server.
    """

    def __init__(self, name: str, kinds: list[str | None], count: int, port: int) -> None:
        self.name = name
        self.sockets: list[socket.socket] = []
        self._selector = selectors.DefaultSelector()
        self._control = open_socket(port, "/control")
        for number in range(count):
            kind = kinds[number % len(kinds)]
            sock = open_socket(port, f"/plain?{name}" if kind is None else "/live", kind)
            if kind is not None:
                subscribe(sock, name, kind)
            self.sockets.append(sock)
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ)
        self._size: dict[socket.socket, int] = dict.fromkeys(self.sockets, 0)

    def measure_sizes(self, size: int) -> None:
        """Find out how many bytes each subscriber gets of a message."""
        self._tell(1, size)
        while ready := self._selector.select(QUIET_SECONDS if all(self._size.values()) else None):
            for key, _ in ready:
                sock: Any = key.fileobj
                self._size[sock] += len(sock.recv(1 << 20))

    def _tell(self, count: int, size: int) -> None:
        self._control.sendall(frame(f"{self.name} {count} {size}".encode()))

    def run(self, seconds: float, size: int, server: int) -> tuple[float, float]:
        """Return deliveries per second, and the microseconds of processor time of the server for one of them."""
        received = 0
        begin, used = time.perf_counter(), processor_seconds(server)
        while time.perf_counter() - begin < seconds:
            self._tell(WINDOW, size)
            missing = {sock: WINDOW * self._size[sock] for sock in self.sockets}
            left = len(missing)
            while left:
                ready = self._selector.select(STUCK_SECONDS)
                if not ready:
                    raise SystemExit(f"{left} subscribers of {self.name} miss messages")
                for key, _ in ready:
                    sock: Any = key.fileobj
                    missing[sock] -= len(sock.recv(1 << 20))
                    left -= missing[sock] == 0
            received += WINDOW * len(self.sockets)
        used = processor_seconds(server) - used
        return received / (time.perf_counter() - begin), used * 1_000_000 / received


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subscribers", type=int, default=500)
    parser.add_argument("--size", type=int, default=64, help="characters of a text in a message (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement (default: %(default)s)")
    options = parser.parse_args()
    server = subprocess.Popen([sys.executable, __file__, "serve"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        groups = [Group(name, kinds, options.subscribers, port) for name, kinds in KINDS.items()]
        found: dict[str, list[tuple[float, float]]] = {group.name: [] for group in groups}
        for group in groups:
            group.measure_sizes(options.size)
        for _ in range(options.rounds):
            for group in groups:
                found[group.name].append(group.run(options.seconds, options.size, server.pid))
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
    plain = [used for _, used in found["plain"]]
    ratios = {name: [used / of for (_, used), of in zip(one, plain, strict=True)] for name, one in found.items()}
    print(f"| {options.subscribers} subscribers | {' | '.join(found)} |\n|---|{'--:|' * len(found)}")
    print("| deliveries/s |", " | ".join(f"{median(rate for rate, _ in one):,.0f}" for one in found.values()), "|")
    print("| µs of the server |", " | ".join(f"{median(used for _, used in one):.2f}" for one in found.values()), "|")
    print("| beside plain |", " | ".join(f"{median(one):.2f}" for one in ratios.values()), "|")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        sys.exit(main())
