"""`App.stats` counts messages and connections by route, and measures times if the App has metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from support.waiting import until_blocked

from pywsapp import App, Connection, EchoServer, MessageComponent, Options, RateLimit, Request, SlowConsumer
from pywsapp.brokers import Outgoing, Receive
from pywsapp.brokers.memory import MemoryBroker, MemoryConnection
from pywsapp.sessions.memory import MemorySessionStore
from pywsapp.stats import RouteStats
from pywsapp.testing import TestClient, VirtualClock
from pywsapp.topics.names import TopicPattern

pytestmark = pytest.mark.anyio


def app_of(component: MessageComponent, path: str = "/", **arguments: Any) -> App:
    app = App(**arguments)
    app.route(path, component)
    return app


def only_route(app: App) -> RouteStats:
    [route] = app.stats().routes.values()
    return route


async def test_messages_are_counted_by_route() -> None:
    app, inner = App(), App()
    app.route("/rooms/{name}", EchoServer())
    inner.route("/", EchoServer())
    inner.route("/news", EchoServer())
    app.mount("/in/{id:int}", inner)
    async with TestClient(app) as client:
        async with client.connect("/rooms/a") as a, client.connect("/rooms/b") as b, client.connect("/in/7/news"):
            for ws, message in ((a, "x"), (a, b"yz"), (b, "x" * 200)):
                ws.send(message)
                await ws.receive()
            stats = app.stats()
            assert list(stats.routes) == ["/rooms/{name}", "/in/{id:int}/news"]
            rooms, news = stats.routes.values()
            assert (rooms.open_connections, rooms.handshakes, stats.handshakes) == (2, 2, 3)
            assert (rooms.messages_received, rooms.bytes_received) == (3, (6 + 1) + (6 + 2) + (8 + 200))
            assert (rooms.messages_sent, rooms.bytes_sent) == (3, (2 + 1) + (2 + 2) + (4 + 200))
            assert (news.open_connections, news.messages_received, news.messages_sent) == (1, 0, 0)
            async with client.connect("/in/7/"):
                assert app.stats().routes["/in/{id:int}"].open_connections == 1
        rooms = app.stats().routes["/rooms/{name}"]
        assert (rooms.open_connections, rooms.messages_received, rooms.messages_sent) == (0, 3, 3)


async def test_the_route_of_a_request_is_known() -> None:
    app, routes = App(), []

    class Noting(MessageComponent):
        def on_open(self, conn: Connection) -> None:
            routes.append(conn.request.route)

    app.route("/rooms/{name}", Noting())
    app.http("/pages/{page}", lambda request: request.route)
    async with TestClient(app) as client, client.connect("/rooms/a"):
        assert (await client.get("/pages/4")).text == "/pages/{page}"
    assert routes == ["/rooms/{name}"]


async def test_close_codes_are_counted_and_unknown_ones_together() -> None:
    app = app_of(EchoServer())
    async with TestClient(app) as client:
        for code in (1000, 1001, 1000, 4321, 3333):
            async with client.connect("/") as ws:
                await ws.close(code)
        async with client.connect("/") as ws:
            ws.reset()
        await until_blocked()
        assert only_route(app).closed == {"1000": 2, "1001": 1, "other": 2, "1006": 1}


async def test_a_broadcast_counts_once_for_each_receiver() -> None:
    class Subscriber(MessageComponent):
        def on_open(self, conn: Connection) -> None:
            conn.subscribe("news")
            conn.subscribe("more")

    app = app_of(Subscriber())
    async with TestClient(app) as client, client.connect("/") as first, client.connect("/") as second:
        app.topic("news").broadcast("hello")
        assert (await first.receive(), await second.receive()) == ("hello", "hello")
        assert (only_route(app).messages_sent, only_route(app).bytes_sent) == (2, 2 * (2 + 5))
        assert (app.stats().topics.topics, app.stats().topics.subscriptions) == (2, 4)


@pytest.mark.parametrize(
    ("policy", "dropped"),
    [(SlowConsumer.DROP_NEWEST, 6), (SlowConsumer.DROP_OLDEST, 6), (SlowConsumer.CLOSE, 5)],
    ids=lambda value: getattr(value, "value", None),
)
async def test_dropped_messages_of_slow_clients_are_counted(policy: SlowConsumer, dropped: int) -> None:
    class Flood(MessageComponent):
        def on_message(self, conn: Connection, message: Any) -> None:
            conn.send(b"x" * 30_000)  # goes to the transport, which takes no more
            for _ in range(10):
                conn.send(b"x" * 9_990)

    options = Options(high_water=20_000, max_outbox=40_000, slow_consumer=policy, close_timeout=0.1)
    app = app_of(Flood(), options=options)
    async with TestClient(app) as client, client.connect("/") as ws:
        ws.pause_reading()
        ws.send("go")
        await until_blocked()
        stats = app.stats()
        assert only_route(app).messages_dropped == dropped
        if policy is SlowConsumer.CLOSE:
            ws.reset()
        else:
            assert (stats.outbox_bytes, stats.slow_connections) == (4 * 9_994, 1)
            ws.resume_reading()
            for _ in range(5):
                await ws.receive()
            assert (app.stats().outbox_bytes, app.stats().slow_connections) == (0, 0)


async def test_messages_that_wait_for_a_handler_are_counted() -> None:
    class Busy(MessageComponent):
        def __init__(self) -> None:
            self.go_on = anyio.Event()

        async def on_message(self, conn: Connection, message: Any) -> None:
            await self.go_on.wait()

    component = Busy()
    app = app_of(component)
    async with TestClient(app) as client, client.connect("/") as ws:
        for message in ("first", "four", b"bytes"):
            await ws.send(message)
        await until_blocked()
        assert app.stats().queued_bytes == 9
        component.go_on.set()


class Working(MessageComponent):
    async def on_message(self, conn: Connection, message: Any) -> None:
        if message == "fail":
            raise ValueError(message)
        await anyio.sleep(0.2)
        conn.send(message)

    def on_error(self, conn: Connection, exc: Exception) -> None:
        conn.send(str(exc))


async def test_the_time_of_handlers_is_measured_until_they_end() -> None:
    app = App(metrics=True)
    app.route("/def", EchoServer())
    app.route("/async", Working())
    async with TestClient(app) as client, client.connect("/def") as echo, client.connect("/async") as working:
        for ws, message in ((echo, "x"), (working, "x"), (working, "fail")):
            ws.send(message)
            assert await ws.receive() == message
        of_def, of_async = (route.handler_seconds for route in app.stats().routes.values())
        assert of_def is not None
        assert of_async is not None
        assert (of_def.number, of_async.number) == (1, 2)
        assert of_def.seconds < 0.19 <= of_async.seconds  # uvloop can wake 1 ms too early
        assert sum(of_async.buckets[9:]) == 1  # the one that has slept: above 0.05


async def test_the_latency_of_pings_and_the_lag_of_the_loop_are_measured() -> None:
    app = app_of(EchoServer(), metrics=True, options=Options(ping_interval=20))
    async with TestClient(app, clock=VirtualClock()) as client, client.connect("/") as ws:
        await client.clock.advance(45)
        latency, lag = only_route(app).ping_seconds, app.stats().loop_lag
        assert latency is not None
        assert lag is not None
        assert latency.number == 2
        assert 0 < latency.seconds < 5
        assert lag.number == 45 * 4
        ws.send_raw(b"\x8a\x80abcd")  # an unsolicited pong
        await ws.ping()
        assert only_route(app).ping_seconds == latency


async def test_without_metrics_nothing_is_measured() -> None:
    app = app_of(EchoServer())
    async with TestClient(app) as client, client.connect("/"):
        route = only_route(app)
        assert (route.handler_seconds, route.ping_seconds, app.stats().loop_lag) == (None, None, None)


async def test_a_mounted_app_with_metrics_measures_the_outer_one() -> None:
    app, inner = App(), App(metrics=True)
    app.route("/", EchoServer())
    app.mount("/in", inner)
    async with TestClient(app) as client, client.connect("/"):
        assert only_route(app).handler_seconds is not None


async def test_without_workers_the_numbers_of_all_are_those_of_the_process() -> None:
    app = app_of(EchoServer())
    async with TestClient(app) as client, client.connect("/"):
        stats = await app.worker_stats()
        assert (stats.workers, stats.missing) == (1, 0)
        assert stats.total.routes == app.stats().routes


async def test_present_users_and_histories_are_counted() -> None:
    class Present(MessageComponent):
        def on_open(self, conn: Connection) -> None:
            conn.subscribe("room:1")
            app.topic("room:1").track(conn, "ana", {})

    app = app_of(Present())
    app.on_presence("room:*")(lambda topic, diff: None)
    app.on_user_online(lambda user: None)
    app.history("room:*")
    async with TestClient(app) as client, client.connect("/"), client.connect("/"):
        await app.topic("room:1").broadcast("kept")
        topics = app.stats().topics
        assert (topics.present, topics.histories) == (1, 1)
        assert topics.history_bytes > 100


async def test_the_time_that_messages_wait_for_the_broker_is_measured() -> None:
    go_on = anyio.Event()

    class StuckConnection(MemoryConnection):
        async def publish(self, messages: Sequence[Outgoing]) -> None:
            await go_on.wait()

    class StuckBroker(MemoryBroker):
        async def connect(self, receive: Receive, patterns: Sequence[str]) -> MemoryConnection:
            return StuckConnection(self, receive, [TopicPattern(text) for text in patterns])

    app = app_of(EchoServer(), broker=StuckBroker(), metrics=True)
    async with TestClient(app, clock=VirtualClock()) as client:
        app.topic("news").broadcast("hello")
        await client.clock.advance(3)
        broker = app.stats().topics.broker
        assert broker is not None
        assert broker.pending == 1
        assert 2.5 <= broker.lag <= 3
        go_on.set()
        await client.clock.advance(1)
        broker = app.stats().topics.broker
        assert broker is not None
        assert (broker.pending, broker.published, broker.lag) == (0, 1, 0)


async def test_calls_of_stores_of_sessions_are_counted() -> None:
    class Visits(MessageComponent):
        def on_handshake(self, request: Request) -> None:
            request.session["seen"] = True

    class BrokenStore(MemorySessionStore):
        async def load(self, token: str) -> None:
            raise OSError

    app = app_of(Visits(), session_store=MemorySessionStore())
    app.route("/broken", Visits(), sessions=(broken := BrokenStore()))
    broken.name = "the broken store"
    async with TestClient(app) as client:
        async with client.connect("/"):
            pass
        await client.assert_refused("/broken", 503)
    assert app.stats().sessions == {"the session store in memory": (1, 0, 0), "the broken store": (0, 1, 0)}


class Failing(EchoServer):
    def on_message(self, conn: Connection, message: str | bytes) -> None:
        conn.send(message)
        raise ValueError("failed")

    def on_error(self, conn: Connection, exc: Exception) -> None:
        """Keep the connection open."""


@pytest.mark.parametrize("limits", [1, 2])
@pytest.mark.parametrize("component", [EchoServer, Failing, Working])
async def test_delayed_handlers_are_measured_without_the_delay(component: type[MessageComponent], limits: int) -> None:
    clock, limited = VirtualClock(), component()
    for number in range(limits):
        limited = RateLimit(limited, messages_per_second=1, messages_burst=1, name=str(number))
    app = app_of(limited, metrics=True)
    async with TestClient(app, clock=clock) as client, client.connect("/") as ws:
        for number in range(3):
            ws.send(str(number))
        await clock.advance(10)
        assert [await ws.receive() for _ in range(3)] == ["0", "1", "2"]
        times = only_route(app).handler_seconds
        assert times is not None
        assert times.number == 3
        assert times.seconds < 1
