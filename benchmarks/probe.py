#!/usr/bin/env python3
"""Measure how long a server does not answer: send an echo every 2 ms, and measure the time of each one.

    probe.py PORT --seconds 10

The output is one JSON object. `samples` is a list of pairs: the time of sending, and the time until the reply, in
seconds of the monotonic clock, which is the same for all processes. The program uses several connections in turn,
because a server that shuts down closes one after another. It ends after the given time, or when the server has closed
all connections. It needs the standard library only.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import select
import socket
import sys
import time

HOST = "127.0.0.1"
CONNECTIONS = 16
EVERY_SECONDS = 0.002
REPLY_SECONDS = 60.0
PAYLOAD = b"probe"
MASK = b"\x01\x02\x03\x04"
TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A
LONGEST_SMALL = 125


class Closed(Exception):
    """The server closed this connection."""


class Connection:
    """One WebSocket connection, with the minimum that an echo needs."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((HOST, port), timeout=REPLY_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET /echo HTTP/1.1\r\nHost: {HOST}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self.buffer:
            self._fill()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        if b" 101 " not in head.split(b"\r\n", 1)[0]:
            raise Closed

    def round_trip(self) -> None:
        """Send one message and wait for the echo.

        Raises:
            Closed: the server closed the connection instead.
        """
        self._send(TEXT, PAYLOAD)
        while self._frame() != TEXT:
            pass

    def answer_pings(self) -> None:
        """Answer the pings that have arrived, so that the server does not close the connection."""
        while select.select([self.socket], [], [], 0)[0]:
            self._frame()

    def _send(self, kind: int, payload: bytes) -> None:
        masked = bytes(byte ^ MASK[at & 3] for at, byte in enumerate(payload))
        try:
            self.socket.sendall(bytes((kind, 0x80 | len(payload))) + MASK + masked)
        except OSError:
            raise Closed from None

    def _frame(self) -> int:
        while len(self.buffer) < 2 or len(self.buffer) < 2 + self.buffer[1]:
            self._fill()
        kind, length = self.buffer[0], self.buffer[1]
        payload, self.buffer = self.buffer[2 : 2 + length], self.buffer[2 + length :]
        if kind == CLOSE or length > LONGEST_SMALL:
            with contextlib.suppress(Closed):
                self._send(CLOSE, payload)
            self.socket.close()
            raise Closed
        if kind == PING:
            self._send(PONG, payload)
        return kind

    def _fill(self) -> None:
        try:
            data = self.socket.recv(65536)
        except OSError:
            raise Closed from None
        if not data:
            raise Closed
        self.buffer += data


def probe(port: int, seconds: float) -> list[tuple[float, float]]:
    """Measure until the end of the time, or until the server has closed all connections."""
    connections = [Connection(port) for _ in range(CONNECTIONS)]
    print("READY", flush=True)
    samples: list[tuple[float, float]] = []
    end = time.monotonic() + seconds
    due = time.monotonic()
    while connections and due < end:
        time.sleep(max(0.0, due - time.monotonic()))
        connection = connections.pop(0)
        began = time.monotonic()
        # A close is a sample too: a server that is busy with closing other connections delays it.
        with contextlib.suppress(Closed):
            connection.answer_pings()
            connection.round_trip()
            connections.append(connection)
        samples.append((began, time.monotonic() - began))
        due = max(due + EVERY_SECONDS, time.monotonic())
    return samples


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--seconds", type=float, default=10)
    args = parser.parse_args()
    has_priority = False
    with contextlib.suppress(OSError):  # the load is on the same processor, and must not delay the probe
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        has_priority = True
    try:
        samples = probe(args.port, args.seconds)
    except (OSError, Closed) as exc:
        print(f"probe.py: cannot connect: {exc}", file=sys.stderr)
        return 2
    print(json.dumps({"has_priority": has_priority, "samples": samples}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
