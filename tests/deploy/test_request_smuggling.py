"""Requests that a balancer and the app could understand differently: the app gets none that the balancer did not route.

Every vector hides a request for a path that the balancer forbids, by the rules of the documentation.
"""

from __future__ import annotations

import re
import select
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from support.balancers import HOST, BalancedServers
from support.program import BACKENDS, Program
from support.serving import GUARD
from support.smuggling import DOT_TARGETS, FORBIDDEN, VECTORS

HOWTO = Path(__file__).parents[2] / "docs" / "howto" / "deploy-behind-a-load-balancer.md"
SOURCE = """
from pywsapp import App, MessageComponent

class Chat(MessageComponent):
    def on_handshake(self, request):
        print("handshake", ascii(request.path), flush=True)

    def on_message(self, conn, message):
        print("message", flush=True)

async def answer(request):
    print("request", ascii(request.path), flush=True)
    await request.read(10_000)
    return "seen " + ascii(request.path)

app = App("{host}", {port}, trusted_proxies={trusted})
app.health("/health")
app.route("/chat", Chat())
app.http("/open", answer, methods=["GET", "POST"])
app.http("/last", answer)
for path in ("/admin", "/admin/{{rest:path}}"):
    app.http(path, answer, methods=["GET", "POST"])
    app.route(path, Chat())
app.run({run})
"""
#: Seconds after the first byte of the last response in which a hidden request would be answered.
_QUIET = 0.3


def rule(program: str) -> str:
    """Return the documented rule that forbids the path."""
    found = re.search(rf"^In `\w+[^`]*` of {program}.*?\n```\n(.*?)\n```", HOWTO.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module", params=["haproxy", "nginx"])
def balanced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BalancedServers]:
    before = {"haproxy": "    default_backend chat", "nginx": "        location / {"}[request.param]
    program = {"haproxy": "HAProxy", "nginx": "nginx"}[request.param]
    directory = tmp_path_factory.mktemp(request.param)
    with closing(BalancedServers(request.param, directory, "memory://", SOURCE, {before: rule(program)})) as servers:
        servers.start(a="uvloop", b="asyncio")
        servers.start_balancer()
        yield servers


def send_all(port: int, tls: ssl.SSLContext | None = None) -> dict[str, bytes]:
    """Send each vector on a connection of its own; return what came back until all is quiet."""
    answers = dict.fromkeys(VECTORS, b"")
    with ExitStack() as stack:
        waiting: dict[socket.socket, str] = {}
        for name, data in VECTORS.items():
            sock: socket.socket = stack.enter_context(socket.create_connection(("127.0.0.1", port), GUARD))
            if tls is not None:
                sock = stack.enter_context(tls.wrap_socket(sock, server_hostname=HOST))
            sock.sendall(data)
            if tls is None:
                sock.shutdown(socket.SHUT_WR)
            sock.setblocking(False)
            waiting[sock] = name
        unanswered = set(VECTORS)
        deadline = time.monotonic() + GUARD
        while waiting and time.monotonic() < deadline:
            for sock in select.select(list(waiting), [], [], _QUIET)[0]:
                with suppress(ssl.SSLWantReadError):
                    data = b""
                    with suppress(ConnectionError, ssl.SSLEOFError):
                        data = sock.recv(65536)
                    unanswered.discard(waiting[sock])
                    answers[waiting[sock]] += data
                    if not data:
                        del waiting[sock]
            if not unanswered:
                deadline = min(deadline, time.monotonic() + _QUIET)
    return answers


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", answer)]


def last_request(port: int, tls: ssl.SSLContext | None = None) -> None:
    """Send a request whose line in the output of a server comes after those of all others."""
    with ExitStack() as stack:
        sock: socket.socket = stack.enter_context(socket.create_connection(("127.0.0.1", port), GUARD))
        if tls is not None:
            sock = stack.enter_context(tls.wrap_socket(sock, server_hostname=HOST))
        sock.sendall(f"GET /last HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        assert sock.recv(100).startswith(b"HTTP/1.1 200 ")


def seen(*servers: Program) -> list[str]:
    """Return what the handlers have printed; the log is not a part of it."""
    output = "".join(server.output for server in servers)
    return re.findall("^(?:request|handshake|message)\\b.*", output, re.MULTILINE)


def test_no_hidden_request_passes_a_balancer(balanced: BalancedServers) -> None:
    answers = send_all(balanced.port, balanced.tls)
    servers = balanced.servers.values()
    for _ in servers:
        last_request(balanced.port, balanced.tls)
    for server in servers:
        server.until("request '/last'")
    paths = set(seen(*servers))
    assert paths == {"request '/last'", "request '/open'", "handshake '/chat'"}, "only what the balancer routes"
    for name, answer in answers.items():
        assert b"seen '/admin" not in answer, name
    assert statuses(answers["path /admin/secret"]) == statuses(answers["path /%61dmin/secret"]) == [403]
    assert statuses(answers["upgrade right"]) == [101]
    for name in ("upgrade wrong version", "upgrade no key", "upgrade another origin", "upgrade h2c"):
        assert 101 not in statuses(answers[name]), name


def test_a_connection_to_the_app_has_one_request() -> None:
    source = SOURCE.format(host=HOST, port=0, trusted=[], run=BACKENDS["uvloop"])
    with Program(source) as server:
        answers = send_all(server.port)
        last_request(server.port)
        server.until("request '/last'")
        forbidden = [line for line in seen(server) if FORBIDDEN in line]
    assert [name for name, answer in answers.items() if len(statuses(answer)) > 1] == []
    allowed = [name for name, answer in answers.items() if b"seen '/admin" in answer]
    assert [name for name in allowed if not name.startswith("path ")] == []
    assert len(forbidden) == len(allowed), "no other request has reached the handler"
    for target in DOT_TARGETS:
        assert statuses(answers[f"path {target.decode()}"]) == [400], target
