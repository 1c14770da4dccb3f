#!/usr/bin/env python3
"""The server of a fault run: rooms as anybody could write them, that say what became of each message.

A client sends JSON objects with a `topic` and one thing to do there:

    "join": true, "position": "17-5f3c"     subscribe, from a position on where there is a history
    "say": "..."                            broadcast; answered with `accepted`, or with `failed`
    "track": "anna"                         be present as that user; answered with the worker's process ID
    "who": true                             answered with everybody who is present, as far as this process knows

Without a history nobody is told what a broker loses, so subscribers here are told when the process has lost its broker:
`{"away": true}` comes before whatever comes after the broker is back.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from pywsapp import App, BrokerUnavailable, Connection, MessageComponent, Options

#: More than a run can fill, so that nobody stays away for too long.
HISTORY_SIZE = 100_000
HISTORY_SECONDS = 600
#: Less than the shortest time that a lost broker is away.
_LOOK_SECONDS = 0.02


class Room(MessageComponent):
    """Does what clients say.

    Args:
        app: whose topics they are.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def on_message(self, conn: Connection, message: str | bytes) -> None:
        event = json.loads(message)
        topic = self._app.topic(event["topic"])
        if "join" in event:
            await self._join(conn, event)
        elif "say" in event:
            await self._say(conn, event)
        elif "track" in event:
            topic.track(conn, event["track"])
            answer(conn, tracked=event["track"], worker=os.getpid())
        elif "who" in event:
            answer(conn, who=sorted(topic.present()))

    async def _join(self, conn: Connection, event: dict[str, Any]) -> None:
        topic = self._app.topic(event["topic"])
        if topic.history is None:
            await topic.add(conn)
            answer(conn, joined=None, away=is_away(self._app))
            return
        try:
            recovery = await topic.recover(conn, event["position"])
        except BrokerUnavailable as exc:
            answer(conn, failed=str(exc))
        else:
            answer(conn, joined=recovery.position)

    async def _say(self, conn: Connection, event: dict[str, Any]) -> None:
        topic = self._app.topic(event["topic"])
        try:
            await topic.broadcast(event["say"] if topic.history else json.dumps({"message": event["say"]}))
        except BrokerUnavailable as exc:
            answer(conn, failed=str(exc))
        else:
            answer(conn, accepted=event["say"])


def answer(conn: Connection, **fields: object) -> None:
    conn.send(json.dumps(fields))


def is_away(app: App) -> bool:
    return app.topics.relay is None or not app.topics.relay.stats.connected


def tell_when_away(app: App) -> None:
    """Let subscribers know when the process loses its broker, and has it again."""
    was_away = False

    @app.every(_LOOK_SECONDS)
    def look() -> None:
        nonlocal was_away
        if (away := is_away(app)) != was_away:
            was_away = away
            for conn in {conn for topic in app.topics.active() for conn in topic}:
                answer(conn, away=away)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--loop", choices=("asyncio", "uvloop", "trio"), required=True)
    parser.add_argument("--broker", help="a URL; without one, the local bus")
    parser.add_argument("--history", type=int, default=HISTORY_SIZE, help="messages; 0 for none")
    args = parser.parse_args()
    app = App("*", args.port, broker=args.broker, options=Options(drain_timeout=5.0))
    if args.history:
        app.history("room:*", size=args.history, seconds=HISTORY_SECONDS)
    else:
        tell_when_away(app)
    app.on_presence("lobby:*")(lambda topic, diff: None)
    app.route("/", Room(app))
    backend = "trio" if args.loop == "trio" else "asyncio"
    app.run(backend=backend, uvloop=args.loop == "uvloop" if backend == "asyncio" else None, workers=args.workers)


if __name__ == "__main__":
    main()
