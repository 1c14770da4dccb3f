"""The clients of a fault run: they reconnect after every lost connection, and break connections at random."""

from __future__ import annotations

import json
import random
import time
from contextlib import suppress
from typing import Any

import anyio

from benchmarks.fault_record import Attempt, Interruption, Received, TopicRecord
from pywsapp import Connection, HandshakeError, MessageComponent, Options, run_client
from pywsapp.brokers.base import Position

#: A stopped worker does not answer its connections. After this time a client tries another server.
_OPTIONS = Options(handshake_timeout=3.0)
#: Seconds that a publisher waits for an answer.
_ANSWER_SECONDS = 30.0
_PAUSE_SECONDS = 0.1


class Client(MessageComponent):
    """A client of one topic; `run` keeps it connected to one of several servers.

    Args:
        topic: the name of the topic.
        urls: the URLs of the servers.
        rng: chooses the server and the moments.

    Attributes:
        conn: the connection; None if there is none.
        connects: the number of connections so far.
        worker: the process ID of the worker that it is connected to, as far as it knows; 0 if it does not.
    """

    def __init__(self, topic: str, urls: list[str], rng: random.Random) -> None:
        self.topic = topic
        self.conn: Connection | None = None
        self.connects = 0
        self.worker = 0
        self.is_stopped = False
        self._urls = urls
        self.rng = rng

    async def run(self) -> None:
        """Connect again and again until `stop`."""
        while not self.is_stopped:
            with suppress(OSError, HandshakeError):
                await run_client(self, self.rng.choice(self._urls), options=_OPTIONS)
            if not self.is_stopped:
                await anyio.sleep(self.rng.uniform(0, _PAUSE_SECONDS))

    def stop(self) -> None:
        """Close the connection, and do not reconnect."""
        self.is_stopped = True
        if self.conn is not None:
            self.conn.close()

    def break_connection(self) -> None:
        """Close or abort the connection, each with a probability of one half."""
        if self.conn is not None:
            self.conn.abort() if self.rng.random() < 0.5 else self.conn.close()

    def send_command(self, **fields: object) -> None:
        """Send a command for the topic; without a connection, do nothing."""
        if self.conn is not None:
            self.conn.send(json.dumps({"topic": self.topic, **fields}))

    def on_open(self, conn: Connection) -> None:
        self.conn = conn
        self.connects += 1
        if self.is_stopped:  # `stop` found no connection to close
            conn.close()

    def on_close(self, conn: Connection) -> None:
        self.conn = None
        self.worker = 0

    def on_message(self, conn: Connection, message: str | bytes) -> None:
        event = json.loads(message)
        self.worker = event.get("worker", self.worker)
        self.on_event(event)

    def on_event(self, event: dict[str, Any]) -> None:
        """Handle an answer or a message of the server."""


class Listener(Client):
    """Subscribes from the last position that it received, and records all events.

    Attributes:
        is_ready: whether it is subscribed at a server that has its broker.
    """

    def __init__(
        self, name: str, topic: str, urls: list[str], rng: random.Random, record: TopicRecord, *, history: bool
    ) -> None:
        super().__init__(topic, urls, rng)
        self.name = name
        self.is_ready = False
        self._events = record.received[name]
        self._history = history
        self._position: str | None = None

    def on_open(self, conn: Connection) -> None:
        super().on_open(conn)
        self.send_command(subscribe=True, position=self._position)

    def on_close(self, conn: Connection) -> None:
        super().on_close(conn)
        self.is_ready = False
        self._record_interruption("the connection is lost")

    def on_event(self, event: dict[str, Any]) -> None:
        if "message" in event:
            self._record_message(Attempt.parse(event["message"]), event.get("position"))
        elif "lost" in event:
            self._position = event["position"]
            self._events.append(Interruption("lost"))
        elif "subscribed" in event:
            self._position = self._position or event["subscribed"]
            self._record_interruption("subscribed")
            self.is_ready = event.get("broker_connected", True)
        elif "broker_connected" in event:
            self._record_interruption("the server lost its broker", restarts=False)
            self.is_ready = event["broker_connected"]
        elif self.conn is not None:
            self.conn.close()  # the subscription failed

    def _record_message(self, attempt: Attempt, position: str | None) -> None:
        if position is None:
            self._events.append(Received(attempt))
        else:
            self._position = position
            self._events.append(Received(attempt, *Position.parse(position)))

    def _record_interruption(self, reason: str, *, restarts: bool = True) -> None:
        """Record a lost connection; with a history, only a `lost` message is an interruption."""
        if not self._history:
            self._events.append(Interruption(reason, restarts))


class Publisher(Client):
    """Publishes numbered messages, and repeats each one until it is accepted.

    Attributes:
        longest_wait: the longest time until a message was accepted, in seconds.
    """

    def __init__(
        self, name: str, topic: str, urls: list[str], rng: random.Random, record: TopicRecord, *, history: bool
    ) -> None:
        super().__init__(topic, urls, rng)
        self.name = name
        self.number = 0
        self.longest_wait = 0.0
        self._record = record
        self._history = history
        self._attempt: Attempt | None = None
        self._answered = anyio.Event()
        self._accepted = False

    async def publish(self) -> None:
        """Publish the next message, and return when it is accepted."""
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
        self.longest_wait = max(self.longest_wait, time.monotonic() - began)

    async def _try(self, attempt: Attempt) -> None:
        self._attempt, self._answered = attempt, anyio.Event()
        self._record.attempts.append(attempt)
        if not self._history:
            self._record.connections[attempt] = self.connects
        self.send_command(publish=str(attempt))
        with anyio.move_on_after(_ANSWER_SECONDS) as waited:
            await self._answered.wait()
        if waited.cancelled_caught and self.conn is not None:
            self._record.unanswered += 1
            self.conn.abort()
        self._attempt = None
        if not self._accepted:
            await anyio.sleep(_PAUSE_SECONDS)

    def on_event(self, event: dict[str, Any]) -> None:
        if self._attempt is None:
            return
        if event.get("accepted") == str(self._attempt):
            self._accepted = True
            self._record.accepted.add(self._attempt)
            self._answered.set()
        elif "failed" in event:
            if self._history and not event["unknown"]:
                self._record.refused.add(self._attempt)
            self._answered.set()

    def on_close(self, conn: Connection) -> None:
        super().on_close(conn)
        self._answered.set()


class Guest(Client):
    """Is present as a user, and requests the list of users who are present.

    Attributes:
        present: the last list; None before the answer.
    """

    def __init__(self, name: str, topic: str, urls: list[str], rng: random.Random) -> None:
        super().__init__(topic, urls, rng)
        self.name = name
        self.present: list[str] | None = None

    def on_open(self, conn: Connection) -> None:
        super().on_open(conn)
        self.send_command(subscribe=True, position=None)

    def on_close(self, conn: Connection) -> None:
        super().on_close(conn)
        self.present = None

    def on_event(self, event: dict[str, Any]) -> None:
        if "subscribed" in event:
            self.send_command(track=self.name)
        elif "present" in event:
            self.present = event["present"]
