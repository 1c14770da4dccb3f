"""The log about outages: one line at the beginning, some while it lasts, one at the end."""

from __future__ import annotations

import itertools
import logging

import pytest
from support.topic_bench import Bench, Inbox, failing, relaying, until

from pywsapp.brokers import outage as outage_module
from pywsapp.brokers import relay as relay_module
from pywsapp.brokers.memory import MemoryBroker
from pywsapp.brokers.outage import OutageLog
from pywsapp.brokers.relay import Relay


def test_a_long_outage_is_repeated_at_growing_intervals(caplog: pytest.LogCaptureFixture) -> None:
    log, repeated = OutageLog(MemoryBroker()), []
    log.note_lost("refused", 3, 1000.0)
    for second in range(1, 5 * 86_400, 3):
        caplog.clear()
        log.note_lost(f"refused {second}", 3 + second, 1000.0 + second)
        if caplog.messages:
            repeated.append(second)
            assert caplog.messages == [
                f"the memory broker has been unavailable for {second} seconds (refused {second}); "
                f"{second} messages were not published, trying again"
            ]
            assert caplog.records[0].levelno == logging.ERROR
    hours = [second for second in repeated if second < 3600]
    assert [30 <= second < 33 for second in hours[:1]] == [True]
    assert len(hours) == 7
    assert all(after >= 2 * before for before, after in itertools.pairwise(hours))
    assert all(after - before <= 86_403 for before, after in itertools.pairwise(repeated))


def test_the_end_of_an_outage_says_how_long_nothing_was_received(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    log = OutageLog(MemoryBroker())
    log.note_connected(0, 5.0)
    log.note_lost("closed", 4, 10.0)
    log.note_lost("refused", 5, 11.0)
    log.note_connected(6, 22.34)
    log.note_connected(6, 30.0)
    assert caplog.messages == [
        "connected to the memory broker",
        "the memory broker is unavailable (closed); local delivery goes on, trying again",
        "connected to the memory broker again; this process received nothing for at least 12.3 seconds, "
        "and 2 messages were not published",
        "connected to the memory broker",
    ]


def test_an_internal_broker_is_mentioned_only_when_it_fails(caplog: pytest.LogCaptureFixture) -> None:
    broker = MemoryBroker()
    broker.is_internal = True
    OutageLog(broker).note_connected(0, 0.0)
    assert not caplog.messages


@pytest.mark.anyio
async def test_a_relay_repeats_an_outage(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(relay_module, "pause_before", lambda attempt: 0.001)
    monkeypatch.setattr(outage_module, "FIRST_REMINDER_SECONDS", 0.01)
    broker = Bench()
    broker.before["connect"] = failing(OSError("refused"))
    async with relaying(Relay(broker, Inbox())):
        await until(lambda: sum("has been unavailable for" in message for message in caplog.messages) >= 3)
