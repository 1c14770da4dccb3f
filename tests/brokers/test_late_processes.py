"""A process that connects later than others gets what they have published on topics with a history, or a report."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from support.topic_bench import until
from support.topic_rooms import Recovering, running, take

from pywsapp.brokers import relay as relay_module
from pywsapp.brokers.base import Broker, BrokerConnection, Receive
from pywsapp.brokers.memory import MemoryBroker, MemoryConnection
from pywsapp.exceptions import BrokerUnavailable
from pywsapp.topics.history.memory_store import MemoryHistory

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "FIRST_PAUSE_SECONDS", 0.002)
    monkeypatch.setattr(relay_module, "LONGEST_PAUSE_SECONDS", 0.02)


class Link(Broker):
    """The connection of one process to a broker that it shares with other processes."""

    name = "the link"
    keeps_history = True

    def __init__(self, shared: MemoryBroker) -> None:
        self.is_open = True
        self.shared = shared
        self.connection: MemoryConnection | None = None

    async def connect(self, receive: Receive, patterns: Sequence[str]) -> BrokerConnection:
        if not self.is_open:
            raise BrokerUnavailable("the link is closed")
        self.connection = await self.shared.connect(receive, patterns)
        return self.connection

    def cut(self) -> None:
        self.is_open = False
        assert self.connection is not None
        self.connection.lose()


def is_connected(rooms: Recovering) -> bool:
    relay = rooms.app.topics.relay
    return relay is not None and relay.connection is not None


async def test_what_was_accepted_meanwhile_reaches_the_late_process() -> None:
    shared = MemoryBroker()
    link = Link(shared)
    early, late = Recovering(Link(shared)), Recovering(link)
    async with running(early, late) as clients:
        client, _ = await late.connect(clients)
        link.cut()
        await until(lambda: not is_connected(late))
        for number in range(20):
            await early.topic().broadcast(str(number))
        link.is_open = True
        assert [one["message"] for one in await take(client, 20)] == [str(number) for number in range(20)]


async def test_a_subscriber_from_the_outage_gets_a_report(caplog: pytest.LogCaptureFixture) -> None:
    shared = MemoryBroker()
    link = Link(shared)
    early, late = Recovering(Link(shared)), Recovering(link)
    async with running(early, late) as clients:
        link.cut()
        await until(lambda: not is_connected(late))
        client, _ = await late.connect(clients)
        await early.topic().broadcast("accepted meanwhile")
        link.is_open = True
        (lost,) = await take(client)
        assert (lost["lost"], lost["position"].partition("-")[0]) == (True, "1")
        await early.topic().broadcast("later")
        assert [one["message"] for one in await take(client)] == ["later"]
        assert late.app.topics.stats.lost == 1
        assert "its history could not be read when its first subscriber came" in caplog.text


async def test_a_subscriber_from_the_outage_gets_no_report_if_nothing_was_ever_published() -> None:
    shared = MemoryBroker()
    link = Link(shared)
    early, late = Recovering(Link(shared)), Recovering(link)
    async with running(early, late) as clients:
        link.cut()
        await until(lambda: not is_connected(late))
        client, _ = await late.connect(clients)
        link.is_open = True
        await until(lambda: late.app.topics.history._followers["t"].position is not None)
        await early.topic().broadcast("later")
        assert [one.get("message") for one in await take(client)] == ["later"]
        assert late.app.topics.stats.lost == 0


@pytest.mark.parametrize("how", ["restarted", "too short"])
async def test_the_log_says_why_messages_are_lost(how: str, caplog: pytest.LogCaptureFixture) -> None:
    shared = MemoryBroker()
    link = Link(shared)
    early, late = Recovering(Link(shared), size=2), Recovering(link, size=2)
    async with running(early, late) as clients:
        client, _ = await late.connect(clients)
        await early.topic().broadcast("0")
        await take(client)
        link.cut()
        await until(lambda: not is_connected(late))
        if how == "restarted":
            shared.history = MemoryHistory(lambda: 0.0)
        for number in range(3):
            await early.topic().broadcast(str(number))
        link.is_open = True
        assert [one.get("message") for one in await take(client, 3)] == [None, "1", "2"]
    reason = "its history began anew" if how == "restarted" else "its history is too short"
    (line,) = [message for message in caplog.messages if "are lost" in message]
    assert line.endswith(f"are lost, {reason} (1 so far)")
