"""How much presence sends, and how often: nothing without a change, and no more than needed with one."""

from __future__ import annotations

from typing import Any

import pytest

from pywsapp.topics.presence.events import ALIVE_TOPIC, PART, Event
from pywsapp.topics.presence.view import HEARTBEAT_SECONDS, LEASE_SECONDS, PresenceView

TICK = 0.1
GOOD = [1.0, 1, None]


class One:
    """One process, and what it has sent since the last look."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Event]] = []
        self.now = 1000.0
        self.view = PresenceView("me", lambda topic, event: self.sent.append((topic, event)), lambda topic, diff: None)

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK)):
            self.now += TICK
            self.view.tick(self.now)

    def take(self, *topics: str) -> list[Event]:
        """Return what was sent on topics, on all but ALIVE_TOPIC if none is named, and forget everything."""
        sent, self.sent = self.sent, []
        return [event for topic, event in sent if (topic in topics if topics else topic != ALIVE_TOPIC)]

    def hear(self, event: Event, topic: str = "t", process: str = "another") -> None:
        assert self.view.receive(topic, process, event, self.now)


@pytest.fixture
def one() -> One:
    """A process with one user in one topic, that has sent everything there is to send."""
    made = One()
    made.view.open("t", settled=True)
    made.view.track("t", "tab", "ana", None, 1.0)
    made.pass_time(TICK)
    made.take()
    return made


def kinds(events: list[Event]) -> list[Any]:
    return [event["presence"] for event in events]


# -- heartbeats --------------------------------------------------------------------------------------------------------


def test_the_first_tick_sends_a_heartbeat_and_then_there_is_one_each_period() -> None:
    one = One()
    one.pass_time(TICK)
    assert one.take(ALIVE_TOPIC) == [{"presence": "alive"}]
    one.pass_time(HEARTBEAT_SECONDS - 2 * TICK)
    assert one.take(ALIVE_TOPIC) == []
    one.pass_time(10 * HEARTBEAT_SECONDS)
    assert one.take(ALIVE_TOPIC) == [{"presence": "alive"}] * 10
    assert one.take() == []


def test_a_new_connection_sends_a_heartbeat_at_the_next_tick(one: One) -> None:
    one.pass_time(1)
    one.take()
    one.view.connected()
    assert one.take(ALIVE_TOPIC) == []
    one.pass_time(TICK)
    assert one.take(ALIVE_TOPIC) == [{"presence": "alive"}]
    one.pass_time(HEARTBEAT_SECONDS - 2 * TICK)
    assert one.take(ALIVE_TOPIC) == [], "the period begins anew"


def test_the_end_of_a_process_is_sent_once(one: One) -> None:
    one.view.stop()
    assert one.take(ALIVE_TOPIC) == [{"presence": "bye"}]


# -- changes -----------------------------------------------------------------------------------------------------------


def test_without_a_change_nothing_is_sent(one: One) -> None:
    one.pass_time(60)
    assert one.take() == []
    one.hear({"presence": "diff", "n": 1, "set": {"bea": GOOD}})
    one.hear({"presence": "alive"}, ALIVE_TOPIC)
    one.take()
    one.pass_time(1)
    assert kinds(one.take()) == ["ask"], "the first diff of a process is no state"


def test_the_changes_of_a_tick_are_one_event(one: One) -> None:
    for number in range(PART):
        one.view.track("t", number, f"user {number}", number, 1.0)
    for number in range(10):
        one.view.untrack("t", number)
    one.view.untrack("t", "tab")
    assert one.take() == []
    one.pass_time(1)
    first, second = one.take()
    assert kinds([first, second]) == ["diff", "diff"]
    assert (first["n"], second["n"]) == (2, 3)
    assert len(first["set"]) + len(first["gone"]) == PART
    assert second == {"presence": "diff", "n": 3, "set": {}, "gone": ["ana"]}
    one.view.track("t", 50, "user 50", "new", 2.0)
    one.pass_time(1)
    assert one.take() == [{"presence": "diff", "n": 4, "set": {"user 50": (2.0, 1, "new")}, "gone": []}]


def test_the_first_change_of_a_topic_is_a_state() -> None:
    one = One()
    one.view.open("t", settled=True)
    one.pass_time(1)
    assert one.take() == []
    one.view.track("t", "tab", "ana", None, 1.0)
    one.pass_time(1)
    assert one.take() == [{"presence": "state", "n": 1, "all": {"ana": (1.0, 1, None)}}]


# -- states and requests -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", [None, "me"])
def test_a_request_is_answered_once_in_a_tick(one: One, of: str | None) -> None:
    for _ in range(5):
        one.hear({"presence": "ask"} if of is None else {"presence": "ask", "of": of})
    assert one.take() == []
    one.pass_time(1)
    assert one.take() == [{"presence": "state", "n": 2, "all": {"ana": (1.0, 1, None)}}]


@pytest.mark.parametrize(
    ("event", "topic"),
    [
        ({"presence": "ask", "of": "third"}, "t"),
        ({"presence": "ask", "of": ""}, "t"),
        ({"presence": "ask", "of": ["me"]}, "t"),
        ({"presence": "asks"}, "t"),
        ({"presence": "ask"}, "u"),
        ({"presence": "ask"}, ALIVE_TOPIC),
        ({"presence": "ask", "of": "third"}, ALIVE_TOPIC),
        ({"presence": "alive"}, ALIVE_TOPIC),
        ({"presence": "bye"}, ALIVE_TOPIC),
    ],
)
def test_what_is_no_request_to_this_process_is_not_answered(one: One, event: Event, topic: str) -> None:
    one.hear(event, topic)
    one.pass_time(1)
    assert one.take() == []


def test_a_topic_without_users_is_not_answered() -> None:
    one = One()
    one.view.open("t", settled=True)
    one.hear({"presence": "ask"})
    one.pass_time(1)
    assert one.take() == []


def test_a_request_for_all_topics_is_answered_on_each(one: One) -> None:
    one.view.open("u", settled=True)
    one.view.track("u", "tab", "ana", None, 1.0)
    one.pass_time(TICK)
    one.take()
    one.hear({"presence": "ask", "of": "me"}, ALIVE_TOPIC)
    one.pass_time(1)
    sent = {topic: event["presence"] for topic, event in one.sent}
    assert {topic: kind for topic, kind in sent.items() if topic != ALIVE_TOPIC} == {"t": "state", "u": "state"}


def test_a_new_connection_sends_each_state_and_request_once(one: One) -> None:
    one.view.connected()
    one.pass_time(1)
    assert one.take() == [{"presence": "state", "n": 2, "all": {"ana": (1.0, 1, None)}}, {"presence": "ask"}]
    one.pass_time(60)
    assert one.take() == []


def test_opening_a_topic_asks_once(one: One) -> None:
    one.view.ask("t")
    one.view.ask("t")
    one.view.ask("another topic")
    one.pass_time(1)
    assert one.take() == [{"presence": "ask"}]


def test_a_missing_diff_is_asked_for_once_in_a_tick_and_of_its_process_only(one: One) -> None:
    one.hear({"presence": "state", "n": 1, "all": {"bea": GOOD}})
    one.hear({"presence": "diff", "n": 2, "set": {"cid": GOOD}})
    one.hear({"presence": "diff", "n": 2, "set": {"again": GOOD}})
    one.pass_time(1)
    assert one.take() == []
    assert set(one.view.present("t")) == {"ana", "bea", "cid"}
    for number in (4, 5, 6):
        one.hear({"presence": "diff", "n": number, "set": {"dan": GOOD}})
    one.pass_time(1)
    assert one.take() == [{"presence": "ask", "of": "another"}]
    assert "dan" not in one.view.present("t")


def test_a_process_that_was_silent_for_too_long_is_asked_once(one: One) -> None:
    one.hear({"presence": "alive"}, ALIVE_TOPIC)
    one.pass_time(LEASE_SECONDS + 1)
    one.take()
    one.hear({"presence": "alive"}, ALIVE_TOPIC)
    one.hear({"presence": "alive"}, ALIVE_TOPIC)
    assert one.take(ALIVE_TOPIC) == [{"presence": "ask", "of": "another"}]


def test_closing_a_topic_is_sent_if_it_had_users(one: One) -> None:
    one.view.open("u", settled=True)
    one.view.close("u")
    assert one.take() == []
    one.view.untrack("t", "tab")
    one.view.close("t")
    assert one.take() == [{"presence": "state", "n": 0, "all": {}}]
    one.pass_time(1)
    assert one.take() == []
