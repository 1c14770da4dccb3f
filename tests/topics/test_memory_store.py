"""The histories in memory beside a model that keeps everything, and their bounds."""

from __future__ import annotations

import tracemalloc
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.serving import GUARD

from pywsapp.brokers.base import HISTORY_BYTES, MIB, Keep, Position
from pywsapp.exceptions import ConfigurationError
from pywsapp.options import Options
from pywsapp.topics.history import memory_store
from pywsapp.topics.history.memory_store import (
    MAX_BYTES,
    MAX_PUBLISHERS,
    MAX_TOPICS,
    MESSAGE_BYTES,
    PUBLISHER_BYTES,
    REMEMBERED,
    TOPIC_BYTES,
    MemoryHistory,
    keep_expiring,
)
from pywsapp.topics.history.rules import HistoryRule, wrap_as_json
from pywsapp.topics.names import TopicPattern

TOPICS = st.sampled_from("abcd")
PUBLISHERS = st.sampled_from(["p", "q"])


class Clock:
    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Model:
    """Everything that was ever published on one topic, and the positions that readers were given."""

    def __init__(self) -> None:
        self.log: list[bytes] = []
        self.given: dict[Position, int] = {}  # each with the number of messages that were published before it
        self.numbers: dict[str, int] = {}
        self.removed = 0  # messages that have expired, or were too many or too large
        self.messages_expire = self.expires = float("inf")

    def give(self, position: Position) -> None:
        assert self.given.setdefault(position, len(self.log)) == len(self.log), "a position has two meanings"


