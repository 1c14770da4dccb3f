#!/usr/bin/env python3
"""The server of a soak run: an ordinary application that uses every part which keeps something for a client.

The routes, and what a client does there:

    /rooms                        topics with a history, presence; the commands of benchmarks/fault_app.py
    /echo, /echo-async            messages come back
    /many                         subscribe to many topics, publish on them, unsubscribe
    /account                      a JWT; send to users, renew the token
    /login, /session, /logout     a session in Redis that counts messages
    /ticket, /ticketed            a ticket, which opens one connection
    /feed, /scores, /download     floods, for clients that read slowly
    /delayed, /dropping, /closing, /shared      rate limits

Each worker writes its numbers to a file, see `soak/sampling.py`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import anyio

# Started as a program, only this file's folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import anyio.lowlevel
from benchmarks.fault_app import Commands, add_topics, run, server_arguments

from pywsapp import (
    App,
    BrokerUnavailable,
    CloseCode,
    Connection,
    Deflate,
    Exceeded,
    InvalidCredentials,
    MessageComponent,
    Options,
    RateLimit,
    Refuse,
    Request,
    SessionEnded,
    SessionUnavailable,
    SlowConsumer,
)
from pywsapp.auth import TicketAuthenticator, TicketIssuer, public
from pywsapp.auth.jwt import JwtAuthenticator, SharedSecret
from soak.sampling import Sampler

ISSUER, AUDIENCE, SECRET = "soak", "soak", "a secret for the soak test: 32 bytes and more"
#: Seconds after its last message in which a topic keeps messages; longer than any fault.
HISTORY_SECONDS = 60
SESSION_SECONDS = 300
#: What a flood sends: more than the outbox, the transport and the kernel take of a client that reads nothing.
FLOOD_MESSAGES, FLOOD_SIZE = 400, 64 * 1024
#: Messages per second and burst of the rate limits.
RATE, BURST = 50.0, 20
_OPTIONS: dict[str, Any] = {"drain_timeout": 5.0, "ping_interval": 5.0, "close_timeout": 3.0}
ISSUES = JwtAuthenticator({ISSUER: SharedSecret(SECRET)}, audience=AUDIENCE, leeway=0)


class Echo(MessageComponent):
    """Sends each message back at once."""

    def on_message(self, conn: Connection, message: Any) -> None:
        conn.send(message)


class AsyncEcho(MessageComponent):
    """Sends each message back, and waits for slow clients."""

    async def on_message(self, conn: Connection, message: Any) -> None:
        await conn.send(message)


class Many(MessageComponent):
    """Carries out the commands `subscribe`, `unsubscribe` and `publish` of a client, and answers the first two."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def on_message(self, conn: Connection, message: Any) -> None:
        command = json.loads(message)
        topics = [self._app.topic(name) for name in command["topics"]]
        if "text" in command:
            for topic in topics:
                topic.broadcast(json.dumps([topic.name, command["text"]]))
            return
        for topic in topics:
            if command["subscribe"]:
                await topic.add(conn)
            else:
                topic.remove(conn)
        conn.send(json.dumps({"done": command["number"]}))


