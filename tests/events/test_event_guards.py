"""Who may read an event stream: guards, `authorize`, origins, sessions, limits, and users that are disconnected."""

from __future__ import annotations

import gc
import logging
import weakref
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.header_users import as_user, by_header

from pywsapp import (
    App,
    Connection,
    HandshakeError,
    HandshakeMiddleware,
    IpBlackList,
    Options,
    Refuse,
    Request,
    Response,
    TooMany,
    TopicRules,
)
from pywsapp.auth import Authenticated, public
from pywsapp.brokers.base import Position
from pywsapp.testing import TestClient, VirtualClock, until_idle
from pywsapp.topics.history.memory_store import MemoryHistory

pytestmark = [pytest.mark.anyio, pytest.mark.once]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # in memory, nothing here depends on the event loop


async def refusal(client: TestClient, path: str = "/", **arguments: Any) -> int | None:
    with pytest.raises(HandshakeError) as caught:
        async with client.events(path, **arguments):
            pass
    return caught.value.status


# -- users -------------------------------------------------------------------------------------------------------------


async def test_a_guard_and_the_topic_of_a_user() -> None:
    app = App(authenticate=by_header)
    app.events("/mine", topic="user:{user}:news")
    app.events("/public", topic="news", authenticate=public)
    app.events("/path/{user}", topic="user:{path.user}:news")
    async with TestClient(app) as client:
        assert await refusal(client, "/mine") == 401
        assert await refusal(client, "/mine", headers=as_user("a:b")) == 400
        async with client.events("/mine", headers=as_user("ana")) as mine, client.events("/public") as other:
            app.topic("user:ana:news").broadcast("hello")
            assert (await mine.receive()).data == "hello"
            await other.assert_silent()
        async with client.events("/path/ana", headers=as_user("ben")) as stream:
            app.topic("user:ana:news").broadcast("hello")
            assert (await stream.receive()).data == "hello"


async def test_a_topic_of_a_user_without_a_guard() -> None:
    app = App()
    app.events("/", topic="user:{user.id}")
    async with TestClient(app) as client:
        assert await refusal(client) == 401
        assert await refusal(client, user={"name": "x"}) == 401
        async with client.events("/", user={"id": 7}) as stream:
            app.topic("user:7").broadcast("x")
            assert (await stream.receive()).data == "x"


async def test_a_user_is_reached_and_disconnected() -> None:
    app = App(authenticate=by_header)
    app.events("/", topic="news")
    async with TestClient(app) as client, client.events("/", headers=as_user("ana")) as stream:
        app.users["ana"].send({"for": "ana"})
        assert (await stream.receive()).json() == {"for": "ana"}
        assert await app.users["ana"].count() == 1
        await app.users["ana"].disconnect()
        await stream.assert_ended()
        assert await app.users["ana"].count() == 0


async def test_a_user_that_expires() -> None:
    app = App(authenticate=lambda request: Authenticated("ana", expires_at=1))
    app.events("/", topic="news")
    async with TestClient(app, clock=VirtualClock()) as client, client.events("/") as stream:
        await client.clock.advance(2)
        await stream.assert_ended()


@pytest.mark.parametrize("policy", TooMany)
async def test_too_many_connections_of_a_user(policy: TooMany) -> None:
    app = App(authenticate=by_header, max_connections_per_user=1, on_too_many=policy)
    app.events("/", topic="news")
    async with TestClient(app) as client:
        async with client.events("/", headers=as_user("ana")) as first:
            if policy is TooMany.REFUSE:
                assert await refusal(client, headers=as_user("ana")) == 429
                await first.assert_silent()
            else:
                async with client.events("/", headers=as_user("ana")):
                    await first.assert_ended()
        async with client.events("/", headers=as_user("ana")):
            pass


async def test_limits_of_connections() -> None:
    app = App(max_connections_per_address=1)
    app.events("/", topic="news")
    full = App(max_connections=1)
    full.events("/", topic="news")
    fast = App(max_handshakes_per_second=0.001)
    fast.events("/", topic="news")
    async with TestClient(app) as client:
        async with client.events("/"):
            assert await refusal(client) == 429
        async with client.events("/"):
            pass
    for one in full, fast:
        async with TestClient(one) as client, client.events("/"):
            assert await refusal(client) == 503


# -- authorize ---------------------------------------------------------------------------------------------------------


async def test_a_topic_that_the_client_chooses_must_be_allowed() -> None:
    app = App(authorize=TopicRules(subscribe=["public:*"]))
    app.events("/chosen/{kind}/{id}", topic="{kind}:{id}")
    app.events("/named", topic="private:1")
    async with TestClient(app) as client:
        async with client.events("/chosen/public/1"), client.events("/named"):
            pass
        assert await refusal(client, "/chosen/private/1") == 403
        assert app.stats().refused == {403: 1}
        assert app.stats().open_connections == 0


