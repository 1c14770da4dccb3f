"""`App.stats` counts what clients do, over real sockets."""

from __future__ import annotations

import dataclasses
from time import monotonic
from typing import Any

import anyio
import pytest
from support.serving import BINARY, PING, Recorder, frame, serving

from pywsapp import App, Connection, EchoServer, MessageComponent, Options, RateLimit, Refuse, Request, Stats

pytestmark = pytest.mark.anyio


class Guarded(MessageComponent):
    def on_handshake(self, request: Request) -> None:
        raise Refuse(403)


async def test_an_app_that_does_not_run_has_zeros() -> None:
    stats = App().stats()
    assert stats == dataclasses.replace(stats, open_connections=0)
    numbers = {name: value for name, value in dataclasses.asdict(stats).items() if name not in ("topics", "process")}
    assert not any(numbers.values())
    assert stats.topics.topics == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.handshakes = 1  # type: ignore[misc]


async def test_connections_and_handshakes_are_counted() -> None:
    app, component = App(port=0), Recorder()
    app.route("/", component)
    app.route("/guarded", Guarded())
    async with serving(app) as server:
        async with server.client() as client, await anyio.connect_tcp("127.0.0.1", server.port) as silent:
            for path, status in [("/guarded", 403), ("/guarded", 403), ("/nothing", 404)]:
                with pytest.raises(AssertionError, match=str(status)):
                    async with server.client(path):
                        pass
            await silent.send(b"GET ")
            stats = app.stats()
            assert isinstance(stats, Stats)
            assert (stats.open_connections, stats.handshakes, stats.refused) == (1, 1, {403: 2, 404: 1})
            assert stats.accepted_connections >= 4
            component.conns[0].subscribe("news")
            assert app.stats().topics.topics == 1
            await client.close()
        await component.until_called("close")
        assert (app.stats().open_connections, app.stats().handshakes) == (0, 1)


async def test_pending_and_evicted_connections_are_counted() -> None:
    app = App(port=0, max_pending=2)
    app.route("/", EchoServer())
    async with serving(app) as server:
        streams = [await anyio.connect_tcp("127.0.0.1", server.port) for _ in range(5)]
        async with server.client() as client:  # accepted after all of them
            assert app.stats().evicted_connections == 4
            assert app.stats().pending_connections == 1
            await client.close()
        for stream in streams:
            await stream.aclose()


async def test_control_frames_above_the_limit_are_counted() -> None:
    app, component = App(port=0, options=Options(control_frames_burst=5)), Recorder()
    app.route("/", component)
    async with serving(app) as server, server.client() as client, server.client() as other:
        await client.stream.send(frame(PING) * 10)
        assert await client.receive_close() == 1008
        await component.until_called("close")
        assert app.stats().limits["control_frames_per_second"] == 1
        assert await other.close(1008, "too many control frames") == 1008  # it only says so
        await component.until_called("close", 2)
        assert app.stats().limits["control_frames_per_second"] == 1


@pytest.mark.parametrize(
    ("limit", "sent"),
    [
        ("max_message_size", frame(BINARY, b"x" * 101)),
        ("max_message_size", frame(BINARY, b"x" * 60, fin=False) + frame(0, b"x" * 60)),
        ("max_frame_size", frame(BINARY, b"x" * 61)),
        ("max_fragments", frame(BINARY, fin=False) + frame(0, fin=False) * 3),
        ("message_timeout", frame(BINARY, b"unfinished")[:-1]),
    ],
    ids=["message", "fragmented", "frame", "fragments", "unfinished"],
)
async def test_messages_above_a_limit_are_counted(limit: str, sent: bytes) -> None:
    is_late = limit == "message_timeout"
    options = Options(
        max_message_size=100,
        max_frame_size=60 if limit == "max_frame_size" else None,
        max_fragments=3,
        message_timeout=0.1 if is_late else 30,
        close_timeout=0.1,
    )
    app, component = App(port=0, options=options), Recorder()
    app.route("/", component)
    async with serving(app) as server, server.client() as client:
        await client.stream.send(sent)
        assert await client.receive_close() == (1008 if is_late else 1009)
        await component.until_called("close")
        assert {name: count for name, count in app.stats().limits.items() if count} == {limit: 1}


async def test_slow_consumers_are_counted() -> None:
    class Flood(Recorder):
        def on_message(self, conn: Connection, message: Any) -> None:
            while conn.is_open:
                conn.send(b"x" * 50_000)

    component = Flood()
    app = App(port=0, options=Options(max_outbox=200_000, close_timeout=0.2))
    app.route("/", component)
    async with serving(app) as server, server.client() as client:
        await client.send("go")
        await component.until(lambda: component.conns and component.conns[0].close_code)
        await client.reset()
        await component.until_called("close")
        assert app.stats().limits["max_outbox"] == 1


async def test_the_limits_of_a_mounted_app_are_those_of_the_app_that_runs() -> None:
    inner, outer = App(), App(port=0)
    inner.route("/", RateLimit(EchoServer(), messages_per_second=1000, name="inner"))
    outer.mount("/inner", inner)
    async with serving(outer) as server, server.client("/inner/") as client:
        await client.send("hello")
        assert await client.message() == "hello"
        assert outer.stats().rate_limits == {"inner": (0, 0, 0, 0)}
        process = outer.stats().process
        assert dataclasses.replace(inner.stats(), process=process) == dataclasses.replace(
            outer.stats(), process=process
        )


async def test_limits_of_connections_are_counted() -> None:
    app = App(port=0, max_connections=1)
    app.route("/", EchoServer())
    async with serving(app) as server, server.client():
        assert not any(app.stats().limits.values())
        for _ in range(2):
            with pytest.raises(AssertionError, match="503"):
                async with server.client():
                    pass
        assert {name: number for name, number in app.stats().limits.items() if number} == {"max_connections": 2}
        assert app.stats().refused == {503: 2}


@pytest.mark.parametrize(("seconds", "lines"), [(5, 0), (15, 3)])
async def test_the_rest_of_a_flood_is_logged_later(
    seconds: float, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pywsapp")
    app = App(port=0)
    app.route("/", RateLimit(EchoServer(), messages_per_second=1000, name="mine"))
    async with serving(app) as server, server.client():
        [counts] = app._runner.limits._limits
        for report in (counts.delayed, counts.dropped, counts.closed):
            for _ in range(3):
                report.exceeded("client", monotonic() - seconds)
        server_of_app = app._runner._server
        assert server_of_app is not None
        await server_of_app.runtime._tick(server_of_app.runtime.timed)
    assert len([line for line in caplog.messages if line.endswith(", 2 times since the last such line")]) == lines
