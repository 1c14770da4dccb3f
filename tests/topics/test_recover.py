"""Clients that come back get what they missed, or learn that they cannot; over real connections."""

from __future__ import annotations

import json
import time
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.serving import GUARD
from support.topic_bench import Bench, failing, until
from support.topic_rooms import Recovering, recover, running, take
from support.waiting import until_blocked

from pywsapp import ConfigurationError, Connection, Topic, TopicError
from pywsapp.brokers.base import MIB, Position
from pywsapp.brokers.memory import MemoryConnection
from pywsapp.topics.history.memory_store import MemoryHistory
from pywsapp.topics.history.rules import Publication

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("short_pauses")]


BROKER = pytest.mark.parametrize("broker", [False, True], ids=["alone", "broker"])


@BROKER
async def test_a_client_that_comes_back_gets_what_it_missed(broker: bool) -> None:
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
        assert await recover(third) == (seen, {"recovered": True, "position": f"3-{epoch}"})
        fourth, _ = await rooms.connect(clients)  # by `add`
        await rooms.topic().broadcast("d")
        for client in (first, second, third, fourth):
            assert await take(client) == [{"topic": "t", "position": f"4-{epoch}", "message": "d"}]
        rooms.topic().remove(conn)
        await rooms.topic().broadcast("e")
        assert [one["message"] for one in (await recover(third, f"4-{epoch}"))[0]] == ["e"]


@BROKER
async def test_a_client_learns_that_messages_cannot_be_recovered(broker: bool) -> None:
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
            if not complete:
                assert missed.pop(0) == {"topic": "t", "position": f"4-{epoch}", "lost": True}
            assert [one["message"] for one in missed] == ["5", "6", "7"][3 - number :]


async def test_invalid_recoveries() -> None:
    rooms = Recovering()
    async with running(rooms) as clients:
        _, conn = await rooms.connect(clients, None)
        topic = rooms.topic()
        with pytest.raises(ConfigurationError, match="'other' keeps no history"):
            await rooms.topic("other").recover(conn, None)
        junk: list[Any] = ["", "1", "-1-a", "x-y", "1-" + "a" * 100, 5, ["1-a"], {}, True]
        for since in junk:
            with pytest.raises(TopicError, match="is not a position"):
                await topic.recover(conn, since)
        assert conn not in topic
        await topic.recover(conn, None)
        with pytest.raises(TopicError, match="subscribes to 't' already"):
            await topic.recover(conn, None)
        assert conn in topic
        with pytest.raises(ConfigurationError, match="keeps a history, so all"):
            topic.broadcast("x", exclude=conn)
        with pytest.raises(ConfigurationError, match="keeps a history, so all"):
            topic.broadcast("x", eligible=[])
        await topic.broadcast("x", exclude=[])
        conn.close()
        topic.remove(conn)
        with pytest.raises(TopicError, match="closed"):
            await topic.recover(conn, None)


async def test_on_subscribe_is_called_by_recover() -> None:
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


async def test_without_the_broker_recovering_fails_and_nothing_is_lost() -> None:
    broker = Bench()
    rooms = Recovering(broker)
    async with running(rooms) as clients:
        (first, _), (second, conn) = await rooms.connect(clients, None), await rooms.connect(clients, None)
        position = (await recover(first))[1]["position"]
        broker.available = False
        broker.disconnect()
        await until(lambda: rooms.app.topics.relay and rooms.app.topics.relay.connection is None)
        assert (await recover(second, position))[1] == {"error": "BrokerUnavailable"}
        assert conn.topics == ()
        acknowledgement = rooms.topic().broadcast("meanwhile")
        broker.available = True
        with anyio.fail_after(GUARD):
            await acknowledgement
        assert [one["message"] for one in await take(first)] == ["meanwhile"]
        assert [one["message"] for one in (await recover(second, position))[0]] == ["meanwhile"]


async def test_a_history_that_begins_anew_is_reported_and_can_be_recovered_at_once() -> None:
    broker = Bench()
    rooms = Recovering(broker)
    async with running(rooms) as clients:
        (first, _), (second, _) = await rooms.connect(clients, None), await rooms.connect(clients, None)
        position = (await recover(first))[1]["position"]
        await rooms.topic().broadcast("old")
        await take(first)
        broker.history = MemoryHistory(time.monotonic)  # without any connection being lost
        missed, answer = await recover(second, position)
        assert missed == [{"topic": "t", "position": answer["position"], "lost": True}]
        assert not answer["recovered"]
        await rooms.topic().broadcast("new")
        (lost, new) = await take(first, 2)
        assert lost == {"topic": "t", "position": answer["position"], "lost": True}
        assert new["message"] == "new"
        assert await take(second) == [new]


