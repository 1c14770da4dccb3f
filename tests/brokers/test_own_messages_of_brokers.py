"""Real brokers send a process its own messages back; it recognises them and does not decode them."""

from __future__ import annotations

from typing import Any

import pytest
from support.topic_bench import until
from support.topic_rooms import Rooms, expect, running, take

from pywsapp.brokers.envelope import decode_envelope
from pywsapp.brokers.urls import broker_for

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]  # RabbitMQ can start slowly


@pytest.mark.parametrize("history", [False, True], ids=["plain", "kept"])
async def test_own_messages_are_not_decoded(service: Any, history: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []

    def decode(data: bytes, *arguments: Any) -> Any:
        decoded.append(data)
        return decode_envelope(data, *arguments)

    monkeypatch.setattr("pywsapp.topics.codec.decode_envelope", decode)
    one, two = Rooms(broker_for(service.url), broker_key="key"), Rooms(broker_for(service.url), broker_key="key")
    if history:
        if "redis" not in service.url:
            pytest.skip("it keeps no history")
        for rooms in (one, two):
            rooms.app.history("t")
    async with running(one, two) as clients:
        (ana, _), (ben, _) = await one.connect(clients), await two.connect(clients)
        # What is published while the other process reads the history can be in what it reads.
        for numbers in ([0], range(1, 10)):
            for number in numbers:
                await one.topic().broadcast(str(number))
            for client in (ana, ben):
                if history:
                    found = [message["message"] for message in await take(client, len(numbers))]
                    assert found == [str(number) for number in numbers]
                else:
                    await expect(client, *map(str, numbers))
        relay = one.app.topics.relay
        assert relay is not None
        await until(lambda: relay.stats.received >= 10)  # its own messages have come back
    # The other process decodes them, and reads the first ones from the history until it knows their publisher.
    assert len(set(decoded)) == 10
    assert len(decoded) <= (12 if history else 10)
