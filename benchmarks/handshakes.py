#!/usr/bin/env python3
"""Measure what each kind of authentication and session costs in a handshake.

    handshakes.py                                    every kind that needs no service
    handshakes.py def jwt-es256 --rounds 9           two of them
    handshakes.py --redis redis://localhost:6379     tickets and sessions in Redis too

One server has a route for each kind. A client makes handshakes on each of them in turn, and the program reads the
processor time of the server before and after. The output has the processor time of a handshake, and the median, the
lowest and the highest ratio to a handshake of the same round on a route without authentication and sessions.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from http.client import HTTPConnection
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import anyio
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey

# Started as a program, only this file's folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pywsapp import App, Connection, MessageComponent, Request
from pywsapp.auth import ApiKeyAuthenticator, SignedUrls, TicketAuthenticator, TicketIssuer
from pywsapp.auth.jwt import ANY_AUDIENCE, Jwks, JwtAuthenticator, SharedSecret
from pywsapp.sessions.signed_cookie import SignedCookieStore

PLAIN = "none"
KEY = "0123456789abcdef0123456789abcdef"
ISSUER = "https://issuer.example"
_READ_SIZE = 65536
_CLOSE_FRAME = b"\x88\x82\0\0\0\0\x03\xe8"


def find_user(request: Request) -> str:
    """Return the user of a request."""
    return "ana"


async def find_user_later(request: Request) -> str:
    """Return the user of a request, in an async def that waits for nothing."""
    return "ana"


# -- the server --------------------------------------------------------------------------------------------------------


class Echo(MessageComponent):
    """Sends each message back."""

    def on_message(self, conn: Connection, message: str | bytes) -> None:
        """Send the message back."""
        conn.send(message)


def routes(folder: Path, redis: str | None) -> dict[str, dict[str, Any]]:
    """Return the arguments of `App.route` for each kind."""
    found: dict[str, dict[str, Any]] = {
        PLAIN: {},
        "def": {"authenticate": find_user},
        "async-def": {"authenticate": find_user_later},
        "api-key": {"authenticate": ApiKeyAuthenticator({"ana": KEY})},
        "signed-url": {"authenticate": SignedUrls(KEY)},
        "jwt-hs256": {"authenticate": JwtAuthenticator({ISSUER: SharedSecret(KEY)}, audience=ANY_AUDIENCE)},
        "jwt-es256": {
            "authenticate": JwtAuthenticator({ISSUER: Jwks.from_file(folder / "jwks.json")}, audience=ANY_AUDIENCE)
        },
        "ticket": {"authenticate": TicketAuthenticator(TicketIssuer())},
        "session-memory": {"sessions": "memory"},
        "session-cookie": {"sessions": SignedCookieStore(KEY)},
    }
    if redis is not None:
        found["ticket-redis"] = {"authenticate": TicketAuthenticator(TicketIssuer(redis))}
        found["session-redis"] = {"sessions": redis}
    return found


def make_app(found: dict[str, dict[str, Any]]) -> App:
    """Return an App with a route for each kind, and with what makes tickets and sessions."""
    app = App("127.0.0.1", 0)
    for kind, options in found.items():
        app.route(f"/{kind}", Echo(), allowed_origins=["*"], **options)
        authenticate = options.get("authenticate")
        if isinstance(authenticate, TicketAuthenticator):
            app.http(f"/new/{kind}", partial(issue, authenticate._issuer))
        if "sessions" in options:
            app.http(f"/new/{kind}", log_in, sessions=options["sessions"])
    return app


async def issue(issuer: TicketIssuer, request: Request) -> list[str]:
    """Return as many tickets as the request asks for."""
    return [await issuer.issue("ana", origin=None) for _ in range(int(request.query_params["count"]))]


def log_in(request: Request) -> str:
    """Begin a session."""
    request.session["user"] = "ana"
    return "ok"


async def serve(app: App, report: Callable[[int], None]) -> None:
    """Run the App until cancelled, and report its port."""
    async with anyio.create_task_group() as tasks:
        await tasks.start(app.serve)
        report(app.port)


def run_server(pipe: Pipe, folder: Path, redis: str | None, loop: str) -> None:
    """Serve until killed, and send the port."""
    logging.getLogger("pywsapp").setLevel(logging.ERROR)  # a warning lists the routes without authentication
    uses_asyncio = loop != "trio"
    anyio.run(
        partial(serve, make_app(routes(folder, redis)), pipe.send),
        backend="asyncio" if uses_asyncio else "trio",
        backend_options={"use_uvloop": loop == "uvloop"} if uses_asyncio else {},
    )


def cpu_seconds(pid: int) -> float:
    """Return the processor time of all threads of a process, which /proc has in nanoseconds."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