async def test_a_message_that_cannot_be_wrapped_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def wrap(publication: Publication) -> Any:
        if publication.message == "no":
            raise LookupError("cannot say that")
        return None if publication.message == "none" else json.dumps({"topic": "t", "m": publication.message})

    rooms = Recovering(wrap=wrap)
    async with running(rooms) as clients:
        (first, _), (second, _) = await rooms.connect(clients, None), await rooms.connect(clients, None)
        position = (await recover(first))[1]["position"]
        for message in ("a", "no", "none", "b"):
            await rooms.topic().broadcast(message)
        assert [one["m"] for one in await take(first, 2)] == ["a", "b"]
        missed, answer = await recover(second, position)
        assert [one["m"] for one in missed] == ["a", "b"]
        assert answer["recovered"]
        assert caplog.text.count("could not be wrapped") == 4


async def test_a_history_that_cannot_be_read_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Bench()
    rooms, fail = Recovering(broker), failing(OSError("busy"), 4)

    async def read(
        connection: MemoryConnection, topic: str, since: Position | None, max_bytes: int | None = None
    ) -> Any:
        await fail()
        return await original(connection, topic, since, max_bytes)

    original = MemoryConnection.read_history
    monkeypatch.setattr(MemoryConnection, "read_history", read)
    async with running(rooms) as clients:
        client, _ = await rooms.connect(clients)
        await rooms.topic().broadcast("a")
        while not rooms.app.topics.history._followers["t"].position:
            await anyio.lowlevel.checkpoint()
        await rooms.topic().broadcast("b")
        assert [one["message"] for one in await take(client, 2)] == ["a", "b"]
        fail = failing(OSError("busy"), 3)
        broker.available = False
        broker.disconnect()
        rooms.topic().broadcast("c")
        broker.available = True
        assert (await take(client))[0]["message"] == "c"


async def test_resubscribing_while_a_history_is_read_repeats_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Bench()
    one, two = Recovering(broker), Recovering(broker)
    slow: list[anyio.Event] = []

    async def read(
        connection: MemoryConnection, topic: str, since: Position | None, max_bytes: int | None = None
    ) -> Any:
        kept = await original(connection, topic, since, max_bytes)
        if slow:
            await slow[0].wait()
        return kept

    original = MemoryConnection.read_history
    monkeypatch.setattr(MemoryConnection, "read_history", read)
    async with running(one, two) as clients:
        (_, ana), (ben, ben_conn) = await one.connect(clients), await one.connect(clients, None)
        await until(lambda: any("t" in connection._topics for connection in broker.connections))
        slow.append(anyio.Event())
        one.app.topics.history._followers["t"].catch_up()
        for number in range(3):
            await two.topic().broadcast(str(number))
        gate = slow.pop()
        one.topic().remove(ana)
        await one.topic().add(ben_conn)  # with a follower of its own
        gate.set()
        await until_blocked()
        await two.topic().broadcast("the end")
        assert [message["message"] for message in await take(ben)] == ["the end"]


async def test_more_than_an_outbox_holds_is_recovered_as_fast_as_the_client_reads() -> None:
    rooms = Recovering(Bench(), size=300, max_bytes=10 * MIB)
    async with running(rooms) as clients:
        (first, _), (second, conn) = await rooms.connect(clients, None), await rooms.connect(clients, None)
        position = (await recover(first))[1]["position"]
        for number in range(200):
            await rooms.topic().broadcast(f"{number} {'x' * 20_000}")
            await take(first)
        await second.send(position)
        got = await take(second, 10)
        assert conn in rooms.topic()
        for number in range(200, 220):  # meanwhile
            await rooms.topic().broadcast(f"{number} x")
        got += await take(second, 211)
        assert [int(one["message"].split()[0]) for one in got if "message" in one] == list(range(220))
        assert [one["recovered"] for one in got if "message" not in one] == [True]


async def test_a_client_that_reads_too_slowly_to_recover_all_learns_so() -> None:
    rooms = Recovering(size=400, max_bytes=100 * MIB)
    async with running(rooms) as clients:
        (first, _), (second, _) = await rooms.connect(clients, None), await rooms.connect(clients, None)
        position = (await recover(first))[1]["position"]
        for _ in range(400):  # more than what the sockets hold
            await rooms.topic().broadcast("x" * 100_000)
            await take(first)
        await second.send(position)
        await take(second)
        for _ in range(500):
            await rooms.topic().broadcast("y")
        got = await take(second)
        while "recovered" not in got[-1]:
            got += await take(second)
        texts = [one["message"][0] if "message" in one else "lost" for one in got[:-1]]
        assert texts == ["x"] * texts.count("x") + ["lost"] + ["y"] * 400
        assert texts.count("x") < 399, "what the client has not read is not kept for it"
        assert got[-1]["recovered"] is False


