"""Broadcast listeners: called with the messages of all processes, in order, without disturbing others."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.topic_bench import Bench, until
from support.topic_rooms import Rooms, expect, running
from support.waiting import until_blocked

from pywsapp import Topic
from pywsapp.brokers.memory import MemoryBroker
from pywsapp.exceptions import ConfigurationError
from pywsapp.topics import listeners as listeners_module
from pywsapp.topics.registry import TopicRegistry

pytestmark = pytest.mark.anyio


class Notes:
    """A listener, def or async, that records its calls."""

    def __init__(self) -> None:
        self.received: list[tuple[str, Any]] = []

    def note(self, topic: Topic, message: Any) -> None:
        self.received.append((topic.name, message))

    async def note_later(self, topic: Topic, message: Any) -> None:
        await anyio.lowlevel.checkpoint()
        self.note(topic, message)

    __call__ = note_later


async def received_all(notes: Notes, number: int) -> None:
    await until(lambda: len(notes.received) == number)


@pytest.mark.parametrize("way", ["note", "note_later", "__call__"])
@pytest.mark.parametrize("history", [False, True], ids=["plain", "kept"])
async def test_listeners_get_the_messages_of_all_processes_in_order(way: str, history: bool) -> None:
    broker = Bench()
    one, two = Rooms(broker), Rooms(broker)
    notes = Notes(), Notes()
    for rooms, note in zip((one, two), notes, strict=True):
        rooms.app.on_broadcast("room:*")(note if way == "__call__" else getattr(note, way))
        if history:
            rooms.app.history("room:*")
    async with running(one, two) as clients:
        _, conn = await one.connect(clients, "room:1")
        assert "subscribe" not in broker.calls, "the pattern covers it already"
        for number in range(5):
            await one.topic("room:1").broadcast(f"one {number}")
        await two.topic("room:1").broadcast(b"two")
        await two.topic("elsewhere").broadcast("x")
        await two.topic("room:2").broadcast("three")
        wanted = [*(("room:1", f"one {number}") for number in range(5)), ("room:1", b"two"), ("room:2", "three")]
        for note in notes:
            await received_all(note, len(wanted))
            assert note.received == wanted
        one.topic("room:1").remove(conn)
        await two.topic("room:1").broadcast("no subscriber is left")
        await until(lambda: len(notes[0].received) == len(wanted) + 1)
        assert "unsubscribe" not in broker.calls


@pytest.mark.parametrize("history", [False, True], ids=["plain", "kept"])
async def test_listeners_without_a_broker(history: bool) -> None:
    rooms, notes, later = Rooms(), Notes(), Notes()
    rooms.app.on_broadcast("*")(notes.note)
    rooms.app.on_broadcast("t")(later.note_later)
    if history:
        rooms.app.history("*")
    async with running(rooms):
        rooms.topic().broadcast("x")
        rooms.topic("u").broadcast("y")
        assert notes.received == [("t", "x"), ("u", "y")]
        await until(lambda: later.received)
        assert later.received == [("t", "x")]


async def test_an_exception_of_a_listener_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    rooms, notes = Rooms(MemoryBroker()), Notes()

    @rooms.app.on_broadcast("t")
    def raising(topic: Topic, message: Any) -> None:
        raise LookupError(message)

    @rooms.app.on_broadcast("t")
    async def raising_later(topic: Topic, message: Any) -> None:
        raise LookupError(message)

    rooms.app.on_broadcast("t")(notes.note)
    async with running(rooms) as clients:
        client, _ = await rooms.connect(clients)
        for number in range(3):
            rooms.topic().broadcast(str(number))
        await expect(client, "0", "1", "2")
        await until(lambda: len(caplog.records) == 6)
        assert all("raising" in message and "failed" in message for message in caplog.messages)
        assert [message for _, message in notes.received] == ["0", "1", "2"]


async def test_a_slow_listener_skips_the_newest_messages_which_are_counted_and_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners_module, "MAX_WAITING", 3)
    rooms, gate, received = Rooms(), anyio.Event(), []

    @rooms.app.on_broadcast("t")
    async def slow(topic: Topic, message: Any) -> None:
        await gate.wait()
        received.append(message)

    async with running(rooms) as clients:
        client, _ = await rooms.connect(clients)
        rooms.topic().broadcast("0")
        await until_blocked()
        for number in range(1, 12):
            rooms.topic().broadcast(str(number))
        await expect(client, *map(str, range(12)))
        gate.set()
        await until(lambda: len(received) == 4)
        assert received == ["0", "1", "2", "3"]
        assert [message.rpartition("slow is too slow: ")[2] for message in caplog.messages] == [
            f"skipped {number} messages so far" for number in (1, 2, 4, 8)
        ]


async def test_a_listener_can_broadcast() -> None:
    broker = MemoryBroker()
    one, two = Rooms(broker), Rooms(broker)

    @one.app.on_broadcast("question")
    def answer(topic: Topic, message: Any) -> None:
        one.topic("answer").broadcast(f"{message}? yes")

    async with running(one, two) as clients:
        client, _ = await two.connect(clients, "answer")
        two.topic("question").broadcast("really")
        await expect(client, "really? yes")


async def test_a_listener_that_awaits_nothing_does_not_block_others() -> None:
    rooms = Rooms()

    @rooms.app.on_broadcast("t")
    async def again(topic: Topic, message: Any) -> None:
        topic.broadcast("and again")

    async with running(rooms) as clients:
        rooms.topic().broadcast("once")
        client, _ = await rooms.connect(clients)
        await expect(client, "and again", "and again")
        await client.close()


@pytest.mark.parametrize("broker", [None, MemoryBroker()], ids=["alone", "broker"])
async def test_listeners_must_be_registered_before_the_app_runs(broker: MemoryBroker | None) -> None:
    rooms, notes = Rooms(broker), Notes()
    async with running(rooms):
        with pytest.raises(ConfigurationError, match="before the app runs"):
            rooms.app.on_broadcast("t")(notes.note)
    rooms.app.on_broadcast("t")(notes.note_later)
    with pytest.raises(ConfigurationError, match="not a topic pattern"):
        rooms.app.on_broadcast("t*")(notes.note)


async def test_a_listener_is_not_too_slow_when_the_app_does_not_run(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    rooms, notes = Rooms(), Notes()
    rooms.app.on_broadcast("t")(notes.note_later)
    rooms.topic().broadcast("too early")
    assert ["has no receiver" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize(
    ("patterns", "fewest"),
    [
        ([], []),
        (["a"], ["a"]),
        (["a", "a"], ["a"]),
        (["a:*", "a:b", "a:b:*", "a"], ["a:*", "a"]),
        (["a:*", "*", "b"], ["*"]),
        (["ab:*", "a:*"], ["ab:*", "a:*"]),
        (["*", "*"], ["*"]),
    ],
)
def test_the_fewest_patterns_are_subscribed(patterns: list[str], fewest: list[str]) -> None:
    registry = TopicRegistry()
    for pattern in patterns:
        registry.listeners.add(pattern, print)
    assert registry.listeners.patterns == fewest
