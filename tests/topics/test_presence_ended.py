"""The users of a process whose end its supervisor has seen."""

from __future__ import annotations

import pytest
from topics.test_presence import Network, network, two  # noqa: F401 - a fixture

from pywsapp import App
from pywsapp.brokers.memory import MemoryBroker
from pywsapp.topics.presence.events import ALIVE_TOPIC, MAX_KEY


def test_users_of_an_ended_process_leave_at_once_and_late_events_are_ignored(network: Network) -> None:  # noqa: F811
    one, two_ = two(network)
    two_.view.track("room:1", "tab", "ana", None, 1.0)
    network.pass_time(1)
    two_.view.track("room:1", "phone", "bea", None, 2.0)
    two_.view.tick(network.now)  # sends what `one` receives too late
    two_.alive = two_.connected = False
    one.view.end("two")
    one.view.tick(network.now)
    assert one.reported == {"room:1": {}}
    network.pass_time(1)
    assert one.view.present("room:1") == {}
    one.view.end("one")  # a mistake
    one.view.track("room:1", "tab", "cid", None, 3.0)
    assert set(one.view.present("room:1")) == {"cid"}


@pytest.mark.parametrize("of", ["two", "one", 5, None])
def test_another_process_can_report_the_end(network: Network, of: object) -> None:  # noqa: F811
    one, two_ = two(network)
    two_.view.track("room:1", "tab", "ana", None, 1.0)
    network.pass_time(1)
    one.view.receive(ALIVE_TOPIC, "three", {"presence": "bye", "of": of}, network.now)
    assert set(one.view.present("room:1")) == (set() if of == "two" else {"ana"})


@pytest.mark.parametrize("of", ["", "x" * (MAX_KEY + 1), 5, None, ["two"]])
def test_an_invalid_report_of_an_end_is_no_goodbye(network: Network, of: object) -> None:  # noqa: F811
    one, two_ = two(network)
    two_.view.track("room:1", "tab", "ana", None, 1.0)
    network.pass_time(1)
    assert not one.view.receive(ALIVE_TOPIC, "two", {"presence": "bye", "of": of}, network.now)
    assert set(one.view.present("room:1")) == {"ana"}
    one.view.end("two")
    assert one.view.receive(ALIVE_TOPIC, "two", {"presence": "alive"}, network.now), "late, but not invalid"


@pytest.mark.anyio
async def test_the_end_is_published_to_other_machines() -> None:
    sent = []
    app = App("*", 0, broker=MemoryBroker())
    app.on_presence("*")(lambda topic, diff: None)
    async with app.topics.running():
        assert app.topics.relay is not None
        app.topics.relay._receive = lambda topic, data, _: sent.append((topic, data))
        app.topics.relay.publish(ALIVE_TOPIC, b"x")
        app.topics.presence.process_ended("abc")
        await app.topics.relay.flush()
    assert any(topic == ALIVE_TOPIC and b'"bye"' in data and b'"abc"' in data for topic, data in sent), sent
