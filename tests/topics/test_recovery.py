"""A follower beside a model: no message is missed or delivered twice without a report."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from pywsapp.brokers.base import MIB, Kept, Position
from pywsapp.brokers.envelope import Envelope
from pywsapp.topics.history import recovery
from pywsapp.topics.history.recovery import Follower

# -- a follower, beside a broker that loses, forgets, restarts and is slow ---------------------------------------------


class Read:
    """A reading of the history, which waits for the model to supply the result."""

    def __init__(self, since: Position | None) -> None:
        self.since = since
        self.kept: Kept | None = None

    def __await__(self) -> Generator[Read, Kept, Kept]:
        return (yield self)


class Server:
    """The history of one topic on a broker."""

    def __init__(self) -> None:
        self.number = 0
        self.begin_anew()

    def begin_anew(self) -> None:
        self.number += 1
        self.epoch = f"e{self.number}"
        self.messages: list[bytes] = []
        self.removed = 0

    @property
    def position(self) -> Position:
        return Position(self.epoch, len(self.messages))

    def publish(self) -> tuple[bytes, Position]:
        position = Position(self.epoch, len(self.messages) + 1)
        self.messages.append(str(position).encode())
        return self.messages[-1], position

    def read(self, since: Position | None, number: int = 10**9) -> Kept:
        """Return a number of messages after a position."""
        if since is None:
            return Kept(self.position, (), True)
        known = self.position.covers(since)
        first = max(self.removed, since.offset if known else 0)
        found = [(offset + 1, self.messages[offset]) for offset in range(first, len(self.messages))]
        return Kept(self.position, found[:number], known and first == since.offset)


class Subscribers:
    """The subscribers behind one follower; they check what is delivered."""

    def __init__(self) -> None:
        self.reached: Position | None = None
        self.got: set[Position] = set()
        self.left = False

    def deliver(self, data: bytes, position: Position, envelope: Envelope | None) -> None:
        assert envelope is None or envelope.message == data, "another message than that of the envelope"
        assert not self.left, "a follower that was given up delivers"
        assert data == str(position).encode(), "another message than that of the place"
        assert position not in self.got, "twice"
        self.got.add(position)
        if self.reached is not None:
            assert position == (self.reached.epoch, self.reached.offset + 1), "skipped without a report"
        self.reached = position

    def report_lost(self, position: Position, reason: str) -> None:
        assert not self.left, "a follower that was given up delivers"
        assert self.reached is None or not self.reached.covers(position), "nothing is lost"
        self.reached = position


class Followers(RuleBasedStateMachine):
    @initialize(held=st.sampled_from([(2, 1000), (1000, 10), (1000, 1000)]))
    def begin(self, held: tuple[int, int]) -> None:
        recovery._MAX_HELD, recovery._MAX_HELD_BYTES = held
        self.server = Server()
        self.wire: deque[tuple[bytes, Position]] = deque()
        self.tasks: list[tuple[Coroutine[Read, Kept, None], Read]] = []
        self.steps = 0
        self.follow()

    def follow(self) -> None:
        self.subscribers = subscribers = Subscribers()
        self.follower = Follower("t", self.read, subscribers.deliver, subscribers.report_lost, self.start)

    def start(self, task: Callable[[], Awaitable[None]]) -> None:
        coroutine = task()
        assert isinstance(coroutine, Coroutine)
        self.go_on(coroutine, coroutine.send, None)

    def go_on(self, task: Coroutine[Read, Kept, None], step: Callable[[Any], Read], value: Any) -> None:
        with suppress(StopIteration):
            self.tasks.append((task, step(value)))

    async def read(self, since: Position | None) -> Kept:
        return await Read(since)

    @rule()
    def begin_to_follow(self) -> None:
        self.start(self.follower.begin)

    @rule(lost=st.sampled_from([False, False, False, True]))
    def publish(self, lost: bool) -> None:
        message = self.server.publish()
        if not lost:
            self.wire.append(message)

    @rule(number=st.integers(1, 5))
    def messages_arrive(self, number: int) -> None:
        for _ in range(min(number, len(self.wire))):
            data, position = self.wire.popleft()
            self.follower.receive(data, position, Envelope("t", data))

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), number=st.sampled_from([1, 2, 1000]))
    def the_history_is_read(self, data: st.DataObject, number: int) -> None:
        _, read = data.draw(st.sampled_from(self.tasks))
        read.kept = read.kept or self.server.read(read.since, number)

    @precondition(lambda self: any(read.kept for _, read in self.tasks))
    @rule(data=st.data())
    def the_answer_arrives(self, data: st.DataObject) -> None:
        ready = [number for number, (_, read) in enumerate(self.tasks) if read.kept]
        task, read = self.tasks.pop(data.draw(st.sampled_from(ready)))
        self.go_on(task, task.send, read.kept)

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def reading_fails(self, data: st.DataObject) -> None:
        task, read = self.tasks.pop(data.draw(st.integers(0, len(self.tasks) - 1)))
        try:
            self.go_on(task, task.throw, OSError("removed"))
        except OSError:
            assert read.since is None, "only begin raises it"

    @rule()
    def the_connection_is_a_new_one(self) -> None:
        self.wire.clear()
        self.follower.catch_up()

    @rule()
    def the_broker_restarts(self) -> None:
        self.server.begin_anew()

    @rule(number=st.integers(1, 5))
    def messages_expire(self, number: int) -> None:
        self.server.removed = min(self.server.removed + number, len(self.server.messages))

    @rule()
    def all_leave_and_others_come(self) -> None:
        self.follower.close()
        self.subscribers.left = True
        self.follow()

    def teardown(self) -> None:
        if not hasattr(self, "server"):
            return
        self.come_to_rest()
        recovery._MAX_HELD, recovery._MAX_HELD_BYTES = 1000, 4 * MIB

    def come_to_rest(self) -> None:
        self.start(self.follower.begin)
        self.follower.catch_up()
        self.publish(lost=False)
        steps = 0
        while self.tasks or self.wire:
            self.messages_arrive(1)
            if self.tasks:
                task, read = self.tasks.pop(0)
                self.go_on(task, task.send, read.kept or self.server.read(read.since, 3))
            steps += 1
            assert steps < 200, "it reads on for ever"
        assert self.follower.position == self.server.position
        assert self.subscribers.reached in (None, self.server.position)


TestFollowers = Followers.TestCase
TestFollowers.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


# -- the position of a topic without messages ------------------------------------------------------------------------


def test_a_follower_of_a_topic_without_messages_keeps_the_latest_position() -> None:
    """An old position of a topic without messages is not valid for ever, see `brokers.redis.history`."""
    reads: list[Position | None] = []

    async def read(since: Position | None) -> Kept:
        reads.append(since)
        return Kept(Position(f"z{len(reads)}", 0), (), True)

    def start(task: Callable[[], Awaitable[None]]) -> None:
        coroutine = task()
        assert isinstance(coroutine, Coroutine)
        with suppress(StopIteration):
            coroutine.send(None)

    subscribers = Subscribers()
    follower = Follower("t", read, subscribers.deliver, subscribers.report_lost, start)
    for _ in range(3):
        follower.catch_up()
    assert reads == [None, Position("z1", 0), Position("z2", 0), Position("z3", 0)]
    assert (follower.position, subscribers.reached) == (Position("z4", 0), None)
