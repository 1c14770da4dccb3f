"""Presence watchers may be def, async def or in_thread; async ones are called in order, in bounded tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest
from support.topic_bench import until
from support.topic_rooms import Rooms, running
from support.waiting import until_blocked

from pywsapp import PresenceDiff, Topic
from pywsapp.component import in_thread
from pywsapp.exceptions import ConfigurationError
from pywsapp.topics import listeners as listeners_module
from pywsapp.topics.presence import service

pytestmark = pytest.mark.anyio

Watcher = Callable[[Topic, PresenceDiff], Any]


@pytest.fixture(autouse=True)
def short_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_TICK_SECONDS", 0.001)


def watcher_of(kind: str, seen: list[tuple[str, str]]) -> Watcher:
    def note(topic: Topic, diff: PresenceDiff) -> None:
        seen.extend((topic.name, key) for key in diff.joined)

    async def note_later(topic: Topic, diff: PresenceDiff) -> None:
        await anyio.lowlevel.checkpoint()
        note(topic, diff)

    @in_thread
    def note_in_thread(topic: Topic, diff: PresenceDiff) -> None:
        anyio.from_thread.run_sync(note, topic, diff)

    return {"def": note, "async def": note_later, "in_thread": note_in_thread}[kind]


@pytest.mark.parametrize("kind", ["def", "async def", "in_thread"])
async def test_a_watcher_gets_the_changes_in_order(kind: str) -> None:
    rooms, seen = Rooms(), list[tuple[str, str]]()
    rooms.app.on_presence("t")(watcher_of(kind, seen))
    async with running(rooms) as clients:
        for number in range(5):
            _, conn = await rooms.connect(clients)
            rooms.topic().track(conn, f"user {number}")
            rooms.topic().present()  # reports the change at once
        await until(lambda: len(seen) == 5)
        assert seen == [("t", f"user {number}") for number in range(5)]


async def test_a_watcher_that_fails_is_logged_and_called_again(caplog: pytest.LogCaptureFixture) -> None:
    rooms, seen = Rooms(), list[tuple[str, str]]()

    @rooms.app.on_presence("t")
    async def failing(topic: Topic, diff: PresenceDiff) -> None:
        raise LookupError("no such user")

    rooms.app.on_presence("t")(watcher_of("async def", seen))
    async with running(rooms) as clients:
        for number in range(2):
            _, conn = await rooms.connect(clients)
            rooms.topic().track(conn, f"user {number}")
            rooms.topic().present()
        await until(lambda: len(seen) == 2 and len(caplog.records) == 2)
        assert all("failing failed" in message for message in caplog.messages)


async def test_a_slow_watcher_skips_the_newest_changes_which_are_counted_and_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners_module, "MAX_WAITING", 2)
    rooms, gate, seen = Rooms(), anyio.Event(), list[str]()

    @rooms.app.on_presence("t")
    async def slow(topic: Topic, diff: PresenceDiff) -> None:
        await gate.wait()
        seen.extend(diff.joined)

    async with running(rooms) as clients:
        for number in range(8):
            _, conn = await rooms.connect(clients)
            rooms.topic().track(conn, f"user {number}")
            rooms.topic().present()
            await until_blocked()
        assert rooms.app.topics.stats.skipped == 5
        gate.set()
        await until(lambda: len(seen) == 3)
        assert seen == ["user 0", "user 1", "user 2"]
        assert [message.rpartition("slow is too slow: ")[2] for message in caplog.messages] == [
            f"skipped {number} presence changes so far" for number in (1, 2, 4)
        ]


async def test_watchers_are_registered_before_the_app_runs() -> None:
    rooms = Rooms()
    async with running(rooms):
        with pytest.raises(ConfigurationError, match=r"App\.on_presence must be called before the app runs"):
            rooms.app.on_presence("t")(print)
