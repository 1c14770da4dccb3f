"""The topics of one process that keep a history: their rules, publishing, following, and reading for recoveries.

`recovery` has the theory.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any

import anyio

from pywsapp._clocks import monotonic_clock
from pywsapp._event_loop import note_asyncio
from pywsapp._http_text import one_line
from pywsapp._log_fields import log_fields
from pywsapp._outbox.awaitables import ALREADY_DONE, LazyAwaitable, LazyCoroutine
from pywsapp.brokers.base import MIB, Keep, Kept, Position
from pywsapp.brokers.envelope import Envelope
from pywsapp.brokers.message_ids import with_message_id
from pywsapp.exceptions import BrokerUnavailable, PywsappError
from pywsapp.options import Options
from pywsapp.topics.codec import Content, EnvelopeCodec
from pywsapp.topics.history.claims import claim
from pywsapp.topics.history.memory_store import MemoryHistory, keep_expiring
from pywsapp.topics.history.recovery import Follower, Missed, has_more, position_before
from pywsapp.topics.history.rules import HistoryRule
from pywsapp.topics.replays import GrowingNumbers

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from pywsapp.brokers.base import BrokerConnection
    from pywsapp.brokers.relay import Relay
    from pywsapp.topics.delivery import DeliveryForm

logger = logging.getLogger("pywsapp")

#: Seconds that reading a history may take.
_READ_SECONDS = 5.0
#: Seconds until a failed reading is repeated if the broker is still connected.
_RETRY_SECONDS = 1.0
#: How often a history is read for a recovery while newer messages are delivered meanwhile.
_MAX_ROUNDS = 20
#: Histories that are read at once; after a reconnect, all of them have to be read.
_MAX_READING = 100
#: Bytes that are read at once to catch up.
_PAGE_BYTES = MIB // 4


class HistoryService:
    """Rules, followers, and the histories themselves if there is no broker. The topic registry creates it.

    Args:
        codec: encodes and decodes the kept messages.
        options: the limits of histories in memory.
        deliver: takes a topic's name, the position and the content of a message, in the order of the history. The
            content is None if the messages up to the position are lost.

    Attributes:
        rules: which topics keep a history, the most important first.
        lost: how often messages of a topic were lost, which its subscribers get a report of.
    """

    def __init__(
        self, codec: EnvelopeCodec, deliver: Callable[[str, Position, Content | None], None], options: Options
    ) -> None:
        self.rules: list[HistoryRule] = []
        self.lost = 0
        self._codec = codec
        self._deliver = deliver
        self._memory = MemoryHistory(monotonic_clock, options.max_histories, options.max_history_bytes)
        self._numbers = count(1)
        self._relay: Relay | None = None
        self._tasks: TaskGroup | None = None
        self._followers: dict[str, Follower] = {}
        self._ready: dict[str, anyio.Event] = {}
        self._retrying: set[str] = set()
        self._reading: anyio.Semaphore

    @property
    def kept_here(self) -> tuple[int, int]:
        """How many topics this process keeps, and their bytes."""
        return self._memory.kept

    def rule(self, name: str) -> HistoryRule | None:
        """Return the first rule that matches a topic; None if the topic keeps nothing."""
        return next((rule for rule in self.rules if rule.pattern.matches(name)), None)

    def start(self, relay: Relay | None, tasks: TaskGroup) -> None:
        """Use a broker from now on; None without one."""
        self._relay, self._tasks = relay, tasks
        self._retrying.clear()
        if relay is None and self.rules:
            tasks.start_soon(keep_expiring, self._memory)
        self._reading = anyio.Semaphore(_MAX_READING)

    def stop(self) -> None:
        """Follow nothing any more."""
        self._relay = self._tasks = None
        for name in list(self._followers):
            self.unfollow(name)
        self._codec.forget_all()

    def connected(self) -> None:
        """Start to catch up with all followers, because the connection to the broker is new."""
        for follower in self._followers.values():
            follower.catch_up()

    # -- publishing --------------------------------------------------------------------------------------------------

    def publish(
        self, name: str, content: Content, rule: HistoryRule, message_id: str | None = None, *, comes_back: bool
    ) -> LazyCoroutine[None]:
        """Publish a message to the broker, which sends it back with its position.

        Args:
            name: the topic's name.
            content: the message.
            rule: how the topic keeps it.
            message_id: an id under which it is kept once.
            comes_back: whether this process receives the topic's messages.

        Returns:
            what waits until the broker has accepted it.

        Raises:
            TopicError: it is larger than the broker's limit.
        """
        assert self._relay is not None
        data = self._codec.encode(name, content)
        acknowledgement = self._relay.publish(name, data, with_message_id(self._keep(rule), message_id))
        if comes_back:
            self._codec.remember(data, content)
        return acknowledgement

    def append(self, name: str, content: Content, rule: HistoryRule, message_id: str | None = None) -> bool:
        """Keep a message in memory and deliver it, for an app without a broker; return False if its id is known."""
        keep = with_message_id(self._keep(rule), message_id)
        position = self._memory.append(name, self._codec.encode(name, content), keep)
        if position is None:
            return False
        self._deliver(name, position, content)
        return True

    def _keep(self, rule: HistoryRule) -> Keep:
        return Keep((self._codec.origin, next(self._numbers)), rule.size, rule.seconds, rule.max_bytes)

    # -- following ---------------------------------------------------------------------------------------------------

    def follow(self, name: str, *, subscribe: bool) -> None:
        """Begin to follow a topic.

        Args:
            name: the topic's name.
            subscribe: whether to subscribe to it on the broker; not if a listener's pattern covers it.
        """
        assert self._tasks is not None
        ready = self._ready[name] = anyio.Event()
        follower = self._followers[name] = Follower(
            name,
            functools.partial(self._read_or_retry, name),
            functools.partial(self._deliver_next, name, GrowingNumbers()),
            functools.partial(self._report_lost, name),
            self._start_soon,
        )
        note_asyncio()
        self._tasks.start_soon(self._begin, name, follower, ready, subscribe)

    def followed(self, name: str) -> LazyCoroutine[None]:
        """Return what waits until the broker delivers the messages of a topic that is followed."""
        ready = self._ready.get(name)
        return ALREADY_DONE if ready is None else LazyAwaitable(ready.wait)

    def unfollow(self, name: str) -> None:
        """Stop following a topic."""
        follower = self._followers.pop(name, None)
        if follower is not None:
            follower.close()
            del self._ready[name]

    def _start_soon(self, task: Callable[[], Any]) -> None:
        if self._tasks is not None:
            note_asyncio()
            self._tasks.start_soon(task)

    async def _begin(self, name: str, follower: Follower, ready: anyio.Event, subscribe: bool) -> None:
        try:
            with suppress(Exception):  # the broker is unavailable; `connected` lets the follower catch up later
                await follower.begin()
            if self._followers.get(name) is follower and self._relay is not None:
                if subscribe:
                    self._relay.subscribe(name)
                    await self._relay.subscribed(name)
                follower.catch_up()
        finally:  # also when the app stops meanwhile
            ready.set()

    def has_delivered(self, name: str, position: Position) -> bool:
        """Return whether the subscribers here have the message at a position already."""
        follower = self._followers.get(name)
        return follower is not None and follower.has_delivered(position)

    def receive(self, envelope: Envelope, data: bytes, position: Position, *, is_next: bool) -> None:
        """Handle a verified envelope; it goes to the topic's follower, if the topic has subscribers here.

        Args:
            envelope: the envelope.
            data: its bytes.
            position: its position, which is not verified.
            is_next: whether the envelope is certainly no repetition. Otherwise the history is read.
        """
        follower = self._followers.get(envelope.topic)
        if follower is None:
            self._codec.forget(data)
        elif is_next:
            follower.receive(data, position, envelope)
        else:
            follower.catch_up()

    def _deliver_next(
        self, name: str, seen: GrowingNumbers, data: bytes, position: Position, envelope: Envelope | None
    ) -> None:
        """Deliver a message that was received, or was read from the history if there is no envelope.

        An invalid message in the history takes a position, so it is reported as lost.
        """
        if envelope is None:
            content = self._codec.decode_kept(name, data, seen)
        else:
            content = envelope.message
            if envelope.number:
                seen.add(envelope.origin, envelope.number)
        self._codec.forget(data)
        self.lost += content is None
        self._deliver(name, position, content)

    def _report_lost(self, name: str, position: Position, reason: str) -> None:
        self.lost += 1
        if self.lost & (self.lost - 1) == 0:  # at 1, 2, 4, 8, ...
            place = one_line(str(position))
            logger.error(
                "messages on %r up to %s are lost, %s (%d so far)",
                name,
                place,
                reason,
                self.lost,
                extra=log_fields(
                    "history.messages_lost", topic=name, position=str(position), reason=reason, count=self.lost
                ),
            )
        self._deliver(name, position, None)

    async def claim(self, moment: int, name: str) -> bool:
        """Return whether an id is used for the first time; see `claims`.

        Raises:
            BrokerUnavailable: the broker does not answer.
            TooManyClaims: there are too many ids.
        """
        try:
            return await claim(moment, name, self._relay, self._memory)
        except PywsappError:
            raise
        except Exception as exc:
            raise BrokerUnavailable(f"the broker is lost: {exc!r}") from exc

    # -- reading -----------------------------------------------------------------------------------------------------

    async def read_missed(self, name: str, since: Position | None, max_bytes: int, last: int | None = None) -> Kept:
        """Return the first messages that a history keeps after a position, for None those that it keeps at all.

        If they are all of them, they reach up to what has been delivered in this process when this returns.

        Args:
            name: the topic's name.
            since: the position.
            max_bytes: the message that reaches this number of bytes is the last one.
            last: without a position, begin with the last so many messages; None for all.

        Raises:
            BrokerUnavailable: the history cannot be read.
        """
        if since is not None:
            return await self._read_current(name, since, max_bytes)
        epoch, offset = (await self._read(name, None)).position
        start = Position(epoch, 0 if last is None else max(0, offset - last))
        return (await self._read_current(name, start, max_bytes))._replace(complete=True)

    def position(self, name: str) -> Position | None:
        """Return the position up to which the subscribers here have everything; None if it is not known."""
        if self._relay is None:
            return self._memory.read(name, None).position
        follower = self._followers.get(name)
        return None if follower is None else follower.position

    def prepare_missed(
        self, name: str, kept: Kept, seen: GrowingNumbers, form: DeliveryForm | None = None
    ) -> Iterator[Missed]:
        """Yield what a client gets of messages that were read, each prepared when it is its turn.

        Args:
            name: the topic's name.
            kept: what was read.
            seen: the numbers of the messages that the client got of it before.
            form: the delivery form of the client; None for what `wrap` makes.
        """
        rule = self.rule(name)
        assert rule is not None
        prepare = rule.prepare if form is None else form.prepare_once
        epoch = kept.position.epoch
        if not kept.complete:
            at = position_before(kept)
            yield Missed(at, prepare(name, at, None), is_lost=True)
        for offset, data in kept.messages:
            at = Position(epoch, offset)
            content = self._codec.decode_kept(name, data, seen)
            yield Missed(at, prepare(name, at, content), is_lost=content is None)

    async def _read_current(self, name: str, since: Position | None, max_bytes: int) -> Kept:
        """Read a topic's history, if it is not longer up to what has been delivered here when this returns."""
        follower = self._followers.get(name)
        if follower is None:
            return await self._read(name, since, max_bytes)
        for _ in range(_MAX_ROUNDS):
            before = follower.position
            with follower.recording() as delivered:
                kept = await self._read(name, since, max_bytes)
            here, (epoch, last) = follower.position, kept.position
            if here is None or here == before or kept.position.covers(here) or has_more(kept):
                return kept
            later = [(at.offset, data) for at, data in delivered if at.epoch == epoch and at.offset > last]
            if here.epoch == epoch and len(later) == here.offset - last:
                return Kept(here, [*kept.messages, *later], kept.complete)
        raise BrokerUnavailable(f"the history of {name!r} does not reach the messages that were delivered meanwhile")

    async def _read(self, name: str, since: Position | None, max_bytes: int = _PAGE_BYTES) -> Kept:
        if self._relay is None:
            return self._memory.read(name, since, max_bytes)
        connection = self._relay.connection
        if connection is None:
            raise BrokerUnavailable(f"{self._relay.broker.name} is not connected")
        return await self._read_from(connection, name, since, max_bytes)

    async def _read_from(self, connection: BrokerConnection, name: str, since: Position | None, max_bytes: int) -> Kept:
        try:
            async with self._reading:
                with anyio.fail_after(_READ_SECONDS):
                    return await connection.read_history(name, since, max_bytes)
        except Exception as exc:
            raise BrokerUnavailable(f"reading the history of {name!r} failed: {exc!r}") from exc

    async def _read_or_retry(self, name: str, since: Position | None) -> Kept:
        """Read for a follower; if that fails although the broker is connected, let it catch up after a short time."""
        try:
            return await self._read(name, since)
        except BrokerUnavailable:
            if self._relay is not None and self._relay.connection is not None and name not in self._retrying:
                self._retrying.add(name)
                self._start_soon(functools.partial(self._retry, name))
            raise

    async def _retry(self, name: str) -> None:
        await anyio.sleep(_RETRY_SECONDS)
        self._retrying.discard(name)
        follower = self._followers.get(name)
        if follower is not None:
            follower.catch_up()
