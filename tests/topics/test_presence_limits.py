"""Presence events of others: only what a process sends is applied, and what their users take is bounded."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from support.topic_bench import Bench, Inbox, until
from support.topic_rooms import Rooms, running

from pywsapp import Options, PresenceDiff
from pywsapp.brokers.base import MIB, Outgoing
from pywsapp.brokers.envelope import Envelope, encode_envelope
from pywsapp.topics.presence.events import MAX_META_BYTES, MAX_PROCESSES, PART, PROCESS_BYTES, Event
from pywsapp.topics.presence.view import LEASE_SECONDS, PresenceView

GOOD = [1.0, 1, None]


def view(max_bytes: int = 64 * MIB) -> PresenceView:
    made = PresenceView("me", lambda topic, event: None, lambda topic, diff: None, max_bytes)
    made.open("t", settled=True)
    return made


def state(**users: Any) -> Event:
    return {"presence": "state", "n": 1, "all": users}


INVALID: dict[str, Event] = {
    "no kind": {"n": 1},
    "a kind that is no text": {"presence": ["state"], "n": 1, "all": {}},
    "no number": {"presence": "state", "all": {}},
    "a negative number": {"presence": "state", "n": -1, "all": {}},
    "a huge number": {"presence": "diff", "n": 10**400, "set": {}},
    "a number that is none": {"presence": "diff", "n": True, "set": {}},
    "users that are a list": {"presence": "state", "n": 1, "all": [["ana", GOOD]]},
    "gone that is no list": {"presence": "diff", "n": 1, "set": {}, "gone": {"ana": 1}},
    "gone that are no keys": {"presence": "diff", "n": 1, "set": {}, "gone": [["ana"]]},
    "too many users": state(**{f"u{number}": GOOD for number in range(PART + 1)}),
    "too many gone": {"presence": "diff", "n": 1, "set": {}, "gone": ["x"] * (PART + 1)},
    "an empty key": state(**{"": GOOD}),
    "a long key": state(**{"x" * 201: GOOD}),
    "an entry that is too short": state(ana=[1.0, 1]),
    "an entry that is no list": state(ana={"at": 1}),
    "a time that overflows": state(ana=[10**400, 1, None]),
    "a time that is no number": state(ana=[float("nan"), 1, None]),
    "an infinite time": state(ana=[float("inf"), 1, None]),
    "a negative time": state(ana=[-1.0, 1, None]),
    "a time that is a bool": state(ana=[True, 1, None]),
    "no connection": state(ana=[1.0, 0, None]),
    "too many connections": state(ana=[1.0, 10**9, None]),
    "connections that are a float": state(ana=[1.0, 1.0, None]),
    "a large meta": state(ana=[1.0, 1, "x" * (MAX_META_BYTES - 1)]),
}


@pytest.mark.parametrize("event", INVALID.values(), ids=INVALID)
def test_an_invalid_event_is_refused_as_a_whole(event: Event) -> None:
    one = view()
    assert one.receive("t", "another", state(bea=GOOD), 1.0)
    assert not one.receive("t", "another", event, 1.0)
    assert set(one.present("t")) == {"bea"}


@pytest.mark.parametrize("process", ["me", "", "x" * 201])
def test_events_of_this_process_or_of_none_are_refused(process: str) -> None:
    one = view()
    assert not one.receive("t", process, state(ana=GOOD), 1.0)
    assert not one.present("t")
    assert not one._last_event


def test_the_largest_valid_event_is_applied() -> None:
    one = view()
    users = {f"{number:0200}": [1e11, 10**6, "x" * (MAX_META_BYTES - 2)] for number in range(PART)}
    assert one.receive("t", "another", {"presence": "state", "n": 2**53, "all": users}, 1.0)
    assert len(one.present("t")) == PART


@pytest.mark.parametrize("meta", ["x" * 4000, [[]] * 1000, [{"a": 1}] * 340, {f"{n}": {} for n in range(300)}])
def test_the_memory_of_users_of_others_is_bounded_and_counted_about_right(meta: Any) -> None:
    one, text = view(MIB), json.dumps(meta)
    assert 0.7 * MAX_META_BYTES < len(text) <= MAX_META_BYTES
    tracemalloc.start()
    for number in range(10):
        users = {f"{number} {at}": [1.0, 1, json.loads(text)] for at in range(PART)}
        assert one.receive("t", "another", {"presence": "state", "n": 1, "all": users, "more": True}, 1.0)
        del users
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert one._size <= MIB
    assert used < 1.5 * MIB
    assert 0 < len(one.present("t")) == 10 * PART - one.left_out


def test_processes_without_users_count_as_well() -> None:
    one = view(MIB)
    names = [f"room {number}" for number in range(100)]
    for name in names:
        one.open(name, settled=True)
    tracemalloc.start()
    for number in range(100):
        for name in names:
            assert one.receive(name, f"process {number}", state(), 1.0)
    one.tick(1.0)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 1.5 * MIB
    assert 0.9 * MIB < one._size <= MIB
    assert one.left_out == 100 * 100 - one._size // PROCESS_BYTES
    one.tick(LEASE_SECONDS + 2)
    assert one._size == 0
    assert one.receive(names[0], "another", state(ana=GOOD), 20.0)
    assert set(one.present(names[0])) == {"ana"}


def test_users_that_leave_make_room() -> None:
    one = view(5000)
    for number in range(20):
        event = {"presence": "state", "n": 1, "all": {f"user {number}": GOOD}, "more": True}
        assert one.receive("t", "another", event, 1.0)
    assert (len(one.present("t")), one.left_out) == (10, 10)
    gone = [f"user {number}" for number in range(5)]
    assert one.receive("t", "another", {"presence": "diff", "n": 2, "set": {"late": GOOD}, "gone": gone}, 1.0)
    assert len(one.present("t")) == 6
    assert one.receive("t", "another", state(ana=GOOD), 1.0)
    assert set(one.present("t")) == {"ana"}
    assert 0 < one._size < 600 + PROCESS_BYTES
    one.receive("t", "third", state(bea=GOOD), 1.0)
    one.tick(LEASE_SECONDS + 2)
    assert (one.present("t"), one._size) == ({}, 0)
    one.receive("t", "third", state(bea=GOOD), 20.0)
    one.close("t")
    assert one._size == 0


def test_the_number_of_processes_is_bounded() -> None:
    one = view()
    for number in range(2 * MAX_PROCESSES):
        one.receive("t", f"p{number}", state(**{f"u{number}": GOOD}), 1.0)
    assert len(one._last_event) == len(one.present("t")) == MAX_PROCESSES
    assert one.left_out == MAX_PROCESSES
    one.tick(LEASE_SECONDS + 2)
    assert one.receive("t", "new", state(ana=GOOD), 20.0)
    assert set(one.present("t")) == {"ana"}


@pytest.mark.anyio
async def test_invalid_events_and_users_that_are_left_out_are_counted_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = Bench()
    rooms = Rooms(broker, options=Options(max_presence_bytes=1000 + PROCESS_BYTES))
    diffs: list[PresenceDiff] = []
    rooms.app.on_presence("t")(lambda topic, diff: diffs.append(diff))
    async with running(rooms) as clients:
        await rooms.connect(clients)
        outside = await broker.connect(Inbox(), ())
        for event in (state(ana=[10**400, 1, None]), state(ana=GOOD, bea=GOOD, cid=GOOD)):
            await outside.publish([Outgoing("t", encode_envelope(Envelope("t", None, "another", event)))])
        await until(lambda: len(rooms.topic().present()) == 2)
        assert rooms.app.topics.stats.dropped == 1
        assert "its event is not one that processes send" in caplog.text
        assert "left out 1 users of other processes" in caplog.text
