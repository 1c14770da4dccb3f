#!/usr/bin/env python3
"""Measure what metrics and traces of OpenTelemetry cost for an echo and for a handshake.

    telemetry.py                        an App without, with metrics, with spans of handshakes, with spans of handlers
    telemetry.py --rounds 15 --loop trio

Each kind has a server of its own, which exports over OTLP to this program. A client sends messages to the servers in
turn, and makes handshakes. The program reads the processor time of all threads of the server before and after. The
output has the processor time, and the median, the lowest and the highest ratio to the App without telemetry.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import socket
import statistics
import sys
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from threading import Thread
from typing import Any

import anyio

# Started as a program, only this file's folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.handshakes import Echo, cpu_seconds, head, serve, shake_hands
from pywsapp import App
from pywsapp.telemetry.otlp import export_over_otlp

PLAIN = "none"
#: For each kind, the arguments of `export_over_otlp`, and the environment of its server.
KINDS: dict[str, tuple[dict[str, bool] | None, dict[str, str]]] = {
    PLAIN: (None, {}),
    "none again": (None, {}),
    "metrics": ({}, {"OTEL_TRACES_EXPORTER": "none"}),
    "handshake spans": ({}, {}),
    "handler spans": ({"handler_spans": True}, {}),
    "1 % of these": (
        {"handler_spans": True},
        {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"},
    ),
}
_ECHO = b"\x81\x90\0\0\0\0" + b"x" * 16
_READ_SIZE = 65536


def run_server(pipe: Pipe, kind: str, endpoint: str, loop: str) -> None:
    """Serve until killed, and send the port."""
    logging.getLogger("pywsapp").setLevel(logging.ERROR)
    arguments, environment = KINDS[kind]
    os.environ.update(environment, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    app = App("127.0.0.1", 0)
    app.route("/", Echo(), allowed_origins=["*"])
    if arguments is not None:
        export_over_otlp(app, **arguments)
    uses_asyncio = loop != "trio"
    anyio.run(
        partial(serve, app, pipe.send),
        backend="asyncio" if uses_asyncio else "trio",
        backend_options={"use_uvloop": loop == "uvloop"} if uses_asyncio else {},
    )


class Server:
    """The server of one kind, in a process of its own."""

    def __init__(self, kind: str, endpoint: str, loop: str) -> None:
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        self._process = multiprocessing.get_context("spawn").Process(
            target=run_server, args=(theirs, kind, endpoint, loop), daemon=True
        )
        self._process.start()
        theirs.close()
        self.port: int = ours.recv()
        self._head = head("/", self.port, "")

    def echo_seconds(self, count: int) -> float:
        """Return the processor time of an echo, in seconds."""
        with socket.create_connection(("127.0.0.1", self.port)) as sock:
            sock.sendall(self._head)
            sock.recv(_READ_SIZE)
            before = self._cpu_seconds()
            for _ in range(count):
                sock.sendall(_ECHO)
                sock.recv(_READ_SIZE)
            return (self._cpu_seconds() - before) / count

    def handshake_seconds(self, count: int) -> float:
        """Return the processor time of a handshake, in seconds."""
        before = self._cpu_seconds()
        for _ in range(count):
            shake_hands(self.port, self._head)
        return (self._cpu_seconds() - before) / count

    def _cpu_seconds(self) -> float:
        return cpu_seconds(self._process.pid or 0)

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


class _Receiver(BaseHTTPRequestHandler):
    """Takes what the servers export."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def show(what: str, times: dict[str, list[float]]) -> None:
    """Print a table."""
    print(f"{what:16} {'time':>8}   ratio to {PLAIN}")
    for kind, spent in times.items():
        ratios = [one / plain for one, plain in zip(spent, times[PLAIN], strict=True)]
        time = f"{1e6 * statistics.median(spent):5.1f} µs"
        print(f"{kind:16} {time}   {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def main() -> None:
    """Measure, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loop", choices=["uvloop", "asyncio", "trio"], default="uvloop")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--messages", type=int, default=3000, help="of each kind in each round (default: 3000)")
    parser.add_argument("--handshakes", type=int, default=200, help="of each kind in each round (default: 200)")
    args = parser.parse_args()
    receiver = ThreadingHTTPServer(("127.0.0.1", 0), _Receiver)
    receiver.daemon_threads = True
    Thread(target=receiver.serve_forever, daemon=True).start()
    servers: dict[str, Server] = {}
    echoes: dict[str, list[float]] = {kind: [] for kind in KINDS}
    handshakes: dict[str, list[float]] = {kind: [] for kind in KINDS}
    try:
        for kind in KINDS:
            servers[kind] = Server(kind, f"http://127.0.0.1:{receiver.server_port}", args.loop)
        for number in range(args.rounds + 1):  # the first round fills caches
            for kind, server in servers.items():
                echo, handshake = server.echo_seconds(args.messages), server.handshake_seconds(args.handshakes)
                if number:
                    echoes[kind].append(echo)
                    handshakes[kind].append(handshake)
    finally:
        for server in servers.values():
            server.stop()
    show("echo", echoes)
    show("handshake", handshakes)


if __name__ == "__main__":
    main()
