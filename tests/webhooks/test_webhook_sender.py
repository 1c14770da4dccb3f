"""A webhook sends its events in order, again after failures, and drops no more than its bounds say."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trustme
from support.outages import until
from support.receiver import KEY, SECRET, Receiver
from support.serving import GUARD
from support.waiting import until_blocked

from pywsapp import WebhookOptions
from pywsapp.topics.occupancy.changes import EVENT_TYPES, Change, Kind, Subject
from pywsapp.webhooks import WhenFull
from pywsapp.webhooks.sender import WebhookSender
from pywsapp.webhooks.target import sender_of

pytestmark = [pytest.mark.anyio, pytest.mark.once]
#: For tests of what does not depend on the event loop.
one_loop = pytest.mark.parametrize("anyio_backend", ["trio"])
QUICK = {"base": 0.01, "cap": 0.05}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


def change(number: int) -> Change:
    return Change(Subject(Kind.TOPIC, f"room:{number}"), is_present=True)


def names(*numbers: int) -> list[str]:
    return [f"topic_occupied room:{number}" for number in numbers]


@asynccontextmanager
async def sending(receiver: Receiver, **options: Any) -> AsyncIterator[WebhookSender]:
    made = WebhookOptions(**{**QUICK, **options})
    sender = sender_of(
        receiver.url, [SECRET, b"another secret of the site"], EVENT_TYPES, ["*"], made, allow_http=False
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sender.run)
        yield sender
        await sender.flush()
        tasks.cancel_scope.cancel()


async def test_requests_are_signed_and_say_what_happened(receiver: Receiver) -> None:
    async with sending(receiver) as sender:
        sender.add(change(1))
        sender.add(Change(Subject(Kind.USER, "ana"), is_present=False))
        await until(lambda: sender.stats.delivered == 2)
    request = receiver.requests[0]
    assert request.names == ["topic_occupied room:1", "user_offline ana"]
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"].startswith("pywsapp/")
    assert request.is_signed()
    assert request.is_signed(b"another secret of the site")
    assert not request.is_signed(b"a wrong secret that is long")
    first, second = request.events
    assert first["id"] != second["id"]
    assert first["time"].startswith("20")
    assert first["time"].endswith("Z")


async def test_a_receiver_that_was_down_gets_everything_in_order(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.stop()
    async with sending(receiver, max_batch=7) as sender:
        for number in range(50):
            sender.add(change(number))
        await until(lambda: sender.stats.failed_attempts > 2)
        receiver.answers = [(503, {}), (408, {}), (500, {}), (429, {"retry-after": "0"})]
        await anyio.to_thread.run_sync(receiver.start)
        await until(lambda: sender.stats.delivered == 50)
        assert receiver.names == names(*range(50))
        assert sender.stats._replace(failed_attempts=0) == (50, 0, 0, 0)
    first, *others = receiver.requests[:5]
    assert {request.headers["webhook-id"] for request in others} == {first.headers["webhook-id"]}
    assert "trying again in" in caplog.text
    assert "delivered after" in caplog.text
    text = caplog.text
    assert "hidden" not in text
    assert SECRET not in text
    assert SECRET[6:] not in text
    assert KEY.decode() not in text


@one_loop
async def test_a_receiver_can_ask_for_a_pause(receiver: Receiver) -> None:
    receiver.answers = [(429, {"retry-after": "1"})]
    async with sending(receiver) as sender:
        sender.add(change(1))
        await until(lambda: sender.stats.delivered)
    first, second = receiver.requests
    assert second.at - first.at >= 0.99


@one_loop
@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 404, 422])
async def test_a_refused_request_is_dropped(receiver: Receiver, status: int, caplog: pytest.LogCaptureFixture) -> None:
    receiver.answers = [(status, {"location": receiver.url})]
    async with sending(receiver) as sender:
        sender.add(change(1))
        await until(lambda: sender.stats.dropped == 1)
        sender.add(change(2))
        await until(lambda: sender.stats.delivered == 1)
    assert receiver.names == names(2)
    assert f"dropped events, because the receiver refused them with status {status} (1 so far)" in caplog.text


@one_loop
@pytest.mark.parametrize("is_trusted", [False, True], ids=["unknown authority", "known authority"])
async def test_certificates_are_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_trusted: bool) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    if is_trusted:
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with Receiver(context) as receiver:
        async with sending(receiver, flush_seconds=0.1) as sender:
            sender.add(change(1))
            await until(lambda: sender.stats.delivered or sender.stats.failed_attempts > 1)
        assert receiver.names == (names(1) if is_trusted else [])


@one_loop
async def test_status_410_ends_the_webhook(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    receiver.answers = [(410, {})]
    async with sending(receiver, max_batch=1) as sender:
        for number in range(3):
            sender.add(change(number))
        await until(lambda: sender.stats.dropped == 3)
        sender.add(change(4))
        assert sender.stats == (0, 4, 0, 0)
    assert len(receiver.requests) == 1
    assert "it gets no more events; dropped 3 events" in caplog.text


@one_loop
async def test_attempts_are_bounded(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    receiver.answers = [(503, {})] * 3
    async with sending(receiver, max_attempts=3) as sender:
        sender.add(change(1))
        await until(lambda: sender.stats.dropped == 1)
        sender.add(change(2))
        await until(lambda: sender.stats.delivered == 1)
    assert receiver.names == names(2)
    assert "3 attempts have failed: status 503" in caplog.text


async def test_a_slow_receiver_is_tried_again(receiver: Receiver) -> None:
    is_slow, goes_on = iter([True]), threading.Event()

    def wait() -> None:
        if next(is_slow, False):
            goes_on.wait(10)

    receiver.before_answer = wait
    try:
        async with sending(receiver, timeout=0.3) as sender:
            sender.add(change(1))
            await until(lambda: sender.stats.delivered == 1)
        assert sender.stats.failed_attempts >= 1
    finally:
        goes_on.set()


@one_loop
@pytest.mark.parametrize("policy", list(WhenFull))
async def test_a_backlog_is_bounded(receiver: Receiver, policy: WhenFull, caplog: pytest.LogCaptureFixture) -> None:
    receiver.stop()
    async with sending(receiver, max_batch=10, max_waiting=100, when_full=policy, base=0.05, cap=0.05) as sender:
        sender.add(change(0))
        await until(lambda: sender.stats.failed_attempts)
        for number in range(1, 4_000):
            sender.add(change(number))
        assert sender.stats.waiting == 100
        assert sender.stats.dropped == 3_900
        await anyio.to_thread.run_sync(receiver.start)
        await until(lambda: sender.stats.delivered == 100)
    kept = range(100) if policy is WhenFull.DROP_NEWEST else [0, *range(3_901, 4_000)]
    assert receiver.names == names(*kept)
    assert sum("too many wait" in line for line in caplog.messages) == 12


@one_loop
async def test_the_bytes_of_a_backlog_are_bounded(receiver: Receiver) -> None:
    receiver.stop()
    async with sending(receiver, max_waiting_bytes=1000, flush_seconds=0.05) as sender:
        for number in range(100):
            sender.add(change(number))
        assert sender.stats.waiting < 10
        assert sender._queue._size <= 1000
    assert sender.stats[:3] == (0, 100, 0)
    assert sender._queue._size == 0


@one_loop
@pytest.mark.parametrize("policy", list(WhenFull))
async def test_an_event_that_never_fits_is_dropped_alone(receiver: Receiver, policy: WhenFull) -> None:
    too_long = Change(Subject(Kind.TOPIC, "room:" + 500 * "x"), is_present=True)
    async with sending(receiver, max_waiting_bytes=400, when_full=policy) as sender:
        await until_blocked()  # the task waits for an event
        sender.add(too_long)
        await until_blocked()
        sender.add(change(1))
        sender.add(too_long)
        await until(lambda: sender.stats.delivered == 1)
        assert sender.stats.dropped == 2
    assert [request.names for request in receiver.requests] == [names(1)]


async def test_a_shutdown_sends_what_waits_without_long_pauses(receiver: Receiver) -> None:
    receiver.answers = [(503, {})]
    async with sending(receiver, base=1000, cap=1000, flush_seconds=GUARD) as sender:
        sender.add(change(1))
        await until(lambda: sender.stats.failed_attempts)
    assert sender.stats.delivered == 1


@one_loop
async def test_an_exception_of_the_client_ends_nothing(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sending(receiver) as sender:
        is_first = iter([True])
        attempt = sender._attempt

        async def fail_once(*arguments: Any) -> Any:
            if next(is_first, False):
                raise RuntimeError("a fault")
            return await attempt(*arguments)

        monkeypatch.setattr(sender, "_attempt", fail_once)
        sender.add(change(1))
        await until(lambda: sender.stats.dropped == 1)
        sender.add(change(2))
        await until(lambda: sender.stats.delivered == 1)
    assert receiver.names == names(2)
    assert "RuntimeError: a fault" in caplog.text


@one_loop
async def test_a_client_that_cannot_be_opened_does_not_block_the_event_loop(caplog: pytest.LogCaptureFixture) -> None:
    attempts = 0

    def fail(url: str, seconds: float) -> Any:
        nonlocal attempts
        attempts += 1
        if attempts > 10:
            raise SystemExit("the event loop is blocked")
        raise RuntimeError("no client")

    made = sender_of("https://site.example/hooks", SECRET, EVENT_TYPES, ["*"], None, allow_http=False)
    sender = WebhookSender(made.target, WebhookOptions(), fail)
    sender.add(change(1))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sender.run)
        await until(lambda: sender.stats.dropped == 1)
        tasks.cancel_scope.cancel()
    assert attempts == 1
    assert "no client" in caplog.text
