"""Topics as event streams, in memory: what clients get, where they resume, and how a stream ends."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest

from pywsapp import App, HandshakeError, Options, SlowConsumer, TopicRules
from pywsapp.codecs import CborCodec, Codec, JsonCodec, MessagePackCodec
from pywsapp.exceptions import ConfigurationError
from pywsapp.testing import StreamEvent, TestClient, TestEventStream, VirtualClock, until_idle

pytestmark = [pytest.mark.anyio, pytest.mark.once]


@pytest.fixture
def app() -> App:
    app = App()
    app.history("kept:*", size=5)
    app.events("/kept/{id}", topic="kept:{id}")
    app.events("/new/{id}", topic="kept:{id}", history="new")
    app.events("/last/{id}", topic="kept:{id}", history=2)
    app.events("/plain/{id}", topic="plain:{id}", event="token")
    return app


async def texts(stream: TestEventStream, number: int) -> list[str]:
    return [(await stream.receive()).data for _ in range(number)]


async def refused(client: TestClient, path: str, **arguments: Any) -> int | None:
    with pytest.raises(HandshakeError) as caught:
        async with client.events(path, **arguments):
            pass
    return caught.value.status


async def test_messages_of_a_plain_topic(app: App) -> None:
    topic = app.topic("plain:1")
    async with TestClient(app) as client, client.events("/plain/1") as stream:
        topic.broadcast("one\ntwo\r\nthree\rfour")
        topic.broadcast({"key": "ä\n"})
        topic.broadcast(b"\x00\xff")
        topic.broadcast("")
        app.topic("plain:2").broadcast("other")
        assert [await stream.receive() for _ in range(4)] == [
            StreamEvent("one\ntwo\nthree\nfour", "token", ""),
            StreamEvent('{"key":"ä\\n"}', "token", ""),
            StreamEvent("AP8=", "binary", ""),
            StreamEvent("", "token", ""),
        ]
        await stream.assert_silent()
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.headers["cache-control"] == "no-store, no-transform"
        assert stream.headers["x-accel-buffering"] == "no"
        assert "content-length" not in stream.headers
        assert len(topic) == 1
        assert app.stats().open_connections == 1
        assert app.stats().handshakes == 1
    assert len(topic) == 0


@pytest.mark.parametrize("codec", [MessagePackCodec(), CborCodec(), JsonCodec()], ids=["msgpack", "cbor", "json"])
async def test_objects_of_a_topic_with_a_codec(app: App, codec: Codec) -> None:
    app.topic_codec("kept:*", codec)
    app.topic_codec("plain:*", codec)
    async with TestClient(app) as client, client.events("/kept/1") as kept, client.events("/plain/1") as plain:
        app.topic("kept:1").broadcast({"key": "ä"})
        app.topic("plain:1").broadcast({"key": "ä"})
        assert await plain.receive() == StreamEvent('{"key":"ä"}', "token", "")
        event = await kept.receive()
        assert event == StreamEvent('{"key":"ä"}', "message", kept.last_event_id)
        assert event.id.startswith("1-")
        async with client.events("/kept/1") as late:
            assert await late.receive() == event


async def test_a_client_resumes_where_it_was(app: App) -> None:
    topic = app.topic("kept:1")
    async with TestClient(app) as client:
        async with client.events("/kept/1") as stream:
            topic.broadcast("a")
            topic.broadcast("b")
            assert await texts(stream, 2) == ["a", "b"]
            last = stream.last_event_id
            assert last.startswith("2-")
        topic.broadcast("c")
        async with client.events("/kept/1", last_event_id=last) as stream:
            topic.broadcast("d")
            assert await texts(stream, 2) == ["c", "d"]
            await stream.assert_silent()
        async with client.events(f"/kept/1?since={last}") as stream:
            assert await texts(stream, 2) == ["c", "d"]
        async with client.events(f"/kept/1?since=0-{last[2:]}", last_event_id=last) as stream:
            assert await texts(stream, 2) == ["c", "d"]  # the field is newer
            assert stream.last_event_id == f"4-{last[2:]}"


async def test_where_a_client_without_a_position_begins(app: App) -> None:
    topic = app.topic("kept:1")
    async with TestClient(app) as client:
        for text in "abc":
            topic.broadcast(text)
        async with client.events("/kept/1") as kept, client.events("/last/1") as last, client.events("/new/1") as new:
            await until_idle()
            topic.broadcast("d")
            assert await texts(kept, 4) == ["a", "b", "c", "d"]
            assert await texts(last, 3) == ["b", "c", "d"]
            assert await texts(new, 1) == ["d"]


@pytest.mark.parametrize("path", ["/kept/1", "/new/1"])
async def test_a_client_that_got_nothing_misses_nothing_later(app: App, path: str) -> None:
    topic = app.topic("kept:1")
    async with TestClient(app) as client:
        for _ in range(7):
            topic.broadcast("before")
        async with client.events("/kept/1") as stream:
            await texts(stream, 5)
            last = stream.last_event_id
        async with client.events(path, last_event_id=last) as stream:
            await stream.assert_silent()
            assert stream.last_event_id == last
        async with client.events("/new/1") as stream:
            await stream.assert_silent()
            assert stream.last_event_id == last
        topic.broadcast("later")
        async with client.events(path, last_event_id=last) as stream:
            assert await texts(stream, 1) == ["later"]


@pytest.mark.parametrize("last_id", ["1-{epoch}", "3-other", "no position", "9" * 15 + "-{epoch}"])
async def test_what_is_not_kept_any_more_is_reported_as_lost(app: App, last_id: str) -> None:
    topic = app.topic("kept:1")
    async with TestClient(app) as client:
        for text in "abcdefg":
            topic.broadcast(text)
        async with client.events("/kept/1") as stream:
            assert await texts(stream, 5) == list("cdefg")
            epoch = stream.last_event_id.split("-")[1]
        async with client.events("/kept/1", last_event_id=last_id.format(epoch=epoch)) as stream:
            lost = await stream.receive()
            assert lost.event == "lost"
            assert lost.json() == {"topic": "kept:1", "position": lost.id}
            if not last_id.startswith("9"):
                assert lost.id == f"2-{epoch}"
                assert await texts(stream, 5) == list("cdefg")


async def test_a_malformed_position_in_the_url_is_refused(app: App) -> None:
    async with TestClient(app) as client:
        assert await refused(client, "/kept/1?since=x") == 400
        async with client.events("/plain/1?since=x", last_event_id="y") as stream:  # it has no positions
            await stream.assert_silent()


async def test_other_methods_are_refused(app: App) -> None:
    app.http("/plain/{id}", lambda request: "posted", methods=["POST"])
    async with TestClient(app) as client:
        for method in "HEAD", "PUT", "OPTIONS":
            response = await client.request(method, "/plain/1")
            assert (response.status, response.headers["allow"]) == (405, "GET, POST")
        assert (await client.post("/plain/1")).text == "posted"
        await client.assert_refused("/plain/1", 404)


async def test_names_that_a_path_cannot_make(app: App) -> None:
    async with TestClient(app) as client:
        for value in "a%3Ab", "%2A", "a%20b", "x" * 300, "%0A":
            assert await refused(client, f"/plain/{value}") == 400
        async with client.events("/plain/%7Bid%7D") as stream:  # braces of a value are text
            app.topic("plain:{id}").broadcast("x")
            assert await texts(stream, 1) == ["x"]


# -- time --------------------------------------------------------------------------------------------------------------


async def test_comments_keep_the_connection_alive() -> None:
    app = App()
    app.events("/", topic="news", keepalive=20)
    async with TestClient(app, clock=VirtualClock()) as client, client.events("/") as stream:
        await client.clock.advance(90)
        await stream.assert_silent()
        assert stream.comments == 4


async def test_a_drain_ends_streams_and_spreads_the_clients() -> None:
    app = App()
    app.events("/", topic="news", retry=10)
    async with TestClient(app) as client, AsyncExitStack() as opened:
        streams = [await opened.enter_async_context(client.events("/")) for _ in range(10)]
        first = [stream.retry for stream in streams]
        app.topic("news").broadcast("last")
        app.stop()
        for stream in streams:
            assert [event.data async for event in stream] == ["last"]
    waits = [stream.retry for stream in streams]
    assert len({*first, *waits}) > 10  # they are random
    assert all(5000 <= wait <= 15000 for wait in (*first, *waits) if wait is not None)


async def test_a_slow_client_is_closed_and_resumes() -> None:
    app = App()
    app.history("news", size=100)
    options = Options(high_water=1000, max_outbox=5000)
    app.events("/", topic="news", options=options)
    topic = app.topic("news")
    async with TestClient(app) as client:
        async with client.events("/") as stream:
            await stream.assert_silent()
            stream.pause_reading()
            for number in range(40):
                topic.broadcast(f"{number} {'x' * 500}")
                await until_idle()
            stream.resume_reading()
            seen = [event.data.split()[0] async for event in stream]
            last = stream.last_event_id
        assert 1 <= len(seen) < 20
        assert app.stats().limits["max_outbox"] == 1
        async with client.events("/", last_event_id=last) as stream:
            seen += [text.split()[0] for text in await texts(stream, 40 - len(seen))]
    assert seen == [str(number) for number in range(40)]


async def test_a_slow_client_can_lose_messages_instead() -> None:
    app = App()
    options = Options(high_water=1000, max_outbox=5000, slow_consumer=SlowConsumer.DROP_OLDEST)
    app.events("/", topic="news", options=options)
    async with TestClient(app) as client, client.events("/") as stream:
        stream.pause_reading()
        for number in range(40):
            app.topic("news").broadcast(f"{number} {'x' * 500}")
            await until_idle()
        stream.resume_reading()
        await until_idle()
        assert stream.is_open
        seen = [int((await stream.receive()).data.split()[0]) for _ in range(len(stream._peer.inbox))]
        assert seen == sorted(seen)
        assert seen[-1] == 39
        assert len(seen) < 20


async def test_the_greatest_age_of_a_connection() -> None:
    app = App(options=Options(max_connection_age=60, idle_timeout=1000))
    app.events("/", topic="news")
    async with TestClient(app, clock=VirtualClock()) as client, client.events("/") as stream:
        await client.clock.advance(70)
        await stream.assert_ended()


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"topic": "a:{other}"},
        {"topic": "a:{id}{id}"},
        {"topic": "a:*"},
        {"topic": "a:{id"},
        {"topic": "a b"},
        {"topic": "a::b"},
        {"topic": "a:{path}"},
        {"topic": "a:{path._id}"},
        {"topic": 3},
        {"event": ""},
        {"event": "a\nb"},
        {"event": "lost"},
        {"event": "error"},
        {"history": "none"},
        {"history": -1},
        {"history": True},
        {"keepalive": 0},
        {"keepalive": float("nan")},
        {"retry": "1"},
        {"allowed_origins": "https://a.example"},
        {"options": Options(handshake_timeout=1)},
        {"authorize": TopicRules},
    ],
)
def test_arguments_that_are_not_valid(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        App().events("/{id}", **{"topic": "a:{id}", **arguments})


def test_a_route_twice() -> None:
    app = App()
    app.events("/{id}", topic="a")
    with pytest.raises(ConfigurationError, match="route twice"):
        app.http("/{other}", lambda request: None)
    with pytest.raises(ConfigurationError, match=r"\{path\.user\}"):
        app.events("/u/{user}", topic="a:{user}")
