"""The histories in memory beside a model that keeps everything."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from pywsapp.brokers.base import Keep, Position
from pywsapp.exceptions import ConfigurationError
from pywsapp.topics.history.memory_store import MAX_PUBLISHERS, REMEMBERED, UNUSED_SECONDS, MemoryHistory
from pywsapp.topics.history.rules import HistoryRule, wrap_as_json
from pywsapp.topics.names import TopicPattern

TOPICS = st.sampled_from("abc")
PUBLISHERS = st.sampled_from(["p", "q"])


@dataclass
class Model:
    """All messages of one topic in its epoch."""

    expires: float
    messages: list[bytes] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    messages_expire: float = math.inf
    removed: int = 0  # messages that have expired, or were too many
    epoch: str = ""


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.history = MemoryHistory(lambda: self.now)
        self.models: dict[str, Model] = {}
        self.epochs: set[str] = set()

    def model(self, topic: str) -> Model:
        model = self.models.get(topic)
        if model is None or model.expires <= self.now:
            model = self.models[topic] = Model(self.now + UNUSED_SECONDS)
        elif model.messages_expire <= self.now:
            model.removed = len(model.messages)
        return model

    def check(self, model: Model, position: Position) -> None:
        if not model.epoch:
            model.epoch = position.epoch
            assert model.epoch not in self.epochs, "an epoch came again"
            self.epochs.add(model.epoch)
        assert position == (model.epoch, len(model.messages))

    @rule(seconds=st.sampled_from([0.5, 1.0, 5.0, 60.0, 4000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        topic=TOPICS, publisher=PUBLISHERS, step=st.integers(-1, 2), size=st.integers(1, 4), seconds=st.integers(1, 60)
    )
    def append(self, topic: str, publisher: str, step: int, size: int, seconds: int) -> None:
        model = self.model(topic)
        number = max(model.numbers.get(publisher, 0) + step, 1)  # 0 marks an id
        data = b"%s %d" % (publisher.encode(), number)
        position = self.history.append(topic, data, Keep((publisher, number), size, seconds))
        if number <= model.numbers.get(publisher, -1):
            assert position is None, "a message was taken twice"
            return
        assert position is not None, "a new message was not taken"
        model.numbers[publisher] = number
        model.messages.append(data)
        model.removed = max(model.removed, len(model.messages) - size)
        model.messages_expire = self.now + seconds
        model.expires = self.now + seconds * REMEMBERED
        self.check(model, position)

    @rule(topic=TOPICS, offset=st.integers(0, 8), known=st.booleans())
    def read(self, topic: str, offset: int, known: bool) -> None:
        model = self.model(topic)
        known = known and bool(model.epoch)
        kept = self.history.read(topic, Position(model.epoch if known else "strange", offset))
        self.check(model, kept.position)
        there = [(number, model.messages[number - 1]) for number in range(model.removed + 1, len(model.messages) + 1)]
        if known and kept.position.covers(Position(model.epoch, offset)):
            assert list(kept.messages) == [message for message in there if message[0] > offset]
            assert kept.complete == (offset >= model.removed)
        else:
            assert list(kept.messages) == there
            assert not kept.complete

    @rule(topic=TOPICS)
    def read_the_position(self, topic: str) -> None:
        kept = self.history.read(topic, None)
        self.check(self.model(topic), kept.position)
        assert kept[1:] == ((), True)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_expired_topics_are_removed_little_by_little() -> None:
    clock = Clock()
    history = MemoryHistory(clock)
    for number in range(1000):
        history.append(f"old:{number}", b"x", Keep(("p", number), 5, 1))
    clock.now = REMEMBERED + 1
    for number in range(1000):
        history.append("new", b"x", Keep(("p", 1000 + number), 5, 1))
    assert history.topics() == ["new"]


def test_reading_random_topics_uses_memory_for_a_limited_time_only() -> None:
    clock = Clock()
    history = MemoryHistory(clock)
    for number in range(50_000):
        clock.now += 1
        history.read(f"asked:{number}", None)
    assert len(history.topics()) < 2 * UNUSED_SECONDS


def test_the_number_of_remembered_publishers_is_bounded() -> None:
    history = MemoryHistory(Clock())
    history.append("a", b"x", Keep(("faithful", 1), 5, 60))
    for number in range(3 * MAX_PUBLISHERS):
        assert history.append("a", b"x", Keep((f"p{number}", 1), 5, 60)) is not None
        assert history.append("a", b"x", Keep((f"p{number}", 1), 5, 60)) is None
        assert history.append("a", b"x", Keep(("faithful", number + 2), 5, 60)) is not None
        assert history.append("a", b"x", Keep(("faithful", 1), 5, 60)) is None


@pytest.mark.parametrize("size", [0, -1, 1.5, "5", None, True])
def test_an_invalid_size(size: object) -> None:
    with pytest.raises(ConfigurationError, match="keeps 1 message or more"):
        HistoryRule(TopicPattern("*"), size, 60, wrap_as_json)  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), "60", None])
def test_an_invalid_time(seconds: object) -> None:
    with pytest.raises(ConfigurationError, match="for more than 0 seconds"):
        HistoryRule(TopicPattern("*"), 5, seconds, wrap_as_json)  # type: ignore[arg-type]
