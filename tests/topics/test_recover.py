"""Clients that come back get what they missed: over real connections, while others publish and everything breaks."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from bench import Bench, failing, until
from rooms import Rooms, running
from serving import GUARD, Client

from pywsapp import BrokerUnavailable, Connection, Topic, TopicError
from pywsapp.topics import histories as histories_module
from pywsapp.topics import relay as relay_module
from pywsapp.topics.broker import Position, Receive
from pywsapp.topics.history import MemoryHistory
from pywsapp.topics.memory import MemoryConnection
from pywsapp.topics.recovery import Publication

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "FIRST_PAUSE_SECONDS", 0.002)
    monkeypatch.setattr(relay_module, "LONGEST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(histories_module, "_RETRY_SECONDS", 0.01)


class Recovering(Rooms):
    """Rooms whose clients say where they are: "17-5f3c", or "new"."""

    def __init__(self, broker: Bench | None = None, **history: Any) -> None:
        super().__init__(broker)
        self.app.history("t", **history)

    async def on_message(self, conn: Connection, message: Any) -> None:
        try:
            recovery = await self.topic().recover(conn, None if message == "new" else message)
        except (BrokerUnavailable, TopicError) as exc:
            conn.send(json.dumps({"error": type(exc).__name__}))
        else:
            conn.send(json.dumps({"recovered": recovery.complete, "position": recovery.position}))


async def take(client: Client, number: int = 1) -> list[Any]:
    return [json.loads(await client.message()) for _ in range(number)]


async def recover(client: Client, since: str = "new") -> tuple[list[Any], dict[str, Any]]:
    """Recover; give what was missed and what it said then."""
    await client.send(since)
    missed: list[Any] = []
    while True:
        (message,) = await take(client)
        if "topic" not in message:
            return missed, message
        missed.append(message)


BROKER = pytest.mark.parametrize("broker", [False, True], ids=["alone", "broker"])


@BROKER
async def test_who_comes_back_gets_what_was_missed(broker: bool) -> None:
    rooms = Recovering(Bench() if broker else None)
    async with running(rooms) as clients:
        first, _ = await rooms.connect(clients, None)
        missed, answer = await recover(first)
        assert not missed
        assert answer["recovered"]
        assert answer["position"].startswith("0-")
        for message in ("a", b"b", "c"):
            await rooms.topic().broadcast(message)
        seen = await take(first, 3)
        epoch = answer["position"][2:]
        assert seen == [
            {"topic": "t", "position": f"1-{epoch}", "message": "a"},
            {"topic": "t", "position": f"2-{epoch}", "base64": "Yg=="},
            {"topic": "t", "position": f"3-{epoch}", "message": "c"},
        ]
        second, _ = await rooms.connect(clients, None)
        assert await recover(second, f"1-{epoch}") == (seen[1:], {"recovered": True, "position": f"3-{epoch}"})
        third, conn = await rooms.connect(clients, None)
        assert await recover(third) == ([], {"recovered": True, "position": f"3-{epoch}"})
        fourth, _ = await rooms.connect(clients)  # by `add`
        await rooms.topic().broadcast("d")
        for client in (first, second, third, fourth):
            assert await take(client) == [{"topic": "t", "position": f"4-{epoch}", "message": "d"}]
        rooms.topic().remove(conn)
        await rooms.topic().broadcast("e")
        assert [one["message"] for one in (await recover(third, f"4-{epoch}"))[0]] == ["e"]


@BROKER
async def test_what_cannot_be_recovered_is_told(broker: bool) -> None:
    rooms = Recovering(Bench() if broker else None, size=3)
    async with running(rooms) as clients:
        client, conn = await rooms.connect(clients, None)
        epoch = (await recover(client))[1]["position"][2:]
        for number in range(1, 8):
            await rooms.topic().broadcast(str(number))
        await take(client, 7)
        for since, number, complete in (
            (f"3-{epoch}", 3, False),
            (f"4-{epoch}", 3, True),
            (f"6-{epoch}", 1, True),
            (f"7-{epoch}", 0, True),
            (f"8-{epoch}", 3, False),
            ("5-strange", 3, False),
        ):
            rooms.topic().remove(conn)
            missed, answer = await recover(client, since)
            assert answer == {"recovered": complete, "position": f"7-{epoch}"}
            assert [one["message"] for one in missed] == ["5", "6", "7"][3 - number :]


async def test_who_cannot_recover() -> None:
    rooms = Recovering()
    async with running(rooms) as clients:
        _, conn = await rooms.connect(clients, None)
        topic = rooms.topic()
        with pytest.raises(TopicError, match="'other' keeps no history"):
            await rooms.topic("other").recover(conn, None)
        junk: list[Any] = ["", "1", "-1-a", "x-y", "1-" + "a" * 100, 5, ["1-a"], {}, True]
        for since in junk:
            with pytest.raises(TopicError, match="is no position"):
                await topic.recover(conn, since)
        assert conn not in topic
        await topic.recover(conn, None)
        with pytest.raises(TopicError, match="subscribes to 't' already"):
            await topic.recover(conn, None)
        assert conn in topic
        with pytest.raises(TopicError, match="keeps a history, so all"):
            topic.broadcast("x", exclude=conn)
        with pytest.raises(TopicError, match="keeps a history, so all"):
            topic.broadcast("x", eligible=[])
        await topic.broadcast("x", exclude=[])
        conn.close()
        topic.remove(conn)
        with pytest.raises(TopicError, match="closed"):
            await topic.recover(conn, None)


async def test_on_subscribe_is_asked() -> None:
    class Refusing(Recovering):
        later = False

        def on_subscribe(self, conn: Connection, topic: Topic) -> Any:
            if self.later:
                return self.refuse_later()
            raise TopicError("not you")

        async def refuse_later(self) -> None:
            await anyio.lowlevel.checkpoint()
            raise TopicError("not you")

    rooms = Refusing()
    async with running(rooms) as clients:
        _, conn = await rooms.connect(clients, None)
        for rooms.later in (False, True):
            with pytest.raises(TopicError, match="not you"):
                await rooms.topic().recover(conn, None)
        assert conn not in rooms.topic()
        assert conn.topics == ()


async def test_while_the_broker_is_away_nobody_recovers_and_nothing_is_lost() -> None:
    broker = Bench()
    rooms = Recovering(broker)
    async with running(rooms) as clients:
        (first, _), (second, conn) = await rooms.connect(clients, None), await rooms.connect(clients, None)
        position = (await recover(first))[1]["position"]
        broker.available = False
        broker.disconnect()
        await until(lambda: rooms.app.hub.relay and rooms.app.hub.relay.connection is None)
        assert (await recover(second, position))[1] == {"error": "BrokerUnavailable"}
        assert conn.topics == ()
        handover = rooms.topic().broadcast("meanwhile")
        broker.available = True
        with anyio.fail_after(GUARD):
            await handover
        assert [one["message"] for one in await take(first)] == ["meanwhile"]
        assert [one["message"] for one in (await recover(second, position))[0]] == ["meanwhile"]


async def test_a_history_that_begins_anew_is_told_of_and_can_be_recovered_at_once() -> None:
    broker = Bench()
    rooms = Recovering(broker)
    async with running(rooms) as clients:
        (first, _), (second, _) = await rooms.connect(clients, None), await rooms.connect(clients, None)
        position = (await recover(first))[1]["position"]
        await rooms.topic().broadcast("old")
        await take(first)
        broker.history = MemoryHistory(time.monotonic)  # without any connection being lost
        missed, answer = await recover(second, position)
        assert not missed
        assert not answer["recovered"]
        await rooms.topic().broadcast("new")
        (lost, new) = await take(first, 2)
        assert lost == {"topic": "t", "position": answer["position"], "lost": True}
        assert new["message"] == "new"
        assert await take(second) == [new]


async def test_what_cannot_be_wrapped_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def wrap(publication: Publication) -> Any:
        if publication.message == "no":
            raise LookupError("cannot say that")
        return 5 if publication.message == "five" else json.dumps({"topic": "t", "m": publication.message})

    rooms = Recovering(wrap=wrap)
    async with running(rooms) as clients:
        (first, _), (second, _) = await rooms.connect(clients, None), await rooms.connect(clients, None)
        position = (await recover(first))[1]["position"]
        for message in ("a", "no", "five", "b"):
            await rooms.topic().broadcast(message)
        assert [one["m"] for one in await take(first, 2)] == ["a", "b"]
        missed, answer = await recover(second, position)
        assert [one["m"] for one in missed] == ["a", "b"]
        assert answer["recovered"]
        assert caplog.text.count("could not be wrapped") == 4


async def test_a_history_that_cannot_be_read_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Bench()
    rooms, fail = Recovering(broker), failing(OSError("busy"), 4)

    async def read(connection: MemoryConnection, topic: str, since: Position | None) -> Any:
        await fail()
        return await original(connection, topic, since)

    original = MemoryConnection.read_history
    monkeypatch.setattr(MemoryConnection, "read_history", read)
    async with running(rooms) as clients:
        client, _ = await rooms.connect(clients)
        await rooms.topic().broadcast("a")
        while not rooms.app.hub._histories._followers["t"].position:
            await anyio.lowlevel.checkpoint()
        await rooms.topic().broadcast("b")
        while (await take(client))[0]["message"] != "b":
            pass
        fail = failing(OSError("busy"), 3)
        broker.available = False
        broker.disconnect()
        rooms.topic().broadcast("c")
        broker.available = True
        assert (await take(client))[0]["message"] == "c"


async def test_who_leaves_and_comes_while_a_history_is_read_sees_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Bench()
    one, two = Recovering(broker), Recovering(broker)
    slow: list[anyio.Event] = []

    async def read(connection: MemoryConnection, topic: str, since: Position | None) -> Any:
        kept = await original(connection, topic, since)
        if slow:
            await slow[0].wait()
        return kept

    original = MemoryConnection.read_history
    monkeypatch.setattr(MemoryConnection, "read_history", read)
    async with running(one, two) as clients:
        (_, ana), (ben, ben_conn) = await one.connect(clients), await one.connect(clients, None)
        await until(lambda: any("t" in connection._topics for connection in broker.connections))
        slow.append(anyio.Event())
        one.app.hub._histories._followers["t"].catch_up()
        for number in range(3):
            await two.topic().broadcast(str(number))
        gate = slow.pop()
        one.topic().remove(ana)
        await one.topic().add(ben_conn)  # with a follower of its own
        gate.set()
        await anyio.wait_all_tasks_blocked()
        await two.topic().broadcast("the end")
        assert [message["message"] for message in await take(ben)] == ["the end"]


# -- all at once -------------------------------------------------------------------------------------------------------


class Lossy(Bench):
    """A broker whose pub/sub loses messages without saying so."""

    def __init__(self, generator: random.Random) -> None:
        super().__init__()
        self.generator = generator
        self.losing = True

    async def connect(self, receive: Receive, patterns: Sequence[str]) -> MemoryConnection:
        def receive_some(topic: str, data: bytes, position: Position | None) -> None:
            if not self.losing or self.generator.random() > 0.1:
                receive(topic, data, position)

        return await super().connect(receive_some, patterns)


MESSAGES = 150


class Reader:
    """A client that goes away and comes back, and checks that it gets one message after the other."""

    def __init__(self, rooms: list[Recovering], generator: random.Random) -> None:
        self.rooms = rooms
        self.generator = generator
        self.position = "new"
        self.seen: list[str] = []
        self.visits = 0

    def take(self, message: dict[str, Any]) -> None:
        assert "lost" not in message
        if "message" not in message:
            assert message.get("recovered", True), message
            if self.position == "new":
                self.position = message["position"]
            return
        before, _, epoch = self.position.partition("-")
        assert message["position"] == f"{int(before) + 1}-{epoch}", "missed, or seen twice"
        self.position = message["position"]
        self.seen.append(message["message"])

    async def visit(self) -> None:
        """Be connected for a while."""
        self.visits += 1
        app = self.generator.choice(self.rooms)
        async with app.server.client() as client:
            await client.send(self.position)
            for _ in range(self.generator.randint(1, 40)):
                (message,) = await take(client)
                if "error" in message:
                    return
                self.take(message)
                if len(self.seen) == MESSAGES:
                    return

    async def run(self) -> None:
        while len(self.seen) < MESSAGES:
            await self.visit()


async def publish(one: Recovering, name: str, generator: random.Random) -> None:
    for number in range(MESSAGES // 2 - 1):
        handover = one.topic().broadcast(f"{name} {number}")
        if generator.random() < 0.3:
            await handover
        await anyio.sleep(generator.random() * 0.004)


async def break_things(broker: Bench, generator: random.Random) -> None:
    for _ in range(6):
        await anyio.sleep(generator.random() * 0.05)
        broker.available = generator.random() < 0.5
        broker.disconnect()
        await anyio.sleep(generator.random() * 0.02)
        broker.available = True


@pytest.mark.parametrize("seed", range(3))
async def test_readers_miss_nothing_and_see_nothing_twice_whatever_breaks(seed: int) -> None:
    generator = random.Random(seed)
    broker = Lossy(generator)
    rooms = [Recovering(broker, size=1000) for _ in range(2)]
    readers = [Reader(rooms, generator) for _ in range(4)]
    async with running(*rooms), anyio.create_task_group() as tasks:
        for reader in readers:
            async with rooms[0].server.client() as client:
                reader.take((await recover(client))[1])
            tasks.start_soon(reader.run)
        async with anyio.create_task_group() as work:
            work.start_soon(break_things, broker, generator)
            for one, name in zip(rooms, "ab", strict=True):
                work.start_soon(publish, one, name, generator)
        broker.losing = False
        for one in rooms:
            with anyio.fail_after(GUARD):
                await one.topic().broadcast("the end")
    check(readers)


def check(readers: list[Reader]) -> None:
    wanted = {f"{name} {number}" for name in "ab" for number in range(MESSAGES // 2 - 1)} | {"the end"}
    for reader in readers:
        assert set(reader.seen) == wanted
        assert reader.seen == readers[0].seen, "all see the same"
        for name in "ab":
            numbers = [int(message[2:]) for message in reader.seen if message[:2] == f"{name} "]
            assert numbers == list(range(MESSAGES // 2 - 1)), "the order of a publisher is kept"
        assert reader.visits > 1
