"""Publishing by HTTP when the broker fails: the answer says what is known, and a repeated request doubles nothing."""

from __future__ import annotations

import http.client
import json
import time
from http.client import HTTPMessage

import anyio
import anyio.to_thread
import pytest
from support.serving import Serving
from support.topic_bench import Bench, until
from support.topic_rooms import Recovering, Rooms, expect, running, take

from pywsapp import MessageComponent
from pywsapp.brokers import relay as relay_module
from pywsapp.routing.endpoints import sign

pytestmark = pytest.mark.anyio
KEY = "k" * 32


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "FIRST_PAUSE_SECONDS", 0.002)
    monkeypatch.setattr(relay_module, "LONGEST_PAUSE_SECONDS", 0.02)


async def post(server: Serving, **fields: str) -> tuple[int, HTTPMessage]:
    body = json.dumps({"topic": "t", **fields}).encode()

    def ask() -> tuple[int, HTTPMessage]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request("POST", "/publish", body, {"X-Signature": sign(KEY, "/publish", body, time.time())})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status, answer.headers

    return await anyio.to_thread.run_sync(ask)


def is_connected(rooms: MessageComponent) -> bool:
    assert isinstance(rooms, Rooms)
    relay = rooms.app.topics.relay
    return relay is not None and relay.connection is not None


@pytest.mark.parametrize("how", ["not connected", "on its way"])
async def test_a_repeated_request_reaches_those_who_do_not_have_the_message(how: str) -> None:
    broker = Bench()
    one, two = Rooms(broker), Rooms(broker)
    one.app.publish_endpoint("/publish", KEY)
    async with running(one, two) as clients:
        (ana, _), (ben, _) = await one.connect(clients), await two.connect(clients)
        if how == "not connected":
            broker.available = False
            broker.disconnect()
            await until(lambda: not is_connected(one) and not is_connected(two))
            status, headers = await post(one.server, text="hello")
        else:

            async def wait_with_the_message() -> None:
                if broker.calls.count("publish") > 1:  # the first one claims the signature
                    await anyio.sleep_forever()

            async def disconnect() -> None:
                await until(lambda: broker.calls.count("publish") > 1)
                broker.disconnect()

            broker.before["publish"] = wait_with_the_message

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(disconnect)
                status, headers = await post(one.server, text="hello")
            broker.before.clear()
        assert (status, headers["Retry-After"]) == (503 if how == "not connected" else 504, "1")
        broker.available = True
        await until(lambda: is_connected(one) and is_connected(two))
        for number in range(2):
            found, _ = await post(one.server, text="hello", id=headers["X-Message-Id"], ignored=str(number))
            assert found == 204
        assert (await post(one.server, text="the end"))[0] == 204
        await expect(ana, "hello", "the end")
        await expect(ben, "hello", "the end")


async def test_a_request_whose_claim_has_an_unknown_outcome_has_published_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay_module, "MAX_TRIES", 1)
    broker = Bench()
    rooms = Rooms(broker)
    rooms.app.publish_endpoint("/publish", KEY)

    async def disconnect() -> None:
        broker.disconnect()
        await anyio.sleep_forever()

    async with running(rooms) as clients:
        client, _ = await rooms.connect(clients)
        broker.before["publish"] = disconnect
        status, headers = await post(rooms.server, text="hello")
        assert (status, headers["Retry-After"]) == (503, "1"), "only the claim of its signature was on its way"
        broker.before.clear()
        await until(lambda: is_connected(rooms))
        assert (await post(rooms.server, text="again", id=headers["X-Message-Id"]))[0] == 204
        await expect(client, "again")


async def test_a_history_keeps_a_repeated_request_once() -> None:
    rooms = Recovering(Bench())
    rooms.app.publish_endpoint("/publish", KEY)
    async with running(rooms) as clients:
        client, _ = await rooms.connect(clients)
        for number in range(3):
            assert (await post(rooms.server, text="hello", id="order:7", ignored=str(number)))[0] == 204
        assert (await post(rooms.server, text="the end"))[0] == 204
        assert [one["message"] for one in await take(client, 2)] == ["hello", "the end"]


@pytest.mark.parametrize("bad", ["no spaces", "x" * 65])
async def test_an_invalid_id_is_a_400(bad: str) -> None:
    rooms = Rooms()
    rooms.app.publish_endpoint("/publish", KEY)
    async with running(rooms):
        assert (await post(rooms.server, text="hello", id=bad))[0] == 400
