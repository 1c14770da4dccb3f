"""The status page: who may see it, what a snapshot has, and what its users can do."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import Any

import anyio
import anyio.to_thread
import pytest
from support.serving import GUARD
from support.status_pages import answer, app_of, snapshot
from support.user_rooms import by_query
from support.waiting import until_blocked

from pywsapp import App, ConfigurationError, EchoServer
from pywsapp._status import service as module
from pywsapp.auth import public
from pywsapp.codecs import MessagePackCodec
from pywsapp.routing.guards import log_guards
from pywsapp.testing import AppServer, TestClient, two_nodes

pytestmark = [pytest.mark.anyio, pytest.mark.once]


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.02)
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.1)


async def test_a_snapshot_has_connections_topics_routes_and_handlers() -> None:
    async with (
        TestClient(app_of()) as client,
        client.connect("/rooms/1?ana") as ana,
        client.connect("/status?root") as page,
    ):
        ana.send("hello")
        await ana.receive()
        found = await snapshot(page, lambda one: one["total"]["messages_received"])
    assert found["can_disconnect"] is False
    assert found["total"]["connections"] == 2
    assert found["topics"] == [["room:<b>1</b>", 1]]
    assert [(one["user"], one["path"], one["route"], one["topics"]) for one in found["connections"]] == [
        ("root", "/status", "/status", 0),
        ("ana", "/rooms/1", "/rooms/{name}", 1),
    ]
    assert 0 <= found["connections"][0]["seconds"] < GUARD
    assert {one["route"]: one["received"] for one in found["routes"]} == {"/rooms/{name}": 1, "/status": 0}
    assert [(one["route"], one["calls"]) for one in found["handlers"]] == [("/rooms/{name}", 1)]
    assert [one["connections"] for one in found["workers"]] == [2]
    assert found["broker"] is None


async def test_errors_of_handlers_and_limits_are_shown() -> None:
    async with TestClient(app_of(), raise_handler_errors=False) as client, client.connect("/status?root") as page:
        async with client.connect("/rooms/1?ana") as ana:
            ana.send("fail")
            await ana.assert_closed(1011)
        found = await snapshot(page, lambda one: one["errors"] and one["closed"])
    [error] = found["errors"]
    assert (error["level"], error["event"]) == ("ERROR", "handler.failed")
    assert error["text"].endswith("ValueError: a secret of the handler")
    assert found["closed"] == {"1011": 1}


async def test_the_page_is_a_file_that_runs_nothing_but_its_own_script() -> None:
    async with TestClient(app_of()) as client:
        response = await client.get("/status?root")
        assert (await client.get("/status")).status == 401
    assert response.headers["cache-control"] == "no-store"
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "innerHTML" not in response.text


def test_its_guard_is_no_reason_to_warn_of_other_routes(caplog: pytest.LogCaptureFixture) -> None:
    app = App()
    app.route("/echo", EchoServer())
    app.status(guard=by_query)
    log_guards(app.router)
    assert caplog.messages == []
    app.route("/rooms", EchoServer(), authenticate=by_query)
    log_guards(app.router)
    assert [message.count("/status") for message in caplog.messages] == [0]


async def test_a_page_of_another_origin_cannot_connect() -> None:
    async with TestClient(app_of()) as client:
        await client.assert_refused("/status?root", 403, headers={"Origin": "https://evil.example"})
        await client.assert_refused("/status", 401)


@pytest.mark.parametrize(("address", "status"), [("10.1.2.3", 200), ("192.0.2.1", 403)])
async def test_only_addresses_of_the_guard_may_see_the_page(address: str, status: int) -> None:
    async with TestClient(app_of(guard=["10.0.0.0/8"])) as client:
        assert (await client.get("/status", address=address)).status == status
        if status == 200:
            async with client.connect("/status", address=address) as page:
                assert (await snapshot(page))["total"]["connections"] == 1
        else:
            await client.assert_refused("/status", 403, address=address)


def get(url: str, headers: dict[str, str]) -> tuple[int, str]:
    """Return the status and the text of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read().decode()


