"""Health checks, on the ports for clients and on their own, and the drain delay in which they fail."""

from __future__ import annotations

import json
import logging
import socket
import time

import anyio
import anyio.lowlevel
import pytest
from support.services import free_port
from support.serving import CLOSE, GUARD
from support.wire import HttpResponse, Peer, Site, get, handshake, peer_of, running

from pywsapp import App, ConfigurationError, Options
from pywsapp.brokers.memory import MemoryBroker

pytestmark = pytest.mark.anyio


def made(**options: float) -> App:
    app = App("chat.example", 0, options=Options(**options))  # type: ignore[arg-type]
    app.route("/", Site())
    app.health()
    return app


async def response_to(app: App, request: bytes) -> HttpResponse:
    async with peer_of(app) as peer:
        await peer.send(request)
        return await peer.response()


@pytest.mark.parametrize(
    "request_", [get("/health"), get("/health", host="10.0.0.7:8080"), b"GET /health HTTP/1.0\r\n\r\n"]
)
async def test_the_health_check_answers_to_any_host(request_: bytes) -> None:
    async with running(made()) as app:
        answer = await response_to(app, request_)
    assert (answer.status, json.loads(answer.body)) == (200, {"status": "ok"})
    assert answer.headers["cache-control"] == "no-store"


async def test_during_the_drain_delay_only_the_health_check_fails(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pywsapp")
    async with running(made(drain_delay=0.7)) as app, peer_of(app) as early:
        await early.open(host="chat.example")
        began = time.monotonic()
        app.stop()
        answer = await response_to(app, get("/health"))
        assert (answer.status, json.loads(answer.body)) == (503, {"status": "stopping"})
        async with peer_of(app) as late:
            await late.open(host="chat.example")
            for peer in early, late:
                assert (await peer.receive_close())[0] == 1012
        assert time.monotonic() - began >= 0.69  # uvloop can wake 1 ms too early
        with pytest.raises(ConnectionRefusedError):
            peer_of(app)
    assert "accepting connections for 0.7 s more" in caplog.messages


async def test_without_a_delay_the_server_stops_accepting_at_once() -> None:
    async with running(made()) as app, peer_of(app) as peer:
        await peer.open(host="chat.example")
        app.stop()
        assert (await peer.frame())[0] == CLOSE
        with pytest.raises(ConnectionRefusedError):
            peer_of(app)


async def test_a_cancellation_ends_the_delay() -> None:
    app = made(drain_delay=3600)
    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
            app.stop()
            assert (await response_to(app, get("/health"))).status == 503
            tasks.cancel_scope.cancel()


async def test_the_health_check_recovers_when_the_app_is_served_again() -> None:
    app = made()
    for _ in range(2):
        async with running(app):
            assert (await response_to(app, get("/health"))).status == 200


async def test_the_health_check_at_another_path() -> None:
    app = App("chat.example", 0)
    app.health("/ready")
    async with running(app):
        assert (await response_to(app, get("/ready"))).status == 200
        async with peer_of(app) as peer:
            await peer.send(handshake("/ready"))
            assert (await peer.head())[0] in (400, 404, 426)
    with pytest.raises(ConfigurationError):
        app.health("/ready")


async def answers(app: App, path: str = "/health") -> dict[str, int]:
    """Return the status of each health check."""
    names = "", "/live", "/ready", "/capacity"
    return {name: (await response_to(app, get(path + name))).status for name in names}


async def test_health_checks_are_answered_above_max_connections() -> None:
    app = App("*", 0, max_connections=2)
    app.route("/", Site())
    app.health()
    inner = App()
    inner.health("/inner")
    inner.http("/page", lambda request: "page")
    app.mount("/below", inner)
    async with running(app), peer_of(app) as first, peer_of(app) as second:
        await first.open()
        assert await answers(app) == {"": 200, "/live": 200, "/ready": 200, "/capacity": 200}
        await second.open()
        for path in "/health", "/below/inner":
            assert await answers(app, path) == {"": 200, "/live": 200, "/ready": 200, "/capacity": 503}
        answer = await response_to(app, get("/health/capacity"))
        assert json.loads(answer.body) == {"status": "full"}, "a public port has no numbers"
        for request_ in handshake("/"), handshake("/health"), get("/"), get("/below/page"), get("/health", "POST"):
            async with peer_of(app) as peer:
                await peer.send(request_)
                assert (await peer.head())[0] == 503, request_


async def test_while_the_app_stops_it_lives_but_is_not_ready() -> None:
    app = made(drain_delay=3600)
    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
            app.stop()
            assert await answers(app) == {"": 503, "/live": 200, "/ready": 503, "/capacity": 200}
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("needed", [True, False])
async def test_a_lost_broker_makes_an_app_unready_if_it_needs_it(needed: bool) -> None:
    broker = MemoryBroker()
    broker.available = False
    app = App("*", 0, broker=broker)
    app.health(broker=needed)
    async with running(app):
        assert (await answers(app))["/ready"] == (503 if needed else 200)
        assert (await answers(app))["/live"] == 200
        broker.available = True
        with anyio.fail_after(GUARD):
            while (await answers(app))["/ready"] != 200:
                await anyio.lowlevel.checkpoint()


async def asked(port: int, path: str) -> tuple[int, object]:
    async with Peer(socket.create_connection(("127.0.0.1", port))) as peer:
        await peer.send(get(path))
        answer = await peer.response()
    return answer.status, json.loads(answer.body)


async def test_a_port_of_its_own_answers_from_the_start_to_the_end() -> None:
    app, port = App("*", 0, max_connections=1), free_port()
    app.route("/", Site())
    app.health(port=port)
    seen = []

    async def ask() -> None:
        seen.append([await asked(port, path) for path in ("/health", "/health/live")])

    app.on_startup(ask)
    app.on_shutdown(ask)
    async with running(app), peer_of(app) as peer:
        await peer.open()
        assert await asked(port, "/health") == (200, {"status": "ok", "connections": 1, "max_connections": 1})
        assert (await asked(port, "/health/capacity"))[0] == 503
    assert [[status for status, _ in pair] for pair in seen] == [[503, 200], [503, 200]]
    assert [pair[0][1]["status"] for pair in seen] == ["starting", "stopping"]  # type: ignore[index]
    with pytest.raises(ConnectionRefusedError):
        await asked(port, "/health")


async def test_a_health_port_that_is_in_use_is_reported_as_itself() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        app = App("*", 0)
        app.health(port=taken.getsockname()[1])
        with pytest.raises(ConfigurationError, match="in use"):
            await app.serve()


async def test_there_is_one_health_port_and_none_of_a_mounted_app() -> None:
    app, inner, port = App("*", 0), App(), free_port()
    app.health(port=port)
    inner.health(port=port)
    with pytest.raises(ConfigurationError, match="one only"):
        app.health("/other", port=port + 1)
    with pytest.raises(ConfigurationError, match=r"health\(port=\.\.\.\)"):
        app.mount("/inner", inner)
