"""The clients of a fault run: they come back whenever they are thrown out, and go at random by themselves."""

from __future__ import annotations

import json
import random
import time
from contextlib import suppress
from typing import Any

import anyio

from benchmarks.ledger import Attempt, Break, Got, Ledger
from pywsapp import Connection, HandshakeError, MessageComponent, Options, run_client
from pywsapp.brokers.base import Position

#: A worker that is not there lets its connections wait; then another one is tried.
_OPTIONS = Options(handshake_timeout=3.0)
#: Seconds until a publisher no longer waits for an answer.
_ANSWER_SECONDS = 30.0
_PAUSE_SECONDS = 0.1


class Client(MessageComponent):
    """A client of one topic; `run` keeps it connected to one of several servers.

    Args:
        topic: the topic's name.
        ports: of the servers, on this machine.
        dice: decides where it goes.

    Attributes:
        conn: its connection; None while it has none.
        connects: how often it has had one.
    """

    def __init__(self, topic: str, ports: list[int], dice: random.Random) -> None:
        self.topic = topic
        self.conn: Connection | None = None
        self.connects = 0
        self.stopped = False
        self._ports = ports
        self.dice = dice

    async def run(self) -> None:
        """Be connected until `stop`."""
        while not self.stopped:
            with suppress(OSError, HandshakeError):
                await run_client(self, f"ws://127.0.0.1:{self.dice.choice(self._ports)}/", options=_OPTIONS)
            if not self.stopped:
                await anyio.sleep(self.dice.uniform(0, _PAUSE_SECONDS))

    def stop(self) -> None:
        """Leave for good."""
        self.stopped = True
        if self.conn is not None:
            self.conn.close()

    def leave(self) -> None:
        """Break the connection, in good order or not."""
        if self.conn is not None:
            self.conn.abort() if self.dice.random() < 0.5 else self.conn.close()

    def ask(self, **fields: object) -> None:
        """Say something of the topic."""
        if self.conn is not None:
            self.conn.send(json.dumps({"topic": self.topic, **fields}))

    def on_open(self, conn: Connection) -> None:
        self.conn = conn
        self.connects += 1

    def on_close(self, conn: Connection) -> None:
        self.conn = None

    def on_message(self, conn: Connection, message: str | bytes) -> None:
        self.told(json.loads(message))

    def told(self, event: dict[str, Any]) -> None:
        """Take what the server said."""


class Listener(Client):
    """Subscribes from what it saw last, and writes everything into the ledger.

    Attributes:
        ready: whether it subscribes, to a server that has its broker.
    """

    def __init__(
        self, name: str, topic: str, ports: list[int], dice: random.Random, ledger: Ledger, *, history: bool
    ) -> None:
        super().__init__(topic, ports, dice)
        self.name = name
        self.ready = False
        self._events = ledger.heard[name]
        self._history = history
        self._position: str | None = None

    def on_open(self, conn: Connection) -> None:
        super().on_open(conn)
        self.ask(join=True, position=self._position)

    def on_close(self, conn: Connection) -> None:
        super().on_close(conn)
        self.ready = False
        self._note_away("the connection is lost")

    def told(self, event: dict[str, Any]) -> None:
        if "message" in event:
            self._take(Attempt.parse(event["message"]), event.get("position"))
        elif "lost" in event:
            self._position = event["position"]
            self._events.append(Break("lost"))
        elif "joined" in event:
            self._position = self._position or event["joined"]
            self._note_away("joined")
            self.ready = not event.get("away", False)
        elif "away" in event:
            self._note_away("the server's broker is away", anew=False)
            self.ready = not event["away"]
        elif self.conn is not None:
            self.conn.close()  # it could not join

    def _take(self, attempt: Attempt, position: str | None) -> None:
        if position is None:
            self._events.append(Got(attempt))
        else:
            self._position = position
            self._events.append(Got(attempt, *Position.parse(position)))

    def _note_away(self, why: str, *, anew: bool = True) -> None:
        """Without a history, who was away knows that he may have missed something; with one he has to be told."""
        if not self._history:
            self._events.append(Break(why, anew))


class Publisher(Client):
    """Says numbered messages, each until it is accepted.

    Attributes:
        longest: seconds that a message took to be accepted, at most.
    """

    def __init__(
        self, name: str, topic: str, ports: list[int], dice: random.Random, ledger: Ledger, *, history: bool
    ) -> None:
        super().__init__(topic, ports, dice)
        self.name = name
        self.number = 0
        self.longest = 0.0
        self._ledger = ledger
        self._history = history
        self._attempt: Attempt | None = None
        self._answered = anyio.Event()
        self._accepted = False

    async def say(self) -> None:
        """Say the next message, until it is accepted."""
        self.number += 1
        began = time.monotonic()
        attempt = 0
        while not self._accepted:
            if self.conn is None:
                await anyio.sleep(0.01)
                continue
            attempt += 1
            await self._try(Attempt(self.name, self.number, attempt))
        self._accepted = False
        self.longest = max(self.longest, time.monotonic() - began)

    async def _try(self, attempt: Attempt) -> None:
        self._attempt, self._answered = attempt, anyio.Event()
        self._ledger.tried.append(attempt)
        if not self._history:
            self._ledger.ways[attempt] = self.connects
        self.ask(say=str(attempt))
        with anyio.move_on_after(_ANSWER_SECONDS) as waited:
            await self._answered.wait()
        if waited.cancelled_caught and self.conn is not None:
            self.conn.abort()
        self._attempt = None
        if not self._accepted:
            await anyio.sleep(_PAUSE_SECONDS)

    def told(self, event: dict[str, Any]) -> None:
        if self._attempt is None:
            return
        if event.get("accepted") == str(self._attempt):
            self._accepted = True
            self._ledger.accepted.add(self._attempt)
            self._answered.set()
        elif "failed" in event:
            self._answered.set()

    def on_close(self, conn: Connection) -> None:
        super().on_close(conn)
        self._answered.set()


class Guest(Client):
    """Is present under its name, and asks who is there.

    Attributes:
        view: who was there when it asked last; None before the answer.
        worker: the process ID of its worker.
    """

    def __init__(self, name: str, topic: str, ports: list[int], dice: random.Random) -> None:
        super().__init__(topic, ports, dice)
        self.name = name
        self.worker = 0
        self.view: list[str] | None = None

    def on_open(self, conn: Connection) -> None:
        super().on_open(conn)
        self.ask(join=True, position=None)

    def on_close(self, conn: Connection) -> None:
        super().on_close(conn)
        self.view = None

    def told(self, event: dict[str, Any]) -> None:
        if "joined" in event:
            self.ask(track=self.name)
        elif "tracked" in event:
            self.worker = event["worker"]
        elif "who" in event:
            self.view = event["who"]