@pytest.mark.parametrize("answers_later", [False, True])
async def test_authorize_is_asked_about_the_history_too(answers_later: bool) -> None:
    asked = []

    def decide(conn: Connection, action: str, topic: str) -> bool | None:
        asked.append((conn.user, action, topic))
        return None if conn.user == "none" else action == "subscribe" or conn.user == "ana"

    async def decide_later(conn: Connection, action: str, topic: str) -> bool | None:
        await anyio.lowlevel.checkpoint()
        return decide(conn, action, topic)

    app = App(authenticate=by_header, max_connections_per_address=5)
    app.history("kept", size=10)
    app.events("/kept", topic="kept", authorize=decide_later if answers_later else decide)
    app.topic("kept").broadcast("a")
    async with TestClient(app) as client:
        for user in "ana", "none":
            async with client.events("/kept", headers=as_user(user)) as stream:
                assert (await stream.receive()).data == "a"
        assert asked[:2] == [("ana", "history", "kept"), ("ana", "subscribe", "kept")]
        for _ in range(10):  # a refused one does not count
            assert await refusal(client, "/kept", headers=as_user("ben")) == 403


async def test_a_failing_authorize_refuses(caplog: pytest.LogCaptureFixture) -> None:
    def authorize(conn: Connection, action: str, topic: str) -> bool:
        raise ValueError("no database")

    app = App()
    app.events("/", topic="news", authorize=authorize)
    async with TestClient(app, raise_handler_errors=False) as client:
        assert await refusal(client) == 403
    assert [type(error) for error in client.errors] == [ValueError]


async def test_a_permission_that_is_taken_away_ends_the_stream() -> None:
    banned = set()

    inner = App(authorize=lambda conn, action, topic: conn.user not in banned)
    inner.events("/{id}", topic="room:{id}")
    app = App(authenticate=by_header)
    app.mount("/rooms", inner)
    async with TestClient(app) as client:
        async with client.events("/rooms/1", headers=as_user("ana")) as stream:
            banned.add("ana")
            await app.users["ana"].reauthorize()
            await stream.assert_ended()
        assert await refusal(client, "/rooms/1", headers=as_user("ana")) == 403


async def test_a_permission_that_is_taken_away_while_authorize_takes_its_time() -> None:
    allowed, asked, released = True, anyio.Event(), anyio.Event()

    async def authorize(conn: Connection, action: str, topic: str) -> bool:
        answer = allowed
        asked.set()
        await released.wait()
        return answer

    app = App(authenticate=by_header, authorize=authorize)
    app.events("/{id}", topic="news:{id}")
    async with TestClient(app) as client, anyio.create_task_group() as tasks:

        async def follow() -> None:
            async with client.events("/1", headers=as_user("ana")) as stream:
                await stream.assert_ended()

        tasks.start_soon(follow)
        await asked.wait()
        allowed = False
        await app.users["ana"].reauthorize()
        released.set()


@pytest.mark.parametrize("later", [False, True])
async def test_a_permission_that_is_taken_away_during_the_recovery(later: bool) -> None:
    app = App(authenticate=by_header, authorize=lambda conn, action, topic: conn.user not in banned)
    banned: set[str] = set()
    app.history("news", size=100)
    app.events("/", topic="news", options=Options(high_water=1000))
    for _ in range(20):
        app.topic("news").broadcast("x" * 1000)
    async with TestClient(app) as client, client.events("/", headers=as_user("ana")) as stream:
        stream.pause_reading()
        await until_idle()
        assert len(app.topic("news")) == 1
        if later:
            stream.resume_reading()
            await until_idle()
        banned.add("ana")
        app.users["ana"].reauthorize()
        await until_idle()
        stream.resume_reading()
        await stream.assert_ended()
        assert len(stream._peer.inbox) < 20 or later


async def test_a_client_whose_recovery_is_refused_gets_no_id(monkeypatch: pytest.MonkeyPatch) -> None:
    app = App(authenticate=by_header, authorize=lambda conn, action, topic: conn.user not in banned)
    banned: set[str] = set()
    app.history("news", size=100)
    app.events("/", topic="news")
    app.topic("news").broadcast("x")
    read = MemoryHistory.read

    def read_and_ban(history: MemoryHistory, topic: str, since: Position | None, *size: int) -> Any:
        if since is not None:
            banned.add("ana")
            app.users["ana"].reauthorize()
        return read(history, topic, since, *size)

    monkeypatch.setattr(MemoryHistory, "read", read_and_ban)
    async with TestClient(app) as client, client.events("/", headers=as_user("ana")) as stream:
        await stream.assert_ended()
        assert stream.last_event_id == ""


async def test_a_client_that_goes_while_authorize_takes_its_time() -> None:
    started, released = anyio.Event(), anyio.Event()

    async def authorize(conn: Connection, action: str, topic: str) -> bool:
        started.set()
        await released.wait()
        return True

    app = App(max_connections_per_address=1)
    app.events("/", topic="news", authorize=authorize)
    async with TestClient(app) as client:
        async with anyio.create_task_group() as tasks:

            async def follow() -> None:
                async with client.events("/"):
                    pass

            tasks.start_soon(follow)
            await started.wait()
            tasks.cancel_scope.cancel()
        await until_idle()
        assert app.stats().open_connections == 0
        released.set()
        async with client.events("/"):  # the one before does not count any more
            pass


