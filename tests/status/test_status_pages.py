"""Several pages of an App, pages of mounted Apps, and processes that begin or end while a page is open."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from support.status_pages import answer, app_of, snapshot
from support.user_rooms import by_query

from pywsapp import App, EchoServer, __version__
from pywsapp._status import service as module
from pywsapp._status.reports import Report, make_report
from pywsapp.auth import public
from pywsapp.brokers.envelope import Envelope, EnvelopeError
from pywsapp.brokers.memory import MemoryBroker
from pywsapp.testing import TestClient, two_nodes

pytestmark = [pytest.mark.anyio, pytest.mark.once]


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.02)
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.1)


def with_two_pages() -> App:
    app = app_of(can_disconnect=True)
    app.status("/public", guard=public)
    return app


def has_two(found: Any) -> bool:
    return len(found["workers"]) == 2


async def test_two_pages_of_an_app_have_their_own_guards_and_actions() -> None:
    async with (
        two_nodes(with_two_pages) as (here, there),
        there.connect("/rooms/1?ben") as ben,
        here.connect("/status?root") as admins,
        here.connect("/public") as visitors,
    ):
        row = next(one for one in (await snapshot(visitors, has_two))["connections"] if one["user"] == "ben")
        action = {"action": "disconnect", "process": row["process"], "connection": row["id"]}
        assert await answer(visitors, action) == ("failed", "this page is for reading only")
        assert (await snapshot(visitors))["can_disconnect"] is False
        assert (await snapshot(admins, has_two))["can_disconnect"] is True
        assert (await answer(admins, action))[0] == "done"
        await ben.assert_closed(3503)
        await visitors.close()
        for _ in range(5):  # the page that is left goes on
            assert has_two(await snapshot(admins))


async def test_pages_of_an_app_and_of_a_mounted_one_show_the_same() -> None:
    def make() -> App:
        app, inner = App(), App()
        inner.status(guard=public)
        app.status("/outer", guard=by_query, can_disconnect=True)
        app.mount("/inner", inner)
        inner.status("/second", guard=public)
        return app

    async with (
        two_nodes(make) as (here, there),
        here.connect("/outer?root") as outer,
        here.connect("/inner/status") as inner,
        there.connect("/inner/second") as second,
    ):
        for page, can_disconnect in ((outer, True), (inner, False), (second, False)):
            found = await snapshot(page, has_two)
            assert found["can_disconnect"] is can_disconnect


async def test_a_process_that_has_ended_does_not_answer_any_more() -> None:
    def make() -> App:
        app = app_of()
        app.on_shutdown(ended.wait)
        return app

    ended = anyio.Event()
    async with two_nodes(make) as (here, there), here.connect("/status?root") as page:
        await snapshot(page, has_two)
        there.app.stop()
        await snapshot(page, lambda found: not has_two(found))
        for _ in range(5):
            assert not has_two(await snapshot(page))
        ended.set()


async def test_without_the_broker_the_page_does_not_claim_success(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = MemoryBroker()
    monkeypatch.setattr("pywsapp.testing.nodes.MemoryBroker", lambda: broker)
    async with (
        two_nodes(lambda: app_of(can_disconnect=True)) as (here, there),
        there.connect("/rooms/1?ben"),
        here.connect("/status?root") as page,
    ):
        found = await snapshot(page, lambda one: has_two(one) and one["total"]["connections"] == 2)
        row = next(one for one in found["connections"] if one["user"] == "ben")
        broker.available = False
        broker.disconnect()
        action = {"action": "disconnect", "process": row["process"], "connection": row["id"]}
        assert await answer(page, action) == (
            "failed",
            "the broker is not available, so the connection may be left",
        )


async def test_the_log_names_an_operator_whom_the_app_does_not_know(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pywsapp")
    app = App(user_key=lambda user: user.number)  # the users of the App have numbers, the operator has a name
    app.route("/echo", EchoServer(), authenticate=public)
    app.status(guard=by_query, can_disconnect=True)
    async with TestClient(app) as client, client.connect("/echo") as conn, client.connect("/status?root") as page:
        row = next(one for one in (await snapshot(page))["connections"] if one["path"] == "/echo")
        action = {"action": "disconnect", "process": row["process"], "connection": row["id"]}
        assert (await answer(page, action))[0] == "done"
        await conn.assert_closed(3503)
    assert [vars(one)["by"] for one in caplog.records if getattr(one, "event", "") == "status.disconnected"] == ["root"]


async def test_a_busy_process_sends_no_snapshot_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    reports = 0

    async def make_slowly(*arguments: Any) -> Report:
        nonlocal reports
        reports += 1
        await anyio.sleep(2 * module.INTERVAL)
        return await make_report(*arguments)

    monkeypatch.setattr(module, "make_report", make_slowly)
    async with TestClient(app_of()) as client, client.connect("/status?root") as page:
        for number in range(1, 5):
            await snapshot(page)
            assert number <= reports


async def test_a_report_of_another_version_is_left_out_without_a_warning() -> None:
    async with two_nodes(app_of) as (here, _), here.connect("/status?root") as page:
        await snapshot(page, has_two)
        topics, number = here.app.topics, here.app._runner.hooks.status._number
        event = {"status": "report", "number": number, "version": "0.0.0", "report": ["other", "numbers"]}
        envelope = Envelope(f"$pywsapp:status:{topics.codec.origin}", None, "0123456789abcdef", event)
        topics.process_events.receive(envelope)
        event["version"] = __version__
        with pytest.raises(EnvelopeError):
            topics.process_events.receive(envelope)
        assert has_two(await snapshot(page))
