#!/usr/bin/env python3
"""Measure deliveries of a topic to clients of `pywsapp.topics.v1` beside other subscribers and servers, in one run.

    topic_protocol.py
    topic_protocol.py --subscribers 500 --rounds 7
    topic_protocol.py --socketio aiohttp,uvicorn --centrifuge build/topic_centrifuge

A server process on uvloop broadcasts to subscribers that this process reads from. The groups of subscribers take turns:
plain ones, clients of the protocol in JSON and in MessagePack, one half of each, and event streams. Other servers have
a process each, and their subscribers do the handshake of their protocol: a room of python-socketio on one of its hosts,
and a channel of centrifuge, the library of Centrifugo (`peers/topic_centrifuge.go` says how to build the server). All
messages are the same JSON object.

A delivery is one message that one subscriber has received. This process limits the deliveries per second, so
the table has the processor time that the server needs for a delivery too. Its last line compares that with the time for
a client of the protocol in JSON: the median of the ratios of the rounds. The program needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

# Started as a program, only this file's folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import anyio
import msgspec

from benchmarks.environment import cluster_peers
from pywsapp import App, Connection, MessageComponent, Options, TopicComponent
from pywsapp._protocol.frames import encode_masked_frame
from pywsapp._protocol.opcodes import BINARY, FIN, TEXT

JSON, MSGPACK = "pywsapp.topics.v1", "pywsapp.topics.v1.msgpack"
EVENTS, SOCKETIO, CENTRIFUGE = "events", "socketio", "centrifuge"
#: The subscribers of each group of our own server: their subprotocols, None for plain ones.
KINDS: dict[str, list[str | None]] = {
    "plain": [None],
    "json": [JSON],
    "msgpack": [MSGPACK],
    "mixed": [None, JSON],
    EVENTS: [EVENTS],
}
#: Messages that are broadcast before all subscribers must have them.
WINDOW = 16
#: What each message has once, in each form.
KEY = b"text"
#: Seconds without a byte after which something is wrong.
STUCK_SECONDS = 10


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
    app.events("/events", topic=EVENTS, keepalive=3600)

    async def run() -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
            print(app.urls[0].rsplit(":", 1)[1].strip("/"), flush=True)

    anyio.run(run, backend_options={"use_uvloop": True})


# -- the subscribers ---------------------------------------------------------------------------------------------------


class Server(NamedTuple):
    """A server process.

    Args:
        process: the process.
        port: its port.
    """

    process: subprocess.Popen[str]
    port: int


def frame(payload: bytes, opcode: int = TEXT) -> bytes:
    return bytes(encode_masked_frame(FIN | opcode, payload))


def open_socket(port: int, path: str, subprotocol: str | None = None, *, is_websocket: bool = True) -> socket.socket:
    """Return a socket behind the head of its response."""
    sock = socket.create_connection(("127.0.0.1", port))
    lines = [f"GET {path} HTTP/1.1", "Host: localhost"]
    if is_websocket:
        lines += ["Upgrade: websocket", "Connection: Upgrade"]
        lines += ["Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==", "Sec-WebSocket-Version: 13"]
        lines += [] if subprotocol is None else [f"Sec-WebSocket-Protocol: {subprotocol}"]
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    head = receive_head(sock)
    if (b" 101 " if is_websocket else b" 200 ") not in head:
        raise SystemExit(head.decode())
    return sock


def receive_head(sock: socket.socket) -> bytes:
    """Return the head of a response."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += receive(sock, 1)
    return head


def receive(sock: socket.socket, size: int) -> bytes:
    """Return so many bytes of a socket."""
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise SystemExit("a server has closed a connection")
        data += part
    return data


def receive_message(sock: socket.socket) -> bytes:
    """Return the next message, which is short."""
    head = receive(sock, 2)
    return receive(sock, head[1] if head[1] < 126 else int.from_bytes(receive(sock, 2), "big"))


def subscribe(sock: socket.socket, topic: str, subprotocol: str) -> None:
    """Subscribe a client of the protocol, and read its replies."""
    for number, request in enumerate(({"type": "connect"}, {"type": "subscribe", "topic": topic}), 1):
        value = {"id": number, **request}
        is_text = subprotocol == JSON
        payload = json.dumps(value).encode() if is_text else msgspec.msgpack.encode(value)
        sock.sendall(frame(payload, TEXT if is_text else BINARY))
        receive_message(sock)


def open_subscriber(kind: str | None, topic: str, port: int) -> socket.socket:
    """Return the socket of a subscriber."""
    if kind is None:
        return open_socket(port, f"/plain?{topic}")
    if kind == EVENTS:
        return open_socket(port, "/events", is_websocket=False)
    if kind == SOCKETIO:
        sock = open_socketio(port)
        sock.sendall(frame(b'42["join","room"]'))
        assert receive_message(sock) == b'42["joined"]'
        return sock
    if kind == CENTRIFUGE:
        sock = open_socket(port, "/connection/websocket")
        for request in (b'{"id":1}', b'{"id":2,"method":1,"params":{"channel":"room"}}'):
            sock.sendall(frame(request))
            assert b"error" not in receive_message(sock)
        return sock
    sock = open_socket(port, "/live", kind)
    subscribe(sock, topic, kind)
    return sock


def open_socketio(port: int) -> socket.socket:
    """Return a socket behind the handshakes of Engine.IO and Socket.IO."""
    sock = open_socket(port, "/socket.io/?EIO=4&transport=websocket")
    assert receive_message(sock).startswith(b"0{")
    sock.sendall(frame(b"40"))
    assert receive_message(sock).startswith(b"40{")
    return sock


