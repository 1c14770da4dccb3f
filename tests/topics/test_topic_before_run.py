"""Topics that are used before the App runs, or in another process: what reaches no client is a warning."""

from __future__ import annotations

import logging

import pytest
from support.wire import running

from pywsapp import App, ConfigurationError
from pywsapp.brokers.memory import MemoryBroker

pytestmark = pytest.mark.anyio
WARNING = (
    "a broadcast on 'room:1' has no receiver, because the App does not run in this process; "
    "broadcast while it runs, or publish from another program with pywsapp.Publisher"
)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("history", [False, True])
def test_a_broadcast_before_the_app_runs_is_a_warning_once(history: bool, caplog: pytest.LogCaptureFixture) -> None:
    app = App("*", 0, broker=MemoryBroker())
    if history:
        app.history("*")
    app.topic("room:1").broadcast("early")
    app.topic("room:2").broadcast("early")
    assert warnings(caplog) == [WARNING]


def test_a_history_in_memory_keeps_an_early_broadcast(caplog: pytest.LogCaptureFixture) -> None:
    app = App("*", 0)
    app.history("*")
    app.topic("room:1").broadcast("early")
    assert warnings(caplog) == []


async def test_a_broadcast_without_subscribers_is_no_mistake(caplog: pytest.LogCaptureFixture) -> None:
    app = App("*", 0)
    async with running(app):
        app.topic("room:1").broadcast("hello")
    assert warnings(caplog) == []


def test_a_topic_in_place_of_a_name() -> None:
    app = App("*", 0)
    topic = app.topic("room:1")
    with pytest.raises(ConfigurationError) as raised:
        app.topic(topic)  # type: ignore[arg-type]
    assert str(raised.value) == "write the name, 'room:1', not the topic; topic.add(conn) subscribes to it"