class Histories(RuleBasedStateMachine):
    """A history with small or with large bounds, and readers that come back with any position they were given."""

    @initialize(max_topics=st.sampled_from([2, 1000]), max_bytes=st.sampled_from([5000, MAX_BYTES]))
    def begin(self, max_topics: int, max_bytes: int) -> None:
        self.clock = Clock(1000.0)
        self.max_topics, self.max_bytes = max_topics, max_bytes
        self.history = MemoryHistory(self.clock, max_topics, max_bytes)
        self.models = {topic: Model() for topic in "abcd"}

    @property
    def is_bounded(self) -> bool:
        return self.max_topics < 1000 or self.max_bytes < MAX_BYTES

    def model(self, topic: str) -> Model:
        model = self.models[topic]
        if model.messages_expire <= self.clock.now:
            model.removed = len(model.log)
        if model.expires <= self.clock.now or topic not in self.history.topics():
            model.numbers.clear()
        return model

    @rule(seconds=st.sampled_from([0.5, 1.0, 5.0, 60.0, 4000.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(
        topic=TOPICS,
        publisher=PUBLISHERS,
        step=st.integers(-1, 2),
        size=st.integers(1, 4),
        seconds=st.integers(1, 60),
        length=st.sampled_from([1, 700, 4000]),
    )
    def append(self, topic: str, publisher: str, step: int, size: int, seconds: int, length: int) -> None:
        self.history.expire()
        model = self.model(topic)
        number = max(model.numbers.get(publisher, 0) + step, 1)  # 0 marks an id
        data = b"%s %d %d " % (publisher.encode(), number, len(model.log)) + b"x" * length
        position = self.history.append(topic, data, Keep((publisher, number), size, seconds, 3 * (MESSAGE_BYTES + 800)))
        if number <= model.numbers.get(publisher, -1):
            assert position is None, "a message was taken twice"
            return
        assert position is not None, "a new message was not taken"
        model.numbers[publisher] = number
        model.log.append(data)
        kept = model.log[max(model.removed, len(model.log) - size) :]
        while sum(len(message) + MESSAGE_BYTES for message in kept) > 3 * (MESSAGE_BYTES + 800):
            kept.pop(0)
        model.removed = len(model.log) - len(kept)
        model.messages_expire = self.clock.now + seconds
        model.expires = self.clock.now + seconds * REMEMBERED
        model.give(position)

    @rule(topic=TOPICS, data=st.data(), limit=st.sampled_from([None, 1, 800]))
    def read(self, topic: str, data: st.DataObject, limit: int | None) -> None:
        self.history.expire()
        model = self.model(topic)
        since = data.draw(st.sampled_from([*model.given, Position("strange", 3)]))
        kept = self.history.read(topic, since, limit)
        model.give(kept.position)
        before = model.given.get(since, 0)
        found = [message for _, message in kept.messages]
        there = model.log[model.removed :]
        if not self.is_bounded and since.epoch == kept.position.epoch:
            assert kept.complete == (before >= model.removed), "what is kept can be recovered"
        if kept.complete:
            assert found == model.log[before:][: len(found)], "messages are missing without a report"
            assert limit is not None or len(found) == len(model.log) - before
        else:
            assert found == [one for one in there if one in found][: len(found)]
        if kept.messages:
            first = kept.messages[0][0]
            assert [offset for offset, _ in kept.messages] == list(range(first, first + len(found)))
            assert limit is None or sum(len(one) for one in found[:-1]) < limit
            assert limit is not None or kept.messages[-1][0] == kept.position.offset

    @rule(topic=TOPICS)
    def read_the_position(self, topic: str) -> None:
        before = self.history.topics()
        kept = self.history.read(topic, None)
        self.models[topic].give(kept.position)
        assert kept[1:] == ((), True)
        assert set(self.history.topics()) <= set(before), "reading creates nothing"

    @invariant()
    def the_bounds_hold(self) -> None:
        if not hasattr(self, "history"):
            return
        topics = self.history._topics
        assert len(topics) <= self.max_topics
        assert self.history.size <= self.max_bytes
        assert self.history.size == sum(
            TOPIC_BYTES
            + len(name)
            + sum(len(data) + MESSAGE_BYTES for _, data in one.messages)
            + PUBLISHER_BYTES * len(one.last_numbers)
            for name, one in topics.items()
        )
        assert self.is_bounded or not self.history.forgotten
        assert len(self.history._due) <= 2 * len(topics) + 1001


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


# -- reading creates nothing -------------------------------------------------------------------------------------------


def test_reading_made_up_topics_takes_no_memory() -> None:
    history = MemoryHistory(Clock())
    tracemalloc.start()
    for number in range(50_000):
        history.read(f"asked:{number}", None)
        history.read(f"asked:{number}", Position("0", number))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert history.topics() == []
    assert used < 100_000


def test_the_position_of_a_topic_without_messages_is_before_its_first_one() -> None:
    clock = Clock()
    history = MemoryHistory(clock)
    start = history.read("a", None).position
    assert start.offset == 0
    for number in range(10):  # other topics come and go, which begins new epochs
        history.append(f"other:{number}", b"x", Keep(("p", 1), 5, 1))
        clock.now += REMEMBERED
    assert history.read("a", None).position.epoch != start.epoch
    assert history.read("a", start).complete
    history.append("a", b"first", Keep(("p", 1), 5, 60))
    kept = history.read("a", start)
    assert (kept.complete, kept.messages) == (True, ((1, b"first"),))
    clock.now += 60 * REMEMBERED
    kept = history.read("a", start)
    assert history.topics() == []
    assert not kept.complete, "the first message is forgotten"
    history.append("a", b"second", Keep(("p", 2), 5, 60))
    assert not history.read("a", start).complete
    assert history.read("a", kept.position).messages == ((1, b"second"),)


def test_the_number_of_remembered_epochs_is_bounded() -> None:
    clock = Clock()
    history = MemoryHistory(clock)
    start = history.read("a", None).position
    for number in range(1000):
        history.append(f"other:{number}", b"x", Keep(("p", 1), 5, 1))
        clock.now += REMEMBERED
    assert len(history._epochs) == memory_store._MAX_EPOCHS
    assert not history.read("a", start).complete


# -- what is kept, and how long ----------------------------------------------------------------------------------------


def test_messages_and_topics_expire_when_they_should() -> None:
    clock = Clock()
    history = MemoryHistory(clock)
    for number in range(100):
        history.append(f"t:{number}", bytes(1000), Keep(("p", 1), 5, 300))
    full = history.size
    clock.now = 299.9
    history.expire()
    assert history.size == full
    clock.now = 300
    history.expire()
    assert history.size < full - 100 * 1000, "the messages are gone"
    assert len(history.topics()) == 100, "the positions are remembered"
    clock.now = 300 * REMEMBERED - 0.1
    history.expire()
    assert len(history.topics()) == 100
    clock.now = 300 * REMEMBERED
    history.expire()
    assert (history.topics(), history.size, history._due) == ([], 0, [])


def test_each_message_makes_its_topic_live_longer_or_shorter() -> None:
    clock = Clock()
    history = MemoryHistory(clock)
    history.append("longer", b"x", Keep(("p", 1), 5, 10))
    history.append("shorter", b"x", Keep(("p", 1), 5, 1000))
    clock.now = 9
    history.append("longer", b"y", Keep(("p", 2), 5, 10))
    history.append("shorter", b"y", Keep(("p", 2), 5, 1))
    clock.now = 18.9
    history.expire()
    messages = {name: [data for _, data in one.messages] for name, one in history._topics.items()}
    assert messages == {"longer": [b"x", b"y"], "shorter": []}
    clock.now = 19
    history.expire()
    assert history.topics() == ["longer"]
    assert not history._topics["longer"].messages


def test_a_topic_with_many_changes_of_its_time_has_few_entries() -> None:
    clock = Clock()
    history = MemoryHistory(clock)
    for number in range(20_000):
        history.append("a", b"x", Keep(("p", number), 5, 100_000 - number))
    assert len(history._due) < 1100


@pytest.mark.anyio
async def test_memory_is_freed_without_any_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_store, "EXPIRE_SECONDS", 0.001)
    clock = Clock()
    history = MemoryHistory(clock)
    history.append("a", b"x", Keep(("p", 1), 5, 1))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_expiring, history)
        clock.now = REMEMBERED
        with anyio.fail_after(GUARD):
            while history.topics():
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_the_topic_that_was_silent_longest_is_forgotten_first() -> None:
    history = MemoryHistory(Clock(), max_topics=3)
    for name in ("a", "b", "c", "a", "d"):
        history.append(name, b"x", Keep(("p", history._appended), 5, 60))
    assert history.topics() == ["c", "a", "d"]
    assert history.forgotten == 1
    position = Position(history._topics["d"].epoch, 0)
    assert history.read("d", position).complete
    assert not history.read("b", position).complete


def test_the_bytes_of_a_topic_are_bounded() -> None:
    history = MemoryHistory(Clock())
    for number in range(100):
        history.append("a", bytes(1000), Keep(("p", number), 1000, 60, 10 * (1000 + MESSAGE_BYTES)))
    kept = history.read("a", Position(history._topics["a"].epoch, 90))
    assert (len(kept.messages), kept.complete) == (10, True)
    assert not history.read("a", Position(kept.position.epoch, 89)).complete
    history.append("a", bytes(20_000), Keep(("p", 100), 1000, 60, 10 * (1000 + MESSAGE_BYTES)))
    kept = history.read("a", kept.position)
    assert (kept.position.offset, kept.messages, kept.complete) == (101, (), False), "it has a position but is not kept"
    assert history.read("a", kept.position).complete


def test_the_bytes_of_all_topics_are_bounded() -> None:
    history = MemoryHistory(Clock(), max_bytes=MIB)
    tracemalloc.start()
    for number in range(20_000):
        history.append(f"t:{number % 500}", bytes(5000), Keep(("p", number), 100, 60))
        assert history.size <= MIB
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.5 * MIB < used < 1.3 * MIB, "what is counted is about what is used"
    history.append("huge", bytes(2 * MIB), Keep(("p", 1), 100, 60, 4 * MIB))
    assert history.topics() == ["huge"]
    assert history.size <= MIB
    assert history.read("huge", None).position.offset == 1


def test_small_messages_of_many_publishers_count_what_they_take() -> None:
    history = MemoryHistory(Clock(), max_bytes=4 * MIB)
    tracemalloc.start()
    for number in range(60_000):
        history.append(f"topic:{number % 300}", b"%d" % number, Keep((f"publisher {number}", number), 100, 60))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 6 * MIB


def test_the_number_of_remembered_publishers_is_bounded() -> None:
    history = MemoryHistory(Clock())
    history.append("a", b"x", Keep(("faithful", 1), 5, 60))
    for number in range(3 * MAX_PUBLISHERS):
        assert history.append("a", b"x", Keep((f"p{number}", 1), 5, 60)) is not None
        assert history.append("a", b"x", Keep((f"p{number}", 1), 5, 60)) is None
        assert history.append("a", b"x", Keep(("faithful", number + 2), 5, 60)) is not None
        assert history.append("a", b"x", Keep(("faithful", 1), 5, 60)) is None
    assert history.size < TOPIC_BYTES + 10 * MESSAGE_BYTES + MAX_PUBLISHERS * PUBLISHER_BYTES


def test_ids_of_messages_are_bounded_beside_the_publishers_and_count() -> None:
    history = MemoryHistory(Clock())
    history.append("a", b"x", Keep(("same name", 5), 1, 60))
    before = history.size
    assert history.append("a", b"x", Keep(("same name", 0), 1, 60)) is not None, "ids are in a table of their own"
    assert history.append("a", b"x", Keep(("same name", 0), 1, 60)) is None
    assert history.size == before + PUBLISHER_BYTES
    for number in range(3 * MAX_PUBLISHERS):
        assert history.append("a", b"x", Keep((f"id {number}", 0), 1, 60)) is not None
    assert history.append("a", b"x", Keep(("same name", 0), 1, 60)) is not None, "the oldest id is forgotten"
    assert history.append("a", b"x", Keep(("same name", 5), 1, 60)) is None, "the publisher is not"
    assert history.size == before + MAX_PUBLISHERS * PUBLISHER_BYTES


def test_the_default_bounds_are_those_of_the_options() -> None:
    assert (Options().max_histories, Options().max_history_bytes) == (MAX_TOPICS, MAX_BYTES)


# -- rules -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "seconds", "max_bytes"), [(1, 1e-9, 1), (1, 1, HISTORY_BYTES)])
def test_the_smallest_values_are_accepted(size: int, seconds: float, max_bytes: int) -> None:
    rule = HistoryRule(TopicPattern("*"), size, seconds, wrap_as_json, max_bytes)
    assert (rule.size, rule.seconds, rule.max_bytes) == (size, seconds, max_bytes)


@pytest.mark.parametrize("max_bytes", [0, -1, 1.5, "5", None, True])
def test_an_invalid_number_of_bytes(max_bytes: Any) -> None:
    with pytest.raises(ConfigurationError, match="keeps 1 byte or more"):
        HistoryRule(TopicPattern("*"), 5, 60, wrap_as_json, max_bytes)


@pytest.mark.parametrize("size", [0, -1, 1.5, "5", None, True])
def test_an_invalid_size(size: object) -> None:
    with pytest.raises(ConfigurationError, match="keeps 1 message or more"):
        HistoryRule(TopicPattern("*"), size, 60, wrap_as_json)  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), "60", None])
def test_an_invalid_time(seconds: object) -> None:
    with pytest.raises(ConfigurationError, match="for more than 0 seconds"):
        HistoryRule(TopicPattern("*"), 5, seconds, wrap_as_json)  # type: ignore[arg-type]