def open_control(kind: str, topic: str, port: int) -> Callable[[int, int], None]:
    """Return what has a server broadcast messages: it takes their number and their size."""
    if kind == CENTRIFUGE:
        sock = socket.create_connection(("127.0.0.1", port))

        def publish(count: int, size: int) -> None:
            sock.sendall(f"GET /publish?channel=room&count={count}&size={size} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert b" 204 " in receive_head(sock)

        return publish
    if kind == SOCKETIO:
        sock = open_socketio(port)
        return lambda count, size: sock.sendall(frame(b'42["publish","room",%d,%d]' % (count, size)))
    sock = open_socket(port, "/control")
    return lambda count, size: sock.sendall(frame(f"{topic} {count} {size}".encode()))


class Subscriber:
    """One socket that counts the messages which it has received, however they are framed.

    Args:
        sock: the socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._last = b""
        sock.setblocking(False)

    def fileno(self) -> int:
        """Return the file descriptor, for a selector."""
        return self._sock.fileno()

    def read(self) -> int:
        """Return how many messages have come: the number of their keys."""
        received = self._sock.recv(1 << 20)
        if not received:
            raise SystemExit("a server has closed a connection")
        data = self._last + received
        self._last = data[1 - len(KEY) :]
        return data.count(KEY)


class Group:
    """Subscribers of one topic.

    Args:
        name: its name for the table, and of its topic.
        kinds: how its subscribers get messages; they take turns.
        count: how many there are.
        server: their server.
    """

    def __init__(self, name: str, kinds: list[str | None], count: int, server: Server) -> None:
        self.name = name
        self._server = server
        self._count = count
        self._selector = selectors.DefaultSelector()
        self._broadcast = open_control(kinds[0] or name, name, server.port)
        for number in range(count):
            sock = open_subscriber(kinds[number % len(kinds)], name, server.port)
            self._selector.register(Subscriber(sock), selectors.EVENT_READ)

    def broadcast(self, count: int, size: int) -> None:
        """Have the server broadcast messages, and read until each subscriber has them."""
        self._broadcast(count, size)
        missing = {key.fileobj: count for key in self._selector.get_map().values()}
        left = len(missing)
        while left:
            ready = self._selector.select(STUCK_SECONDS)
            if not ready:
                raise SystemExit(f"{left} subscribers of {self.name} miss messages")
            for key, _ in ready:
                subscriber: Any = key.fileobj
                if number := subscriber.read():
                    missing[subscriber] -= number
                    left -= missing[subscriber] == 0

    def run(self, seconds: float, size: int) -> tuple[float, float]:
        """Return deliveries per second, and the microseconds of processor time of the server for one of them."""
        received, pid = 0, self._server.process.pid
        begin, used = time.perf_counter(), processor_seconds(pid)
        while time.perf_counter() - begin < seconds:
            self.broadcast(WINDOW, size)
            received += WINDOW * self._count
        used = processor_seconds(pid) - used
        return received / (time.perf_counter() - begin), used * 1_000_000 / received


def processor_seconds(pid: int) -> float:
    """Return the processor time that the threads of a process have used; /proc/PID/stat counts in 10 ms only."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text(encoding="ascii").split()[0]) for thread in threads) / 1e9


# -- the run -----------------------------------------------------------------------------------------------------------


def start(command: list[str]) -> Server:
    """Start a server that prints its port."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{' '.join(command)} does not start")
    return Server(process, int(line))


def make_groups(options: argparse.Namespace, servers: list[Server]) -> list[Group]:
    """Start the servers, and open the subscribers."""
    servers.append(start([sys.executable, __file__, "serve"]))
    groups = [Group(name, kinds, options.subscribers, servers[0]) for name, kinds in KINDS.items()]
    for host in filter(None, options.socketio.split(",")):
        script = Path(__file__).resolve().parent / "peers" / "topic_socketio.py"
        servers.append(start([str(cluster_peers(options.python)), str(script), "--port", "0", "--host", host]))
        groups.append(Group(f"socketio, {host}", [SOCKETIO], options.subscribers, servers[-1]))
    if options.centrifuge is not None:
        servers.append(start([options.centrifuge]))
        groups.append(Group(CENTRIFUGE, [CENTRIFUGE], options.subscribers, servers[-1]))
    return groups


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subscribers", type=int, default=500)
    parser.add_argument("--size", type=int, default=64, help="characters of a text in a message (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement (default: %(default)s)")
    parser.add_argument("--socketio", default="aiohttp", help="its hosts, aiohttp or uvicorn; empty for none")
    parser.add_argument("--centrifuge", help="a server that was built from peers/topic_centrifuge.go")
    parser.add_argument("--python", default=sys.executable, help="the Python of python-socketio")
    options = parser.parse_args()
    servers: list[Server] = []
    found: dict[str, list[tuple[float, float]]] = {}
    try:
        groups = make_groups(options, servers)
        for group in groups:
            group.broadcast(1, options.size)
        for _ in range(options.rounds):
            for group in groups:
                found.setdefault(group.name, []).append(group.run(options.seconds, options.size))
    finally:
        for server in servers:
            server.process.kill()
            server.process.wait()
    reference = [used for _, used in found["json"]]
    ratios = {name: [used / of for (_, used), of in zip(one, reference, strict=True)] for name, one in found.items()}
    print(f"| {options.subscribers} subscribers | {' | '.join(found)} |\n|---|{'--:|' * len(found)}")
    print("| deliveries/s |", " | ".join(f"{median(rate for rate, _ in one):,.0f}" for one in found.values()), "|")
    print("| µs of the server |", " | ".join(f"{median(used for _, used in one):.2f}" for one in found.values()), "|")
    print("| beside JSON |", " | ".join(f"{median(one):.2f}" for one in ratios.values()), "|")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        sys.exit(main())