# -- the client --------------------------------------------------------------------------------------------------------


def heads(kind: str, port: int, count: int, key: ECKey) -> list[bytes]:
    """Return the heads of handshakes on the route of a kind, with valid credentials."""
    target, fields = f"/{kind}", ""
    if kind == "api-key":
        fields = f"X-API-Key: {KEY}\r\n"
    elif kind == "signed-url":
        target = SignedUrls(KEY).sign(target, user="ana", seconds=3600)
    elif kind.startswith("jwt-"):
        fields = f"Authorization: Bearer {token(kind.removeprefix('jwt-').upper(), key)}\r\n"
    elif kind.startswith("ticket"):
        tickets = json.loads(fetch(port, f"/new/{kind}?count={count}")[0])
        return [head(f"{target}?ticket={ticket}", port, "") for ticket in tickets]
    elif kind.startswith("session-"):
        fields = f"Cookie: {fetch(port, f'/new/{kind}')[1].partition(';')[0]}\r\n"
    return [head(target, port, fields)] * count


def token(algorithm: str, key: ECKey) -> str:
    """Return a JWT that is valid for an hour."""
    now = int(time.time())
    header = {"alg": algorithm, "kid": "a"} if algorithm == "ES256" else {"alg": algorithm}
    claims = {"iss": ISSUER, "sub": "ana", "aud": "echo", "iat": now, "exp": now + 3600}
    return jwt.encode(header, claims, key if algorithm == "ES256" else OctKey.import_key(KEY))


def fetch(port: int, target: str) -> tuple[bytes, str]:
    """Return the body of an answer, and the cookie that it sets."""
    connection = HTTPConnection("127.0.0.1", port)
    connection.request("GET", target)
    response = connection.getresponse()
    return response.read(), response.getheader("Set-Cookie", "")


def head(target: str, port: int, fields: str) -> bytes:
    """Return the head of a handshake."""
    return (
        f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{fields}\r\n"
    ).encode()


def shake_hands(port: int, request: bytes) -> None:
    """Make a handshake, and close the connection.

    Raises:
        SystemExit: the server refused it.
    """
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(request)
        answer = sock.recv(_READ_SIZE)
        if not answer.startswith(b"HTTP/1.1 101 "):
            raise SystemExit(f"a handshake was refused: {answer!r}")
        sock.sendall(_CLOSE_FRAME)
        while sock.recv(_READ_SIZE):
            pass


def measure(kinds: list[str], port: int, pid: int, rounds: int, count: int, key: ECKey) -> dict[str, list[float]]:
    """Return the processor time of a handshake in seconds, for each kind and round."""
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(rounds + 1):  # the first round fills caches
        for kind in kinds:
            requests = heads(kind, port, count, key)
            before = cpu_seconds(pid)
            for request in requests:
                shake_hands(port, request)
            if number:
                times[kind].append((cpu_seconds(pid) - before) / count)
    return times


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="all by default")
    parser.add_argument("--loop", choices=["uvloop", "asyncio", "trio"], default="uvloop")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--handshakes", type=int, default=300, help="of each kind in each round (default: 300)")
    parser.add_argument("--redis", metavar="URL", help="a server for tickets and sessions")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, key = Path(name), ECKey.generate_key("P-256", auto_kid=False)
        public = {**key.as_dict(private=False), "kid": "a", "alg": "ES256", "use": "sig"}
        (folder / "jwks.json").write_text(json.dumps({"keys": [public]}))
        known = routes(folder, args.redis)
        unknown = set(args.kinds) - set(known)
        if unknown:
            parser.error(f"there is no kind {min(unknown)!r}; there are: {', '.join(known)}")
        kinds = [PLAIN, *[kind for kind in known if kind != PLAIN and kind in (args.kinds or known)]]
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        server = multiprocessing.get_context("spawn").Process(
            target=run_server, args=(theirs, folder, args.redis, args.loop), daemon=True
        )
        server.start()
        theirs.close()
        try:
            times = measure(kinds, ours.recv(), server.pid or 0, args.rounds, args.handshakes, key)
        finally:
            server.kill()
            server.join()
    print(f"{'kind':16} {'time':>8}   ratio to {PLAIN}")
    for kind in kinds:
        ratios = [spent / plain for spent, plain in zip(times[kind], times[PLAIN], strict=True)]
        spent = f"{1e6 * statistics.median(times[kind]):5.0f} µs"
        print(f"{kind:16} {spent}   {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