class Account(MessageComponent):
    """Sends to users for a client, and renews its token."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def on_message(self, conn: Connection, message: Any) -> None:
        command = json.loads(message)
        if "token" in command:
            conn.refresh_user(await ISSUES.verify(command["token"]))
            conn.send(json.dumps({"renewed": True}))
        elif "to" in command:
            try:
                await self._app.users[command["to"]].send(json.dumps({"text": command["text"]}))
            except BrokerUnavailable:
                conn.send(json.dumps({"failed": command["text"]}))
            else:
                conn.send(json.dumps({"accepted": command["text"]}))

    def on_error(self, conn: Connection, exc: Exception) -> Any:
        if isinstance(exc, InvalidCredentials):
            conn.close(CloseCode.UNAUTHENTICATED, str(exc))
            return None
        return super().on_error(conn, exc)


class Counting(MessageComponent):
    """Counts the messages of a client in its session."""

    def on_open(self, conn: Connection) -> None:
        conn.send(json.dumps({"count": conn.session.get("count")}))

    async def on_message(self, conn: Connection, message: Any) -> None:
        conn.session["count"] = conn.session.get("count", 0) + 1
        try:
            await conn.session.save()
        except SessionEnded:
            conn.close(4001, "logged out")
        except SessionUnavailable:
            conn.close(CloseCode.TRY_AGAIN_LATER, "the session store is unavailable")
        else:
            conn.send(json.dumps({"count": conn.session["count"]}))


class Flood(MessageComponent):
    """Sends many numbered messages for each message of a client.

    Args:
        waits: whether it waits for a client that reads slowly.
    """

    def __init__(self, *, waits: bool) -> None:
        self._waits = waits

    async def on_message(self, conn: Connection, message: Any) -> None:
        for number in range(FLOOD_MESSAGES):
            sending = conn.send(number.to_bytes(4, "big") + bytes(FLOOD_SIZE))
            if self._waits:
                await sending
            else:
                await anyio.lowlevel.checkpoint()
            if not conn.is_open:
                return
        conn.send("the end")


def add_open_routes(app: App) -> None:
    """Add the routes that need no user."""

    def route(path: str, component: MessageComponent, **options: Any) -> None:
        app.route(path, component, options=Options(**_OPTIONS, **options), authenticate=public, sessions=False)

    def limited(path: str, when_exceeded: Exceeded) -> None:
        limit = RateLimit(
            Echo(), messages_per_second=RATE, messages_burst=BURST, when_exceeded=when_exceeded, name=path
        )
        route(path, limit)

    route("/rooms", Commands(app))
    route("/echo", Echo(), deflate=Deflate())
    route("/echo-async", AsyncEcho(), deflate=Deflate())
    route("/many", Many(app))
    route("/feed", Flood(waits=False))
    route("/download", Flood(waits=True))
    route("/scores", Flood(waits=False), slow_consumer=SlowConsumer.DROP_OLDEST)
    limited("/delayed", Exceeded.DELAY)
    limited("/dropping", Exceeded.DROP)
    limited("/closing", Exceeded.CLOSE)


def add_routes_of_users(app: App, store: str) -> None:
    """Add the routes that need a user, a session or a ticket; all workers share them in a Redis."""
    tickets = TicketIssuer(store)
    app.on_shutdown(tickets.aclose)
    shared = RateLimit(Echo(), messages_per_second=RATE, messages_burst=BURST, per="user", shared=store, name="shared")
    app.route("/account", Account(app), authenticate=ISSUES, sessions=False)
    app.route("/shared", shared, authenticate=ISSUES, sessions=False)
    app.route("/ticketed", Echo(), authenticate=TicketAuthenticator(tickets), sessions=False)
    app.route("/session", Counting(), authenticate=public)

    @app.http("/ticket", methods=["POST"], authenticate=ISSUES, sessions=False)
    async def ticket(request: Request) -> str:
        return await tickets.issue(request.user["sub"], origin=None)

    @app.http("/login", methods=["POST"], authenticate=public)
    async def login(request: Request) -> str:
        try:
            await request.session.rotate()
        except SessionUnavailable as exc:
            raise Refuse(503) from exc
        request.session["count"] = 0
        return "welcome"

    @app.http("/logout", methods=["POST"], authenticate=public)
    async def logout(request: Request) -> str:
        try:
            await request.session.destroy()
        except SessionUnavailable as exc:
            raise Refuse(503) from exc
        return "goodbye"


def main() -> None:
    """Run the server."""
    parser = server_arguments(__doc__)
    parser.add_argument("--store", required=True, help="the URL of the Redis of sessions, tickets and limits")
    parser.add_argument("--samples", type=Path, required=True, help="the directory for the numbers of the workers")
    args = parser.parse_args()
    session_store = f"{args.store}?max_age={SESSION_SECONDS}"
    app = App(
        "*",
        args.port,
        args.address,
        broker=args.broker,
        options=Options(**_OPTIONS),
        session_store=session_store,
        user_key=lambda user: user["sub"] if isinstance(user, dict) else user,
    )
    add_topics(app, args.history, HISTORY_SECONDS)
    add_open_routes(app)
    add_routes_of_users(app, args.store)
    sampler = Sampler(app, args.samples)
    app.every(sampler.seconds)(sampler.sample)
    run(app, args)


if __name__ == "__main__":
    main()