# -- middleware, sessions, origins -------------------------------------------------------------------------------------


async def test_middleware_around_an_app() -> None:
    class NoRobots(HandshakeMiddleware):
        def authorize(self, conn: Connection, action: str, topic: str) -> bool:
            return topic != "news:secret"

        def check(self, request: Request) -> None:
            if "robot" in request.headers.get("user-agent", ""):
                raise Refuse(403)

    inner = App()
    inner.events("/{id}", topic="news:{id}")
    blacklist = IpBlackList(NoRobots(inner))
    blacklist.block("192.0.2.1")
    app = App()
    app.mount("/inner", blacklist)
    async with TestClient(app) as client:
        async with client.events("/inner/1"):
            pass
        assert await refusal(client, "/inner/1", headers={"User-Agent": "robot"}) == 403
        assert await refusal(client, "/inner/1", address="192.0.2.1") == 403
        assert await refusal(client, "/inner/secret") == 403


async def test_sessions() -> None:
    def user_of(request: Request) -> str | None:
        return request.session.get("user")

    app = App(session_store="memory", authenticate=user_of)
    app.events("/", topic="user:{user}")
    app.events("/other", topic="news", sessions=False, authenticate=public)

    @app.http("/login", authenticate=public)
    async def login(request: Request) -> Response:
        request.session["user"] = "ana"
        return Response("welcome")

    async with TestClient(app) as client:
        assert await refusal(client) == 401
        await client.get("/login")
        async with client.events("/") as stream, client.events("/other"):
            app.topic("user:ana").broadcast("x")
            assert (await stream.receive()).data == "x"
            assert "Cookie" in stream.headers.getlist("vary")


@pytest.mark.parametrize(
    ("allowed", "origin", "named", "with_cookies"),
    [
        (None, None, None, False),
        (None, "http://localhost", "http://localhost", True),
        (["https://a.example"], None, None, False),
        (["https://a.example"], "https://a.example", "https://a.example", True),
        (["https://*.a.example"], "https://b.a.example", "https://b.a.example", True),
        (["*"], "https://b.example", "*", False),
        (["*", "https://b.example"], "https://b.example", "https://b.example", True),
        (["null"], "null", "*", False),
    ],
)
async def test_origins(allowed: Any, origin: str | None, named: str | None, with_cookies: bool) -> None:
    app = App()
    app.events("/", topic="news", allowed_origins=allowed)
    async with TestClient(app) as client, client.events("/", origin=origin) as stream:
        assert stream.headers.get("access-control-allow-origin") == named
        assert ("access-control-allow-credentials" in stream.headers) is with_cookies
        assert stream.headers["vary"] == "Origin"


@pytest.mark.parametrize("origin", ["https://b.example", "null", "https://a.example.b.example", "x"])
async def test_foreign_origins_are_refused(origin: str) -> None:
    app = App()
    app.events("/same", topic="news")
    app.events("/listed", topic="news", allowed_origins=["https://a.example"])
    async with TestClient(app) as client:
        assert await refusal(client, "/same", origin=origin) == 403
        assert await refusal(client, "/listed", origin=origin) == 403


# -- bookkeeping -------------------------------------------------------------------------------------------------------


async def test_presence_does_not_count_streams() -> None:
    app = App(authenticate=by_header)
    app.events("/", topic="room:1")

    @app.on_presence("room:*")
    def changed(topic: Any, diff: Any) -> None: ...

    async with TestClient(app) as client, client.events("/", headers=as_user("ana")):
        await until_idle()
        assert app.topic("room:1").present() == {}
        (conn,) = app.topic("room:1")
        app.topic("room:1").track(conn, "ana")
        assert set(app.topic("room:1").present()) == {"ana"}


async def test_the_access_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pywsapp.access")
    app = App(access_log=True)
    app.events("/", topic="news")
    async with TestClient(app) as client, client.events("/?token=secret"):
        pass
    (line,) = [record.getMessage() for record in caplog.records if record.name == "pywsapp.access"]
    assert line.startswith("127.0.0.1 GET / 200 closed with 1006 after ")


async def test_nothing_is_left_of_a_stream() -> None:
    app = App(authenticate=by_header, authorize=lambda conn, action, topic: True, max_connections_per_address=3)
    app.history("kept", size=10)
    app.events("/plain", topic="plain")
    app.events("/kept", topic="kept")
    seen = weakref.WeakSet[Any]()
    async with TestClient(app) as client:
        for path in ("/plain", "/kept") * 5:
            async with client.events(path, headers=as_user("ana")):
                await until_idle()
                seen.update(app.topic(path[1:]))
        assert app.topics.active() == []
        assert app.stats().open_connections == 0
        gc.collect()
        assert len(seen) == 0
