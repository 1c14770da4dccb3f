"""The positions of a subscription: whatever happens, a program that keeps them gets each message once, in order."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pywsapp import MessagesLost, QueueFull
from pywsapp._connecting.topics.subscription import TopicSubscription

pytestmark = pytest.mark.once
BUFFER = 3
FILTERED = 3  # the server leaves out every third message


class Driver:
    """What a subscription needs of its driver, when it is full."""

    def leave(self, subscription: TopicSubscription[Any], failure: Exception) -> None:
        subscription._end(failure)


def at_once(work: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


class Positions(RuleBasedStateMachine):
    """A server with a history, a connection that can be lost, and a program that can be restarted."""

    def __init__(self) -> None:
        super().__init__()
        self.published = 0
        self.kept_from = 1  # the first message that the history keeps
        self.sent = 0  # the last message that was sent on the connection
        self.taken: list[int] = []
        self.excused: set[int] = set()  # messages that were reported as lost
        self.position = 0
        self.connect(None)
        self.subscription._accepted({"position": "0-a"})

    def connect(self, since: str | None) -> None:
        fields: dict[str, Any] = {} if since is None else {"since": since}
        driver: Any = Driver()
        self.subscription: TopicSubscription[int] = TopicSubscription(
            driver, "t", fields, limit=BUFFER, convert=None, on_lost=None
        )

    def subscribe(self) -> None:
        """Answer the request of the subscription as a server does."""
        since = self.subscription._request().get("since")
        self.sent = self.published if since is None else int(since.partition("-")[0])
        if since is not None and self.sent + 1 < self.kept_from:
            self.sent = self.kept_from - 1
            self.subscription._receive({"type": "lost", "position": f"{self.sent}-a"})
        while self.sent < self.published:
            self.send()
        if not self.subscription._queue.has_ended:
            self.subscription._accepted({"position": f"{self.sent}-a"})

    @rule()
    def publish(self) -> None:
        self.published += 1

    @rule()
    def drop_old_ones(self) -> None:
        self.kept_from = max(self.kept_from, self.published - 1)

    @precondition(lambda self: self.sent < self.published)
    @rule()
    def send(self) -> None:
        self.sent += 1
        if self.sent % FILTERED and not self.subscription._queue.has_ended:
            fields = {"type": "message", "position": f"{self.sent}-a", "data": self.sent}
            self.subscription._receive(fields)

    @rule()
    def lose_connection(self) -> None:
        self.subscription._disconnected()
        if not self.subscription._queue.has_ended:
            self.subscribe()

    @precondition(lambda self: self.subscription._queue.items)
    @rule()
    def take(self) -> None:
        before = self.taken[-1] if self.taken else 0
        try:
            message = at_once(self.subscription._take())
        except MessagesLost as exc:
            last = int(str(exc.position).partition("-")[0])
            self.excused |= set(range(before + 1, last + 1))
        else:
            assert message.position == f"{message.data}-a"
            self.taken.append(message.data)

    @precondition(lambda self: self.subscription._queue.has_ended and not self.subscription._queue.items)
    @rule()
    def notice_the_end(self) -> None:
        assert isinstance(self.subscription._queue.failure, QueueFull)
        self.restart()

    @rule()
    def restart(self) -> None:
        """The program ends, and begins again with the position that it has kept."""
        position = self.subscription.position
        self.connect(position)
        self.subscribe()

    @invariant()
    def nothing_is_missing_or_doubled(self) -> None:
        last = self.taken[-1] if self.taken else 0
        assert self.taken == [n for n in range(1, last + 1) if n not in self.excused and n % FILTERED]

    @invariant()
    def the_position_is_that_of_what_was_taken(self) -> None:
        position = int(str(self.subscription.position).partition("-")[0])
        last = self.taken[-1] if self.taken else 0
        passed = set(range(last + 1, position + 1))
        assert position >= max(last, self.position), "a position never goes back"
        assert {number for number in passed if number % FILTERED} <= self.excused
        self.position = position


Positions.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
test_positions = Positions.TestCase