@pytest.mark.parametrize("how", ["closes", "leaves", "is cancelled"])
async def test_a_connection_that_ends_while_recovering_is_not_subscribed(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, gate = anyio.Event(), anyio.Event()

    async def read(
        connection: MemoryConnection, topic: str, since: Position | None, max_bytes: int | None = None
    ) -> Any:
        if since is not None:
            reading.set()
            await gate.wait()
        return await original(connection, topic, since, max_bytes)

    rooms = Recovering(Bench())
    async with running(rooms) as clients:
        (first, _), (second, conn) = await rooms.connect(clients, None), await rooms.connect(clients, None)
        position = (await recover(first))[1]["position"]
        await rooms.topic().broadcast("x")
        (seen,) = await take(first)
        original = MemoryConnection.read_history
        monkeypatch.setattr(MemoryConnection, "read_history", read)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(rooms.topic().recover, conn, position)
            await reading.wait()
            if how == "closes":
                await second.close()
                await rooms.until_called("unsubscribe")
            elif how == "leaves":
                rooms.topic().remove(conn)
            else:
                tasks.cancel_scope.cancel()
            gate.set()
        assert conn not in rooms.topic()
        assert conn.topics == ()
        assert rooms.names().count("unsubscribe") == 1
        if how != "closes":
            await second.send(seen["position"])
            assert "recovered" in (await take(second))[0], "nothing was sent"


async def test_a_recovery_that_ends_before_its_first_message_names_the_position_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rooms = Recovering(size=2)
    async with running(rooms) as clients:
        _, conn = await rooms.connect(clients, None)
        for message in ("a", "b", "c"):
            await rooms.topic().broadcast(message)
        read = MemoryHistory.read

        def read_and_leave(history: MemoryHistory, topic: str, since: Position | None, *size: int) -> Any:
            if since is not None:
                rooms.topic().remove(conn)
            return read(history, topic, since, *size)

        monkeypatch.setattr(MemoryHistory, "read", read_and_leave)
        recovery = await rooms.topic().recover(conn, None)
        monkeypatch.undo()
        assert (recovery.messages, recovery.complete) == (0, False)
        again = await rooms.topic().recover(conn, recovery.position)
        assert (again.messages, again.complete) == (2, True)


async def test_the_number_of_histories_that_are_read_at_once_is_bounded(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = Bench()
    rooms = Recovering(broker)
    rooms.app.history("many:*")
    counts = {"now": 0, "most": 0, "all": 0}

    async def read(
        connection: MemoryConnection, topic: str, since: Position | None, max_bytes: int | None = None
    ) -> Any:
        counts["now"] += 1
        counts["all"] += 1
        counts["most"] = max(counts["most"], counts["now"])
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        counts["now"] -= 1
        return await original(connection, topic, since, max_bytes)

    original = MemoryConnection.read_history
    async with running(rooms) as clients:
        for number in range(3):
            _, conn = await rooms.connect(clients, None)
            for topic in range(100):
                await rooms.topic(f"many:{number}:{topic}").add(conn)
        await until_blocked()
        monkeypatch.setattr(MemoryConnection, "read_history", read)
        broker.history = MemoryHistory(time.monotonic)
        caplog.clear()
        broker.disconnect()
        await until(lambda: "(256 so far)" in caplog.text)
        await until_blocked()
        assert counts["all"] == 300
        assert 50 < counts["most"] <= 100
        assert caplog.text.count("are lost") == 9, "ever more seldom"


async def test_a_busy_topic_can_be_recovered(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(
        connection: MemoryConnection, topic: str, since: Position | None, max_bytes: int | None = None
    ) -> Any:
        kept = await original(connection, topic, since, max_bytes)
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        return kept

    async def publish() -> None:
        for number in range(5000):
            await rooms.topic().broadcast(str(number))
            if done:
                break
        await rooms.topic().broadcast("the end")

    original = MemoryConnection.read_history
    monkeypatch.setattr(MemoryConnection, "read_history", read)
    rooms, done = Recovering(Bench(), size=10_000, max_bytes=10 * MIB), []
    async with running(rooms) as clients:
        (first, _), (second, _) = await rooms.connect(clients, None), await rooms.connect(clients, None)
        position = (await recover(first))[1]["position"]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish)
            await take(first, 10)
            missed, answer = await recover(second, position)
            assert answer["recovered"] is True
            done.append(True)
        got = missed
        while got[-1]["message"] != "the end":
            got += await take(second)
        assert [int(one["message"]) for one in got[:-1]] == list(range(len(got) - 1))
