"""A site that receives webhooks: a real HTTP server in a thread, which answers as the test says."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from typing_extensions import Self

from support.services import free_port

KEY = b"0123456789abcdef0123456789abcdef"
SECRET = "whsec_" + base64.b64encode(KEY).decode()


@dataclass
class Received:
    """One request."""

    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)
    came_at: float = field(default_factory=time.time)

    @property
    def events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.body)["events"]
        return found

    @property
    def names(self) -> list[str]:
        """The events in short: "topic_occupied room:1"."""
        return [f"{event['type']} {event.get('topic', event.get('user'))}" for event in self.events]

    def is_signed(self, key: bytes = KEY) -> bool:
        """Return whether one of the signatures is that of a key, and the time is right."""
        signed = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + self.body
        signature = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        is_new = abs(self.came_at - int(self.headers["webhook-timestamp"])) < 20
        return is_new and signature in self.headers["webhook-signature"].split(" ")


class Receiver:
    """The site, as a context manager.

    Args:
        context: makes it https.

    Attributes:
        answers: the status and the header fields of the next answers; after them 204.
        before_answer: called before each answer.
        requests: the requests, in order.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self._context = context
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.before_answer: Callable[[], object] = bool
        self.requests: list[Received] = []
        self.port = free_port()
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        scheme = "http" if self._context is None else "https"
        return f"{scheme}://localhost:{self.port}/hooks?token=hidden"

    @property
    def names(self) -> list[str]:
        """The events of all requests that were answered with 204."""
        return [name for request in self.requests if "answered" not in request.headers for name in request.names]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                request = Received({name.lower(): value for name, value in self.headers.items()}, body)
                status, headers = receiver.answers.pop(0) if receiver.answers else (204, {})
                if status != 204:
                    request.headers["answered"] = str(status)
                receiver.requests.append(request)
                receiver.before_answer()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if status != 204:
                    self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        if self._context is not None:
            # The thread of a connection does the handshake: a client that sends nothing must not block `stop`.
            self._server.socket = self._context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._server.daemon_threads = True
        self._server.block_on_close = False
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