@pytest.mark.parametrize("trusted", [(), ("127.0.0.1", "::1")], ids=["unknown", "trusted"])
@pytest.mark.parametrize("path", ["/status", "/metrics"])
async def test_requests_of_a_proxy_that_the_app_does_not_know_are_refused(path: str, trusted: tuple[str, ...]) -> None:
    app = App(port=0, trusted_proxies=trusted)
    app.status(guard=["127.0.0.1", "::1"])
    app.metrics(guard=["127.0.0.1", "::1"])
    async with AppServer(app) as server:
        answer = await anyio.to_thread.run_sync(get, server.url + path, {})
        assert answer[0] == 200
        for hops in ("203.0.113.5", "127.0.0.1, 203.0.113.5"):  # a client has sent the first entry
            status, text = await anyio.to_thread.run_sync(get, server.url + path, {"X-Forwarded-For": hops})
            assert status == 403
            assert ("add its address to trusted_proxies" in text) == (trusted == ())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"write who may see it: app.status\(guard=...\)"),
        ({"guard": "10.0.0.0/8"}, r"write \['10.0.0.0/8'\]"),
        ({"guard": ["example.com"]}, "example.com"),
        ({"guard": []}, "empty list"),
        ({"guard": 5}, "or a list of IP addresses and networks, not 5"),
        ({"guard": "public"}, "or a list of IP addresses and networks, not 'public'"),
        ({"guard": public, "can_disconnect": True}, "needs to know who disconnects"),
        ({"guard": ["127.0.0.1"], "can_disconnect": True}, "needs to know who disconnects"),
        ({"guard": public, "path": "/status/{name}"}, "no parameters"),
    ],
    ids=["no guard", "text", "no address", "no entry", "no list", "name", "public", "addresses", "parameters"],
)
def test_arguments_that_are_not_possible(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        App().status(**arguments)


async def test_a_page_for_reading_disconnects_nothing() -> None:
    async with (
        TestClient(app_of()) as client,
        client.connect("/rooms/1?ana") as ana,
        client.connect("/status?root") as page,
    ):
        row = (await snapshot(page))["connections"][1]
        action = {"action": "disconnect", "process": row["process"], "connection": row["id"]}
        assert await answer(page, action) == ("failed", "this page is for reading only")
        assert (await answer(page, {"action": "disconnect_user", "user": "ana"}))[0] == "failed"
        ana.send("still open")
        assert await ana.receive() == "still open"


async def test_a_connection_and_a_user_are_disconnected(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pywsapp")
    async with (
        TestClient(app_of(can_disconnect=True)) as client,
        client.connect("/rooms/1?ana") as first,
        client.connect("/rooms/2?ana") as second,
        client.connect("/status?root") as page,
    ):
        found = await snapshot(page)
        assert found["can_disconnect"] is True
        row = next(one for one in found["connections"] if one["path"] == "/rooms/1")
        action = {"action": "disconnect", "process": row["process"], "connection": row["id"]}
        assert (await answer(page, action))[0] == "done"
        await first.assert_closed(3503)
        assert await answer(page, action) == ("failed", "the connection has ended already")
        second.send("still open")
        assert await second.receive() == "still open"
        assert (await answer(page, {"action": "disconnect_user", "user": "ana"}))[0] == "done"
        await second.assert_closed(3503)
    done = [
        (vars(one)["by"], vars(one)["user"])
        for one in caplog.records
        if getattr(one, "event", "") == "status.disconnected"
    ]
    assert done == [("root", "ana"), ("root", "ana")]


NO_ACTIONS: list[Any] = [
    [],
    "x",
    {},
    {"action": "shutdown"},
    {"action": "disconnect", "process": 1, "connection": 1},
    {"action": "disconnect", "process": "0123456789abcdef", "connection": 1},
    {"action": "disconnect", "process": "0123456789abcdef", "connection": True},
    {"action": "disconnect_user"},
    {"action": "disconnect_user", "user": ""},
    {"action": "disconnect_user", "user": "x" * 201},
    {"action": "disconnect_user", "user": "x" * 2001},
]


async def test_an_action_that_is_none_is_refused() -> None:
    async with TestClient(app_of(can_disconnect=True)) as client, client.connect("/status?root") as page:
        for action in NO_ACTIONS:
            assert (await answer(page, action))[0] == "failed"
        page.send("[" * 1000)
        page.send(b"{}")
        assert (await answer(page, {}))[0] == "failed"


async def test_processes_of_a_broker_are_shown_together_and_reached() -> None:
    async with (
        two_nodes(lambda: app_of(can_disconnect=True)) as (here, there),
        here.connect("/rooms/1?ana") as ana,
        there.connect("/rooms/1?ben") as ben,
        here.connect("/status?root") as page,
    ):
        found = await snapshot(page, lambda one: len(one["workers"]) == 2)
        assert found["topics"] == [["room:<b>1</b>", 2]]
        assert found["total"]["connections"] == 3
        assert found["broker"]["connected"] == 2
        row = next(one for one in found["connections"] if one["user"] == "ben")
        assert row["process"] == there.app.topics.codec.origin
        action = {"action": "disconnect", "process": row["process"], "connection": row["id"]}
        assert (await answer(page, action))[0] == "done"
        await ben.assert_closed(3503)
        await snapshot(page, lambda one: one["total"]["connections"] == 2)
        async with there.connect("/rooms/1?ana") as other:
            assert (await answer(page, {"action": "disconnect_user", "user": "ana"}))[0] == "done"
            await other.assert_closed(3503)
            await ana.assert_closed(3503)


async def test_a_process_that_ends_is_dropped_at_once() -> None:
    async with two_nodes(app_of) as (here, there), here.connect("/status?root") as page:
        await snapshot(page, lambda one: len(one["workers"]) == 2)
        there.app.stop()
        found = await snapshot(page, lambda one: len(one["workers"]) == 1)
        assert found["workers"][0]["process"] == here.app.topics.codec.origin


async def test_nothing_runs_while_no_page_is_open() -> None:
    async with TestClient(app_of()) as client:
        app = client.app
        answers = f"$pywsapp:status:{app.topics.codec.origin}"
        for _ in range(2):
            async with client.connect("/status?root") as page:
                tasks = (await snapshot(page))["total"]["tasks"]
                assert answers in app.topics.process_events
            with anyio.fail_after(GUARD):
                while answers in app.topics.process_events:
                    await until_blocked()
            assert app.stats().process.tasks < tasks


async def test_a_mounted_app_shows_the_outer_one() -> None:
    app, inner = App(), App()
    app.route("/echo", EchoServer())
    inner.status(guard=public)
    app.mount("/inner", inner)
    async with TestClient(app) as client, client.connect("/echo"), client.connect("/inner/status") as page:
        assert {one["route"] for one in (await snapshot(page))["routes"]} == {"/echo", "/inner/status"}


async def test_the_codec_of_the_app_does_not_change_the_page() -> None:
    app = App(codec=MessagePackCodec())
    app.status(guard=public)
    async with TestClient(app) as client, client.connect("/status") as page:
        assert (await snapshot(page))["total"]["connections"] == 1
