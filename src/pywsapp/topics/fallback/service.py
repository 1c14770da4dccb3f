"""The fallback connections of one process, and the batches for those of other processes.

Any process can get the POST request with a batch, since no load balancer knows which process has the stream. The id of
a stream names its process. So each process listens on a reserved topic of its own, and a batch for another process is
published there. The process that has the stream answers on the topic of the process that asks, which waits for
`ANSWER_SECONDS` at most. If the answer is lost, the client sends the batch again, perhaps to a third process. The
number of the batch tells the process with the stream that it has it already.

The broker carries a hash of the id and not the id itself, which is a secret. The hash is also that of the route, so a
stream is not found by a request to another route, whose guard and middleware can be others.

A client can invent an id of a process that does not exist, and no process would answer. If the processes share a
secret, which is the `broker_key` or one that a supervisor gives its workers, each id is signed with it, and an invented
one is refused at once. And a process that has never answered, or has not answered the last time, is asked only while
few batches wait. So such ids do not use up the places of other clients.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from enum import Enum
from itertools import count
from typing import Any, Protocol

import anyio

from pywsapp._outbox.awaitables import LazyCoroutine
from pywsapp.brokers.envelope import Envelope, EnvelopeError
from pywsapp.brokers.relay import MAX_PENDING_BYTES
from pywsapp.exceptions import BrokerUnavailable, TopicError
from pywsapp.topics.codec import EnvelopeCodec
from pywsapp.topics.fallback.batch import Batch, InvalidBatch, batch_of
from pywsapp.topics.names import RESERVED
from pywsapp.topics.process_events import ProcessEvents

#: Seconds for which a process waits for the answer of the process that has a stream.
ANSWER_SECONDS = 5.0
#: Batches of one process that wait for the answers of others.
MAX_ASKED = 10_000
#: As many wait at most when a process is asked that has never answered, or has not answered the last time.
MAX_ASKED_SILENT = 1000
#: Processes that have answered and are remembered; the oldest ones are dropped.
_MAX_ANSWERED = 1000
#: Bytes and characters of the batches that the broker has not accepted yet. One that is larger must be alone. This is
#: half of what a relay queues, so that clients cannot use up the other half, which broadcasts need.
MAX_UNSENT = MAX_PENDING_BYTES // 2
_MAX_QUESTION = 2**53
_PREFIX = f"{RESERVED}fallback:"
_SECRET_BYTES = 24
_SIGNATURE_CHARACTERS = 32
_PROCESS = re.compile(r"[0-9a-f]{16}")
_KEY = re.compile(r"[0-9a-f]{32}")


class Outcome(Enum):
    """The result of a batch."""

    ACCEPTED = "accepted"  #: the connection has its messages, now or since an earlier request
    GONE = "gone"  #: there is no such stream, or it is one of another user or another route
    FULL = "full"  #: messages of the client still wait, so it must send the batch again later
    MISSING = "missing"  #: a batch before this one has not come
    UNKNOWN = "unknown"  #: the process with the stream has not answered in time
    BUSY = "busy"  #: this process waits for too many answers
    TOO_LARGE = "too_large"  #: the broker does not carry so large a batch


class Holder(Protocol):
    """A fallback connection, as the service sees it."""

    def take(self, user: str | None, batch: Batch) -> Outcome:
        """Handle a batch, if it comes from the user of the connection.

        Args:
            user: the key of the user that the guard of the route has found; None without one.
            batch: the batch.
        """


class _Question:
    """A batch that waits for the answer of another process."""

    def __init__(self, process: str) -> None:
        self.process = process
        self.outcome = Outcome.UNKNOWN
        self.answered = anyio.Event()


class FallbackService:
    """Finds the connection of a batch. The topic registry creates the service.

    Args:
        codec: its `origin` names this process, and its keys sign the ids of streams.
        events: carries batches and answers between processes.

    Attributes:
        topic: the topic of this process.
    """

    def __init__(self, codec: EnvelopeCodec, events: ProcessEvents) -> None:
        self.topic = _PREFIX + codec.origin
        self._process = codec.origin
        self._codec = codec
        self._events = events
        self._secret: tuple[bytes, ...] = ()
        self._is_expected: Callable[[], bool] = bool
        self._holders: dict[str, Holder] = {}
        self._asked: dict[int, _Question] = {}
        self._answered: dict[str, None] = {}  # the processes that have answered the last time
        self._unsent = 0  # bytes and characters
        self._numbers = count(1)

    # -- running -----------------------------------------------------------------------------------------------------

    def use_app(self, is_expected: Callable[[], bool]) -> None:
        """Use a function that returns whether a route has the fallback; it is called when the App starts."""
        self._is_expected = is_expected

    def use_secret(self, secret: str) -> None:
        """Sign ids with a secret that all processes share, if they have no `broker_key`."""
        self._secret = (secret.encode(),)

    def start(self) -> None:
        """Listen for the batches that other processes get."""
        if self._is_expected():
            self._events.listen(self.topic, self.receive)

    def stop(self) -> None:
        """Stop: all connections have ended."""
        self._holders.clear()

    # -- the connections of this process -----------------------------------------------------------------------------

    def add(self, holder: Holder, route: str) -> str:
        """Add a connection; return the id of its stream, which only its client may learn.

        Args:
            holder: the connection.
            route: names its route, the same in all processes.
        """
        unsigned = f"{self._process}.{secrets.token_urlsafe(_SECRET_BYTES)}"
        keys = self._keys
        stream = f"{unsigned}.{_signature(keys[0], unsigned)}" if keys else unsigned
        self._holders[_key(stream, route)] = holder
        return stream

    def discard(self, stream: str, route: str) -> None:
        """Remove a connection that has ended; nothing if it is not known."""
        self._holders.pop(_key(stream, route), None)

    @property
    def _keys(self) -> tuple[bytes, ...]:
        """The keys that sign ids, the first one those of this process; none if the processes share no secret."""
        return self._codec.keys or self._secret

    # -- batches -----------------------------------------------------------------------------------------------------

    async def deliver(self, stream: str, route: str, user: str | None, batch: Batch) -> Outcome:
        """Hand a batch to the connection of a stream, in this process or another one.

        Args:
            stream: the id that the client has sent.
            route: names the route of the request; see `add`.
            user: the key of the user of the request; None without one.
            batch: the batch.
        """
        process, key = stream.partition(".")[0], _key(stream, route)
        if process == self._process:
            return self._take(key, user, batch)
        if not self._events.has_others or not _PROCESS.fullmatch(process) or self._is_invented(stream):
            return Outcome.GONE
        size = sum(map(len, batch.messages))
        limit = MAX_ASKED if process in self._answered else MAX_ASKED_SILENT
        if len(self._asked) >= limit or (self._unsent and self._unsent + size > MAX_UNSENT):
            return Outcome.BUSY
        number, question = next(self._numbers), _Question(process)
        event = {"fallback": "batch", "number": number, "stream": key, "user": user, "batch": batch.fields()}
        try:
            sent = self._publish(process, event)
        except TopicError:
            return Outcome.TOO_LARGE
        self._asked[number] = question
        try:
            with anyio.move_on_after(ANSWER_SECONDS):
                await self._wait_sent(sent, size)
                await question.answered.wait()
        except BrokerUnavailable:
            pass  # the client sends the batch again
        finally:
            del self._asked[number]
        if not question.answered.is_set():
            self._answered.pop(process, None)
        return question.outcome

    def _is_invented(self, stream: str) -> bool:
        """Return whether no process can have made an id."""
        unsigned, _, signature = stream.rpartition(".")
        keys, given = self._keys, signature.encode("utf-8", "surrogatepass")
        return bool(keys) and not any(hmac.compare_digest(given, _signature(key, unsigned).encode()) for key in keys)

    async def _wait_sent(self, sent: LazyCoroutine[None], size: int) -> None:
        self._unsent += size
        try:
            await sent
        finally:
            self._unsent -= size

    def _take(self, key: str, user: str | None, batch: Batch) -> Outcome:
        holder = self._holders.get(key)
        return Outcome.GONE if holder is None else holder.take(user, batch)

    def _publish(self, process: str, event: dict[str, Any]) -> LazyCoroutine[None]:
        return self._events.publish(_PREFIX + process, event)

    def receive(self, envelope: Envelope) -> None:
        """Handle an event of another process.

        Raises:
            EnvelopeError: the event is invalid.
        """
        event = envelope.event or {}
        kind, number = event.get("fallback"), event.get("number")
        if type(number) is not int or not 0 < number <= _MAX_QUESTION or not _PROCESS.fullmatch(envelope.origin):
            raise EnvelopeError("its event has no valid number, or its process no valid name")
        if kind == "batch":
            outcome = self._take(*_parsed(event))
            self._publish(envelope.origin, {"fallback": "answer", "number": number, "outcome": outcome.value})
        elif kind == "answer":
            question = self._asked.get(number)
            if question is not None and question.process == envelope.origin:
                question.outcome = _outcome(event.get("outcome"))
                question.answered.set()
                self._note_answer(envelope.origin)
        else:
            raise EnvelopeError("its event is not one that processes send about fallback connections")

    def _note_answer(self, process: str) -> None:
        self._answered[process] = None
        if len(self._answered) > _MAX_ANSWERED:
            del self._answered[next(iter(self._answered))]


def _key(stream: str, route: str) -> str:
    text = f"{len(stream)}:{stream}:{route}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _signature(key: bytes, unsigned: str) -> str:
    """Return the signature of an id; no envelope can have the same one, since it begins in another way."""
    text = f"fallback:{unsigned}".encode("utf-8", "surrogatepass")
    return hmac.new(key, text, hashlib.sha256).hexdigest()[:_SIGNATURE_CHARACTERS]


def _parsed(event: dict[str, Any]) -> tuple[str, str | None, Batch]:
    key, user = event.get("stream"), event.get("user")
    if not isinstance(key, str) or not _KEY.fullmatch(key) or not (user is None or isinstance(user, str)):
        raise EnvelopeError("the stream or the user of its event is invalid")
    try:
        return key, user, batch_of(event.get("batch"))
    except InvalidBatch as exc:
        raise EnvelopeError(f"the batch of its event is invalid: {exc}") from None


def _outcome(value: Any) -> Outcome:
    try:
        return Outcome(value)
    except ValueError:
        raise EnvelopeError("the outcome of its event is not known") from None
