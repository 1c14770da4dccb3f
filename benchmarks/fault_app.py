#!/usr/bin/env python3
"""The server of a fault run: an ordinary application that reports the result of every message.

A client sends JSON objects, each with a `topic` and one command:

    "subscribe": true, "position": "17-5f3c"    subscribe; from that position if the topic has a history
    "publish": "..."                            broadcast a text; the answer is `accepted` or `failed`
    "track": "anna"                             be present as that user
    "list": true                                return the users who are present, as far as this process knows
    "block": 60                                 block the event loop for so many seconds

The answers to `subscribe` and `track` have the process ID of the worker. A message that `failed` can have been
published all the same if the answer says that this is `unknown`.

Without a history, the server reports no losses of a broker. Therefore subscribers of a topic without a history are
informed when their process loses its broker: `{"broker_connected": false}` comes before any message that comes after
the broker is back.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

from pywsapp import App, BrokerUnavailable, Connection, MessageComponent, Options, OutcomeUnknown

#: More messages and seconds than a run has, so that every client can continue where it was.
HISTORY_SIZE = 100_000
HISTORY_SECONDS = 600
#: Less than the shortest time without a broker (`fault_kinds.AWAY_SECONDS`).
_CHECK_SECONDS = 0.02


class Commands(MessageComponent):
    """Carries out the commands of clients.

    Args:
        app: the application, which has the topics.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def on_message(self, conn: Connection, message: str | bytes) -> None:
        command = json.loads(message)
        topic = self._app.topic(command["topic"])
        if "subscribe" in command:
            await self._subscribe(conn, command)
        elif "publish" in command:
            await self._publish(conn, command)
        elif "track" in command:
            topic.track(conn, command["track"])
            answer(conn, tracked=command["track"], worker=os.getpid())
        elif "list" in command:
            answer(conn, present=sorted(topic.present()))
        elif "block" in command:
            block(command["block"])

    async def _subscribe(self, conn: Connection, command: dict[str, Any]) -> None:
        topic = self._app.topic(command["topic"])
        if topic.history is None:
            await topic.add(conn)
            answer(conn, subscribed=None, worker=os.getpid(), broker_connected=is_broker_connected(self._app))
            return
        try:
            recovery = await topic.recover(conn, command["position"])
        except BrokerUnavailable as exc:
            answer(conn, failed=str(exc))
        else:
            answer(conn, subscribed=recovery.position, worker=os.getpid())

    async def _publish(self, conn: Connection, command: dict[str, Any]) -> None:
        topic, text = self._app.topic(command["topic"]), command["publish"]
        try:
            await topic.broadcast(text if topic.history else json.dumps({"message": text}))
        except BrokerUnavailable as exc:
            answer(conn, failed=str(exc), unknown=isinstance(exc, OutcomeUnknown))
        else:
            answer(conn, accepted=text)


def block(seconds: float) -> None:
    """Block the event loop: the mistake that `worker_timeout` is for."""
    time.sleep(seconds)


def answer(conn: Connection, **fields: object) -> None:
    conn.send(json.dumps(fields))


def is_broker_connected(app: App) -> bool:
    return bool(app.topics.relay is not None and app.topics.relay.stats.connected)


def report_broker_state(app: App) -> None:
    """Inform all subscribers when the process loses its broker, and when it has the broker again."""
    was_connected = True

    @app.every(_CHECK_SECONDS)
    def check() -> None:
        nonlocal was_connected
        if (connected := is_broker_connected(app)) != was_connected:
            was_connected = connected
            for conn in {conn for topic in app.topics.active() for conn in topic}:
                answer(conn, broker_connected=connected)


def server_arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser for the options of a server in a fault run or a soak run."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--worker-timeout", type=float, required=True)
    parser.add_argument("--loop", choices=("asyncio", "uvloop", "trio"), required=True)
    parser.add_argument("--broker", help="a URL (default: the local bus)")
    parser.add_argument("--history", type=int, default=HISTORY_SIZE, help="messages; 0: no history")
    return parser


def add_topics(app: App, history: int, seconds: float) -> None:
    """Add the topics of the rooms and lobbies; 0 messages mean that rooms have no history."""
    if history:
        app.history("room:*", size=history, seconds=seconds)
    else:
        report_broker_state(app)
    app.on_presence("lobby:*")(lambda topic, diff: None)


def run(app: App, args: argparse.Namespace) -> None:
    """Run an App with the options of `server_arguments`."""
    backend = "trio" if args.loop == "trio" else "asyncio"
    uvloop = args.loop == "uvloop" if backend == "asyncio" else None
    app.run(backend=backend, uvloop=uvloop, workers=args.workers, worker_timeout=args.worker_timeout)


def main() -> None:
    args = server_arguments(__doc__).parse_args()
    app = App("*", args.port, args.address, broker=args.broker, options=Options(drain_timeout=5.0))
    add_topics(app, args.history, HISTORY_SECONDS)
    app.route("/", Commands(app))
    run(app, args)


if __name__ == "__main__":
    main()
