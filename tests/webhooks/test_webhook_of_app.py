"""The webhook of an App sends what the App reports, and what waits when the App shuts down."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from support.cluster import Rooms, by_path
from support.outages import until
from support.receiver import SECRET, Receiver

from pywsapp import App, ConfigurationError, Topic
from pywsapp.auth import public
from pywsapp.testing import TestClient, two_nodes

pytestmark = [pytest.mark.anyio, pytest.mark.once]
#: For tests of what does not depend on the event loop.
one_loop = pytest.mark.parametrize("anyio_backend", ["trio"])


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


def make_app() -> App:
    app = App("*", 0)
    app.route("/{room}", Rooms(), authenticate=public)
    app.route("/{room}/{user}", Rooms(), authenticate=by_path)
    return app


async def test_an_app_sends_its_events_and_the_last_ones_at_its_end(receiver: Receiver) -> None:
    app = make_app()
    hook = app.webhook(receiver.url, secret=SECRET, topics=["room:*"])
    async with TestClient(app) as client:
        async with client.connect("/room:1/ana"), client.connect("/other:1"):
            await until(lambda: hook.stats.delivered == 2)
        await until(lambda: hook.stats.waiting == 0)
    assert sorted(receiver.names[:2]) == ["topic_occupied room:1", "user_online ana"]
    assert sorted(receiver.names[2:]) == ["topic_vacated room:1", "user_offline ana"]
    assert all(request.is_signed() for request in receiver.requests)


@one_loop
async def test_one_of_two_nodes_sends(receiver: Receiver) -> None:
    def make() -> App:
        app = make_app()
        app.webhook(receiver.url, secret=SECRET, events=["topic_occupied", "topic_vacated"])
        return app

    async with two_nodes(make) as (a, b), a.connect("/room:1/ana"), b.connect("/room:1/ana"), b.connect("/room:2"):
        await until(lambda: len(receiver.names) == 2)
    names = ["topic_occupied room:1", "topic_occupied room:2", "topic_vacated room:1", "topic_vacated room:2"]
    assert sorted(receiver.names) == names


@one_loop
async def test_a_mounted_app_brings_its_functions_and_webhooks(receiver: Receiver) -> None:
    outer, inner = App("*", 0), make_app()
    inner.webhook(receiver.url, secret=SECRET, events=["user_online"])
    calls: list[str] = []
    inner.on_occupied("room:*")(lambda topic: calls.append(topic.name))
    inner.on_user_offline(calls.append)
    outer.mount("/inner", inner)
    async with TestClient(outer) as client, client.connect("/inner/room:1/ana"):
        await until(lambda: receiver.names == ["user_online ana"] and calls == ["room:1"])
    assert calls == ["room:1", "ana"]


@one_loop
async def test_functions_can_be_async_and_fail(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app()
    calls: list[tuple[str, str, int]] = []

    @app.on_occupied("*")
    async def occupied(topic: Topic) -> None:
        calls.append(("occupied", topic.name, len(topic)))
        raise RuntimeError("of an async function")

    @app.on_user_online
    def online(user: str) -> None:
        calls.append(("online", user, 0))
        raise RuntimeError("of a function")

    @app.on_vacated("*")
    async def vacated(topic: Topic) -> None:
        calls.append(("vacated", topic.name, len(topic)))

    async with TestClient(app, raise_handler_errors=False) as client, client.connect("/room:1/ana"):
        await until(lambda: len(calls) == 2)
    assert sorted(calls) == [("occupied", "room:1", 1), ("online", "ana", 0), ("vacated", "room:1", 0)]
    assert "of an async function" in caplog.text
    assert "of a function" in caplog.text


@one_loop
async def test_a_user_with_a_very_long_key_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app()
    calls: list[str] = []
    app.on_user_online(calls.append)
    async with (
        TestClient(app) as client,
        client.connect(f"/room:1/{'x' * 201}"),
        client.connect(f"/room:1/{'y' * 200}"),
    ):
        await until(lambda: calls == ["y" * 200])
    warning = [line for line in caplog.record_tuples if line[1] == logging.WARNING]
    assert [line[2] for line in warning] == [
        f"a user is not reported as online, because the key has more than 200 characters: '{'x' * 40}'... (1 so far)"
    ]


def test_mistakes_are_explained() -> None:
    app = App()
    with pytest.raises(ConfigurationError, match=r'write @app.on_vacated\("room:\*"\) above'):
        app.on_vacated(lambda topic: None)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"must take \(topic\)"):
        app.on_occupied("room:*")(lambda: None)  # type: ignore[type-var]
    with pytest.raises(ConfigurationError, match=r"must take \(user\)"):
        app.on_user_online(lambda: None)  # type: ignore[type-var]
    with pytest.raises(ConfigurationError, match="is not a topic pattern"):
        app.on_occupied("room*")(lambda topic: None)


@one_loop
async def test_an_app_without_functions_subscribes_and_tracks_nothing() -> None:
    async with two_nodes(make_app) as (a, _), a.connect("/room:1/ana"):
        relay = a.app.topics.relay
        assert relay is not None
        await until(lambda: relay._wanted == {"room:1", "$pywsapp:users"})
        assert a.app.topics.presence._view._topics == {}
        assert a.app.topics.occupancy._view is None
        assert a.app.topics.users._index is None
        with pytest.raises(ConfigurationError, match="running already"):
            a.app.webhook("https://site.example", secret=SECRET)
        with pytest.raises(ConfigurationError, match=r"App.on_occupied must be called before the app runs"):
            a.app.on_occupied("*")(lambda topic: None)
