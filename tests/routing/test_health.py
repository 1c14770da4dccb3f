"""The health check, and the drain delay in which it tells a load balancer that the server shuts down."""

from __future__ import annotations

import json
import logging
import time

import anyio
import pytest
from support.serving import CLOSE
from support.wire import HttpResponse, Site, get, handshake, peer_of, running

from pywsapp import App, ConfigurationError, Options

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
        assert time.monotonic() - began >= 0.7
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
    with anyio.fail_after(20):
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
